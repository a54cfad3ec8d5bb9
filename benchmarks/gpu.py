"""Images a second on real GPUs, from JPEG files of 512 px: decoding alone, the models alone, and whole runs.

Four encoders: compiled by torch.compile and not, decoded on the CPU and (`--decoder gpu`) on the GPU. Needs a GPU;
without one it says so and exits with 2. Goals: whole runs at 0.9 of the slower of decoding and model, ViT-B/32 at
15,000 images/s and ViT-L/14 at 2,500 (on an H100), cosine to fp32 at least 0.999.

The rate of a whole run is that of its middle, since its processes take seconds to start and an archive takes hours;
`images_per_second_with_start` has all of it. The archive holds some thousands of different pictures many times,
under different keys: each is read, hashed, decoded and embedded again. The result is written after each run, to
benchmarks/results/gpu-<the device's name>.json. On a bare machine with torch 2.11 and no network the wheels of lancedb,
pylance, open_clip_torch, webdataset, simplejpeg, torchcodec and what they need must be brought.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.provenance import RESULTS, provenance
from benchmarks.stages import first_images, full_batches, side_by_side
from benchmarks.synthetic import shards
from benchmarks.throughput import CEILING_GOALS

ENCODERS = ("open_clip:ViT-B-32", "open_clip:ViT-L-14", "open_clip:RN50", "torchvision:resnet50")
RATE_GOALS = {"open_clip:ViT-B-32": 15_000, "open_clip:ViT-L-14": 2_500}  # on an H100
COSINE_GOAL = 0.999
NO_GPU = 2  # exit code
SIDE, PART_IMAGES, COPIES = 512, 1000, 12
DECODER_SECONDS = 3.0  # and of the model alone, by so many threads:
CALLING = 4
MIDDLE = (0.25, 0.9)  # of the images of a whole run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each whole run, about")
    parser.add_argument("--encoder", action="append", help=f"default: {', '.join(ENCODERS)}")
    parser.add_argument("--device", default="cuda", help="cuda (every visible one) or cuda:N")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--processes", type=int, action="append", help="that decode; others for the first encoder")
    parser.add_argument("--eager", action="store_true", help="whole runs without torch.compile, of every encoder")
    parser.add_argument("--archive", type=Path, help="where the synthetic shards are kept between runs")
    parser.add_argument("--out", type=Path, help="default: in benchmarks/results")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    args = parser.parse_args()
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # asks without starting CUDA: processes are forked first
    import torch

    if not torch.cuda.is_available():
        print(
            "no GPU is visible here: nothing was measured. Run this on a machine with an NVIDIA GPU.", file=sys.stderr
        )
        return NO_GPU
    decoders = ["cpu", "gpu"] if find_spec("torchcodec") else ["cpu"]
    if len(decoders) == 1:
        print("torchcodec is not installed: --decoder gpu is not measured", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.archive or Path(scratch)
        files = archive(folder)
        names = args.encoder or list(ENCODERS)
        decoding = decoded_alone(files[0].parent, names, decoders, args.device)
        rows: list[dict[str, Any]] = []
        result: dict[str, Any] = {}
        for compiled in (True, False):
            for name in names:
                for row in measured(files, name, decoding[name], args, compiled=compiled):
                    rows.append(row)
                    result = kept(rows, args.out)
                    print(table({**result, "runs": [row], "missed": []}).splitlines()[2], file=sys.stderr)
    print(json.dumps(result) if args.json else table(result))
    return int(bool(result["missed"]))


def archive(folder: Path) -> list[Path]:
    """Shards of different pictures, made by all cores, each under COPIES names."""
    parts = len(os.sched_getaffinity(0))
    with get_context("fork").Pool(parts) as pool:
        made = pool.starmap(shards, [(folder / f"{i:02d}", PART_IMAGES, (SIDE,), i) for i in range(parts)])
    found = []
    for copy in range(COPIES):
        for part, paths in enumerate(made):
            for path in paths:
                link = folder / f"copy-{copy:02d}" / f"{part:02d}" / path.name
                link.parent.mkdir(parents=True, exist_ok=True)
                if not link.exists():
                    os.link(path, link)
                found.append(link)
    return found


def decoded_alone(
    folder: Path, encoders: Sequence[str], decoders: Sequence[str], device: str
) -> dict[str, dict[str, float]]:
    """Encoder → decoder → images a second; those of one kind of square are measured once."""
    from indexer.encoders.families.weights import parse
    from indexer.encoders.loading import find

    images = first_images(folder, 250)
    specs = {name: find(name, parse("random")).spec.pixels for name in encoders}
    rates = {spec: decoded_by(images, spec, decoders, device) for spec in set(specs.values())}
    return {name: rates[spec] for name, spec in specs.items()}


def decoded_by(images: list[bytes], spec: Any, decoders: Sequence[str], device: str) -> dict[str, float]:
    """Images a second by each decoder: on the CPU one process a core; one process has the GPUs, as in a run."""
    from indexer.cores import cores

    rates = {}
    for decoder in decoders:
        context = get_context("fork")  # CUDA is not started in this process yet
        processes = cores() if decoder == "cpu" else 1
        results, together = context.SimpleQueue(), context.Barrier(processes)
        work = _decode_on_cpu if decoder == "cpu" else partial(_decode_on_gpus, device)
        children = [
            context.Process(target=work, args=(images, spec, i, together, results)) for i in range(processes)
        ]  # fmt: skip
        for child in children:
            child.start()
        for child in children:
            child.join()
            if child.exitcode:
                sys.exit(f"decoding alone on the {decoder} failed")
        rates[decoder] = sum(results.get() for _ in children)
    return rates


def _decode_on_cpu(images: list[bytes], spec: Any, number: int, together: Any, results: Any) -> None:
    """One process of `decoded_by`; puts its images a second into `results`."""
    from indexer.encoders.backends.cpu import use_one_thread_beside_others
    from indexer.pixels import decode

    use_one_thread_beside_others()
    list(decode(images[0], "jpg", spec))
    together.wait()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < DECODER_SECONDS:
        list(decode(images[(17 * number + done) % len(images)], "jpg", spec))
        done += 1
    results.put(done / (time.perf_counter() - start))


def _decode_on_gpus(
    device: str, images: list[bytes], spec: Any, number: int, together: Any, results: Any  # noqa: ARG001 - as the other
) -> None:  # fmt: skip
    """The same by all callers of the GPUs' decoders."""
    import torch

    from indexer.encoders.backends.device import devices
    from indexer.pixels.jpeg.gpu import CALLERS, GpuDecoder

    gpus = [torch.device(name) for name in devices(device)]
    decoder, at_once = GpuDecoder(gpus, spec), 125
    decoder.squares(images[:at_once])

    def work(worker: int) -> int:
        end, done = time.perf_counter() + DECODER_SECONDS, 0
        while time.perf_counter() < end:
            batch = [images[(17 * worker + done + i) % len(images)] for i in range(at_once)]
            if any(square is None for square in decoder.squares(batch)):
                sys.exit("an image was left to the CPU")
            done += at_once
        return done

    results.put(side_by_side(work, 2 * CALLERS * len(gpus))["images_per_second"])


