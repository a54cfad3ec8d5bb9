"""The texts of a run's report: its bottleneck and its warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping

from indexer.cores import cores
from indexer.types import StageTime

CPU_DECODER = "cpu-2"  # PixelSpec.decoder of every image that no GPU decoded
LEAST_SHARE = 0.5  # of the run's time; the reader or the writer is the bottleneck only where it is busy for longer
LEAST_USED = 0.95  # of the run's time; a GPU busy for longer is the bottleneck, however busy the cores are
ALONE = {  # stages with threads of their own, and the remedy for each
    "store": "put the database on a faster disk",
    "read": "put the shards on a faster disk or nearer",
}
CLOSE_COSINE = 0.99  # to fp32; below it, near neighbours may change places
COLLAPSED_COSINE = 0.9999  # mean over all pairs; trained encoders stay well below on any archive


def bottleneck(
    stages: tuple[StageTime, ...],
    seconds: float,
    *,
    device: str,
    decoder: str = CPU_DECODER,
    kept: int = 0,
    computed: float | None = None,
) -> str:
    """One line that names the run's bottleneck and a remedy; `kept` images needed no encoder.

    `device` is the encoder's, `decoder` its PixelSpec's; GPUs computed for `computed` seconds. A stage's share is its
    busy time divided by the time of its own threads: the readers, one for the writer, the workers for decoding and for
    a model on the CPU, one for each GPU.
    """
    busy = {s.name: s.busy_seconds for s in stages}
    threads = {s.name: s.threads for s in stages}
    workers = threads["decode"]
    work = busy["decode"] + busy["encode"]
    if seconds <= 0 or busy["encode"] <= 0:  # e.g. every image failed: no advice would help
        return "no new image: every vector was kept from before" if kept else "nothing was embedded"
    worked = min(work / (workers * seconds), 1.0)
    for name, remedy in ALONE.items():
        share = busy[name] / (threads[name] * seconds)
        if share > max(LEAST_SHARE, worked):
            return f"{name}-bound: {_share(share, 1)} of the time; {remedy}"
    if device != "cpu":
        encoding = busy["encode"] if computed is None else computed
        return _with_gpus(busy["decode"], encoding, seconds, gpus=device.count(",") + 1, decoder=decoder)
    more = f"{cores()} more {plural('core', cores())}"
    if busy["decode"] > busy["encode"]:
        remedy = f"{more} would halve it, or --decoder gpu for JPEG on a machine with a GPU"
        return f"decode-bound: {_share(busy['decode'], work)} of the workers' time; {remedy}"
    remedy = f"a GPU (--device cuda), or {more} to halve it"
    return f"model-bound: {_share(busy['encode'], work)} of the workers' time; {remedy}"


def _with_gpus(decode: float, encode: float, seconds: float, *, gpus: int, decoder: str) -> str:
    """`encode`: seconds for which the GPUs computed; the time of the stage is about that while decoding is slower."""
    decoding, used = min(decode / (cores() * seconds), 1.0), min(encode / (gpus * seconds), 1.0)
    if used >= min(decoding, LEAST_USED):
        remedy = f"{gpus} more {plural('GPU', gpus)} would halve it"
        return f"model-bound: {plural('GPU', gpus)} busy {_share(used, 1)} of the time; {remedy}"
    if decoder != CPU_DECODER:
        return f"decode-bound: {plural('GPU', gpus)} busy {_share(used, 1)} of the time; {gpus} more to decode on"
    more = max(1, math.ceil(cores() * (1 / max(used, 0.01) - 1)))
    measured = f"{_share(decoding, 1)} of the cores' time, {plural('GPU', gpus)} busy {_share(used, 1)}"
    return f"decode-bound: {measured}; {more} more {plural('core', more)}, or --decoder gpu for JPEG"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"


def plural(noun: str, count: int) -> str:
    return noun if count == 1 else f"{noun}s"


def stage_times(busy: Mapping[str, float], *, workers: int, readers: int = 1) -> tuple[StageTime, ...]:
    threads = {"read": readers, "decode": workers, "encode": workers, "store": 1}
    return tuple(StageTime(name, busy.get(name, 0.0), n) for name, n in threads.items())


def spread_warning(mean_cosine: float | None) -> list[str]:
    """A warning where the mean cosine is so high that the encoder maps all images to about one vector; else none."""
    if mean_cosine is None or mean_cosine < COLLAPSED_COSINE:
        return []
    return [
        f"all vectors are nearly alike (mean cosine {mean_cosine:.6f}): the encoder has collapsed, or all images are "
        "the same. Check its weights before using this table."
    ]


def headers_words(images: int) -> str:
    """That DICOM files were indexed of which no header was read, and what follows."""
    return (
        f"{images} DICOM {plural('file', images)} came without metadata: `indexer index` reads no headers, so no "
        "patient, study, series or modality is known to split, filter or exclude by, and their paths, which often hold "
        "names and UIDs, stand in clear in the keys. `indexer pack SRC DEST` reads headers and hashes identifiers"
    )


def precision_warning(cosine: float | None) -> list[str]:
    """A warning where reduced precision changed a sampled vector by more than CLOSE_COSINE allows; else none."""
    if cosine is None or cosine >= CLOSE_COSINE:
        return []
    return [
        f"on one of the sampled images the reduced precision moved the vector to a cosine of {cosine:.3f} to fp32. "
        "If near neighbours matter that much, index into a new table with --precision fp32."
    ]
