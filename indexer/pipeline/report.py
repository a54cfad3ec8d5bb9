"""What a run did, in a record and in words."""

from __future__ import annotations

from collections.abc import Mapping

from indexer.types import StageTime

COLLAPSED_COSINE = 0.9999  # mean over all pairs; trained encoders stay well below on any archive


def bottleneck(stages: tuple[StageTime, ...], seconds: float, *, device: str) -> str:
    """Which stage the run waited for, and one thing to do about it."""
    busy = {s.name: s.busy_seconds for s in stages}
    work = busy["decode"] + busy["encode"]
    if seconds <= 0 or work <= 0:
        return "nothing was embedded"
    if busy["store"] > 0.5 * seconds:
        return f"store-bound: {_share(busy['store'], seconds)} of the time; put the database on a faster disk"
    if busy["read"] > 0.8 * seconds:
        return f"read-bound: {_share(busy['read'], seconds)} of the time; put the shards on a faster disk or nearer"
    if busy["decode"] > busy["encode"]:
        remedy = "store smaller images, or use more cores"
        return f"decode-bound: {_share(busy['decode'], work)} of the workers' time; {remedy}"
    remedy = "use a GPU (--device cuda) or a smaller encoder" if device == "cpu" else "use a second GPU"
    return f"model-bound: {_share(busy['encode'], work)} of the workers' time; {remedy}"


def _share(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f} %"


def stage_times(busy: Mapping[str, float], *, workers: int) -> tuple[StageTime, ...]:
    threads = {"read": 1, "decode": workers, "encode": workers, "store": 1}
    return tuple(StageTime(name, busy.get(name, 0.0), n) for name, n in threads.items())


def spread_warning(mean_cosine: float | None) -> list[str]:
    """A collapsed encoder maps everything to one vector: searches and probes on it are noise."""
    if mean_cosine is None or mean_cosine < COLLAPSED_COSINE:
        return []
    return [
        f"all vectors are nearly alike (mean cosine {mean_cosine:.6f}): the encoder has collapsed, or all images are "
        "the same. Check its weights before using this table."
    ]