def measured(
    files: list[Path], name: str, decoding: dict[str, float], args: argparse.Namespace, *, compiled: bool
) -> list[dict[str, Any]]:
    """The model alone, and whole runs by each decoder; not compiled, only with --eager."""
    from indexer.encoders import load, precision_check
    from indexer.encoders.loading import GPU_DECODER

    start = time.perf_counter()
    encoder = load(name, weights="random", precision=args.precision, device=args.device, compiled=compiled)
    row: dict[str, Any] = {
        "encoder": name,
        "compiled": compiled,
        "load_seconds": time.perf_counter() - start,
        "batch_size": encoder.batch_size,
        "device": encoder.device,
        "model_images_per_second": full_batches(encoder, DECODER_SECONDS, CALLING)["images_per_second"],
        "cosine_to_fp32": precision_check(encoder, pictures(files[0], encoder.spec.pixels)),
    }
    rows = []
    if compiled or args.eager:
        counts = (args.processes or [None])[: None if name == (args.encoder or ENCODERS)[0] else 1]
        for decoder, rate, processes in [(*one, count) for one in decoding.items() for count in counts]:
            other = replace(encoder.spec.pixels, decoder=GPU_DECODER)
            top = min(rate, row["model_images_per_second"])
            run = whole_run(
                files, encoder if decoder == "cpu" else encoder.with_pixels(other), top, args.seconds, processes
            )
            rows.append(row | run | {
                "decoder": decoder,
                "processes": processes,
                "decode_images_per_second": rate,
                "ceiling_images_per_second": top,
                "end_to_end_over_ceiling": run["end_to_end_images_per_second"] / top,
            })  # fmt: skip
    return rows or [row]


def pictures(path: Path, spec: Any) -> Any:
    from indexer.pixels import decode

    return np.stack([next(decode(data, "jpg", spec)).pixels for data in first_images(path.parent, 16)])


class Pace:
    """Implements `types.Progress`: when how many images were embedded."""

    def __init__(self) -> None:
        self.told: list[tuple[float, int]] = []

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[object]:  # noqa: ARG002 - the protocol's
        return nullcontext()

    def advance(self, n: int = 1, **counts: int) -> None:  # noqa: ARG002 - the protocol's
        if images := counts.get("images"):
            self.told.append((time.perf_counter(), images))

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    @property
    def images_per_second(self) -> float:
        """Of the middle: until the last process has started, and once the first has no more work, less is done."""
        last = self.told[-1][1]
        middle = [one for one in self.told if MIDDLE[0] * last <= one[1] <= MIDDLE[1] * last] or self.told
        (start, first), (end, most) = middle[0], middle[-1]
        return (most - first) / (end - start) if end > start else 0.0  # where all was told at once


def whole_run(
    files: list[Path], encoder: Any, expected: float, seconds: float, processes: int | None
) -> dict[str, Any]:
    """index() into a fresh table, of so many shards as take about so many seconds at the expected rate."""
    from indexer.archive.shards import find_shards
    from indexer.pipeline.options import RunOptions
    from indexer.pipeline.run import Hooks, index
    from indexer.store.table import EmbeddingStore
    from indexer.types import KeyRule

    shards_a_part = len({path.name for path in files})
    count = int(seconds * expected / (PART_IMAGES / shards_a_part)) + 1
    pace, computed = Pace(), encoder.device_seconds or 0.0
    with tempfile.TemporaryDirectory() as db:
        store = EmbeddingStore.create(db, "t", encoder.spec, KeyRule(prefix=3))
        found = find_shards([str(path) for path in files[:count]]).shards
        options = RunOptions(processes=processes, max_failures=0.0)
        report = index(found, store, encoder, options, Hooks(pace))
    if report.failed:
        sys.exit(f"{report.failed} images failed: {report.reasons}")
    return {
        "images": report.embedded,
        "end_to_end_images_per_second": pace.images_per_second or report.images_per_second,
        "images_per_second_with_start": report.images_per_second,
        "busy_seconds": {s.name: s.busy_seconds for s in report.stages},
        "gpu_busy_seconds": (encoder.device_seconds or 0.0) - computed,
        "threads": {s.name: s.threads for s in report.stages},
        "seconds": report.seconds,
        "bottleneck": report.bottleneck,
        "decoder_difference": report.decoder_difference,
    }


def kept(rows: list[dict[str, Any]], out: Path | None) -> dict[str, Any]:
    """The result so far, as it is written."""
    result = {**provenance("cuda"), "side": SIDE, "runs": rows, "missed": missed(rows)}
    name = re.sub(r"[^a-z0-9]+", "-", result["machine"]["gpus"][0].lower()).strip("-")
    path = out or RESULTS / f"gpu-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result


def missed(rows: list[dict[str, Any]]) -> list[str]:
    """The goals that were not reached: of each run, and of an encoder's best one."""
    words = []
    for row in rows:
        if row["cosine_to_fp32"] < COSINE_GOAL:
            words.append(f"{row['encoder']} cosine {row['cosine_to_fp32']:.5f} < {COSINE_GOAL}")
        if row["compiled"] and row.get("end_to_end_over_ceiling", 1.0) < CEILING_GOALS["gpu"]:
            ratio = row["end_to_end_over_ceiling"]
            words.append(f"{row['encoder']} {row['decoder']} {ratio:.3f} < {CEILING_GOALS['gpu']} of the ceiling")
    for name, goal in RATE_GOALS.items():
        rates = [row.get("end_to_end_images_per_second", 0.0) for row in rows if row["encoder"] == name]
        if rates and max(rates) < goal:
            words.append(f"{name} {max(rates):.0f} < {goal} images/s")
    return words


def table(result: dict[str, Any]) -> str:
    head = f"{', '.join(result['machine']['gpus'])}; {result['machine']['cores']} cores; JPEG of {result['side']} px"
    rates = "".join(f"{name:>10}" for name in ("decode/s", "model/s", "whole/s"))
    lines = []
    for r in result["runs"]:
        line = f"{r['encoder']:<22}{'yes' if r['compiled'] else 'no':>9}"
        if "decoder" in r:
            line += (
                f"{r['decoder']:>8}{r['decode_images_per_second']:>10.0f}{r['model_images_per_second']:>10.0f}"
                f"{r['end_to_end_images_per_second']:>10.0f}{r['end_to_end_over_ceiling']:>7.3f}"
                f"{r['cosine_to_fp32']:>9.5f}  {r['bottleneck']}"
            )
        else:
            line += f"{'':>18}{r['model_images_per_second']:>10.0f}{'':>17}{r['cosine_to_fp32']:>9.5f}"
        lines.append(line)
    title = f"{'encoder':<22}{'compiled':>9}{'decoder':>8}{rates}{'ratio':>7}{'cosine':>9}"
    ends = [f"goal missed: {words}" for words in result["missed"]] or ["every goal is met"]
    return "\n".join([head, title, *lines, *ends])


if __name__ == "__main__":
    sys.exit(main())
