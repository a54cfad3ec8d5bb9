"""How near does indexing slides come to its ceiling, and does memory grow with a slide? `python -m benchmarks.slides`.

`end_to_end_over_ceiling`: tiles a second of `index()`, with listing, tissue, hashing and the table, over the ceiling
1 / (1/r + 1/m), where r is the rate at which all workers read tiles of the same slide and fit them to the encoder's
square, and m the rate at which they embed full batches: both share the cores. Median of interleaved rounds.
`rss_16_times_over_1`: highest resident memory of the process and its children while a slide of 16384 x 16384 pixels is
indexed in tiles of 512, over that for 4096 x 4096. Each run is a process of its own. `cpu_over_ceiling` is the ratio
of the CPU seconds a tile, children included, in place of the rates: it hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.provenance import RESULTS, write
from benchmarks.stages import side_by_side

GOALS = {"end_to_end_over_ceiling": (0.9, "at least"), "rss_16_times_over_1": (1.1, "at most")}
TILE, MPP = 256, 0.5
LARGE_TILE = 512
SMALL, LARGE = 4096, 16384  # pixels of a slide's side
ROUNDS = 3
POLL_SECONDS = 0.02
BLOCK = 256  # pixels of the slide's own JPEG tiles


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--side", type=int, default=2 * SMALL, help="Pixels of the slide's side for the rates.")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("SLIDE", "DB", "TILE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(indexed(args.one[0], args.one[1], int(args.one[2]))))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rounds = [measured_round(slide(Path(folder) / "rates.svs", args.side), folder) for _ in range(args.rounds)]
        peaks = {
            side: peak_of(slide(Path(folder) / f"{side}.svs", side), Path(folder) / f"db{side}")
            for side in (SMALL, LARGE)
        }
    result: dict[str, Any] = {
        "tile": TILE,
        "rounds": rounds, "peak_rss_mb": {str(side): round(nbytes / 1e6) for side, nbytes in peaks.items()},
        "cpu_over_ceiling": round(statistics.median(r["cpu_over_ceiling"] for r in rounds), 3),
        "end_to_end_over_ceiling": round(statistics.median(r["over_ceiling"] for r in rounds), 3),
        "rss_16_times_over_1": round(peaks[LARGE] / peaks[SMALL], 3),
    }  # fmt: skip
    result = write(RESULTS / "slides.json", result)
    print(json.dumps(result) if args.json else table(result))
    high, low = GOALS["end_to_end_over_ceiling"][0], GOALS["rss_16_times_over_1"][0]
    return int(result["end_to_end_over_ceiling"] < high or result["rss_16_times_over_1"] > low)


def slide(path: Path, side: int) -> Path:
    """An SVS of stained tissue with three levels, written tile by tile; not again where it exists."""
    import tifffile
    from skimage import data

    if path.exists():
        return path
    picture = data.immunohistochemistry()
    with tifffile.TiffWriter(path, bigtiff=True) as out:
        for number in range(3):
            small = np.ascontiguousarray(picture[:: 2**number, :: 2**number])
            shape = (side >> number, side >> number, 3)
            words = f"Aperio Image Library v11.2.1\n{side}x{side} ({BLOCK}x{BLOCK}) |AppMag = 20|MPP = {MPP}"
            out.write(
                blocks(small, shape[0]), shape=shape, dtype=np.uint8, tile=(BLOCK, BLOCK), compression="jpeg",
                photometric="rgb", description=words, metadata=None,
            )  # fmt: skip
            if not number:
                out.write(picture[:300, :400], photometric="rgb", description="Aperio Image Library v11.2.1\nthumbnail")
    return path


def blocks(picture: Any, side: int) -> Iterator[Any]:
    """The tiles of a slide on which `picture` repeats, each shifted, so that no two are equal."""
    for number in range((side // BLOCK) ** 2):
        moved = np.roll(picture, (37 * number % picture.shape[0], 101 * number % picture.shape[1]), (0, 1))
        rows, columns = -(-BLOCK // picture.shape[0]), -(-BLOCK // picture.shape[1])
        yield np.tile(moved, (rows, columns, 1))[:BLOCK, :BLOCK]


def indexed(path: str, database: str, tile: int) -> dict[str, Any]:
    """One run of `index()` in this process."""
    from indexer.archive.slides.find import SlideOptions, find_slides
    from indexer.encoders import load
    from indexer.pipeline.run import index
    from indexer.store.table import EmbeddingStore
    from indexer.types import TileRule

    rule = TileRule(tile, MPP)
    encoder = load("efficientnet-lite0")
    store = EmbeddingStore.create(database, "t", encoder.spec, tiles=rule)
    shards = find_slides([path], SlideOptions(rule)).shards
    before = cpu_seconds()
    report = index(shards, store, encoder)
    return {
        "tiles": report.embedded, "failed": report.failed, "seconds": report.seconds, "workers": encoder.workers,
        "cpu": (cpu_seconds() - before) / report.embedded,
    }  # fmt: skip


def cpu_seconds() -> float:
    """Of this process and its running children."""
    import psutil

    own = psutil.Process()
    times = [one.cpu_times() for one in [own, *children(own)]]
    return sum(time.user + time.system for time in times)


def timed(work: Any, workers: int) -> tuple[float, float]:
    """Images a second, and CPU seconds an image with those of child processes."""
    before = cpu_seconds()
    times = side_by_side(work, workers)
    return times["images"] / times["seconds"], (cpu_seconds() - before) / times["images"]


def measured_round(path: Path, folder: str) -> dict[str, float]:
    """The rates of one round, each measured in a process of its own or by threads of this one, one after the other."""
    with tempfile.TemporaryDirectory(dir=folder) as database:
        done = json.loads(
            subprocess.run(command(path, database, TILE), capture_output=True, text=True, check=True).stdout
        )
    (read, read_cpu), (model, model_cpu) = read_rate(path, done["workers"]), model_rate(done["workers"])
    ceiling = 1 / (1 / read + 1 / model)
    rate = done["tiles"] / done["seconds"]
    found = {"tiles": done["tiles"], "end_to_end": rate, "read": read, "model": model, "over_ceiling": rate / ceiling}
    found |= {"cpu": done["cpu"], "read_cpu": read_cpu, "model_cpu": model_cpu}
    found["cpu_over_ceiling"] = (read_cpu + model_cpu) / done["cpu"]
    return {name: round(value, 4) for name, value in found.items()}


def command(path: Path, database: str | Path, tile: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.slides", "--one", str(path), str(database), str(tile)]


def read_rate(path: Path, workers: int) -> tuple[float, float]:
    """`timed` where all workers read and fit to the square."""
    from indexer.encoders import load
    from indexer.encoders.backends.cpu import use_one_thread_beside_others
    from indexer.pixels import decode
    from indexer.slides.levels import corners, cut, resolution
    from indexer.slides.process import slide_facts
    from indexer.slides.tile import SUFFIX, Tile
    from indexer.types import TileRule

    facts, spec = slide_facts(str(path)), load("efficientnet-lite0").spec.pixels
    how = cut(facts, resolution(facts, None), TileRule(TILE, MPP))
    left = iter(corners(facts, how).tolist())
    lock = threading.Lock()

    def work(worker: int) -> int:
        del worker
        use_one_thread_beside_others()
        for done in range(sys.maxsize):
            with lock:
                corner = next(left, None)
            if corner is None:
                return done
            list(decode(Tile(str(path), *corner, how.level, how.side, how.tile).read(), SUFFIX, spec))
        return 0

    return timed(work, workers)


def model_rate(workers: int, batches: int = 20) -> tuple[float, float]:
    """`timed` where all workers embed in full batches."""
    from indexer.encoders import load
    from indexer.encoders.backends.cpu import use_one_thread_beside_others

    encoder = load("efficientnet-lite0")
    side = encoder.spec.pixels.size
    pictures = np.random.default_rng(0).integers(0, 256, (encoder.batch_size, side, side, 3), dtype=np.uint8)
    encoder.embed(pictures)

    def work(worker: int) -> int:
        del worker
        use_one_thread_beside_others()
        for _ in range(batches):
            encoder.embed(pictures)
        return batches * len(pictures)

    return timed(work, workers)


def peak_of(path: Path, database: Path) -> int:
    """Highest resident memory of a run and its children together, in bytes."""
    import psutil

    process = subprocess.Popen(command(path, database, LARGE_TILE), stdout=subprocess.DEVNULL)
    own, peak = psutil.Process(process.pid), 0
    while process.poll() is None:
        total = 0
        for one in [own, *children(own)]:
            try:
                total += one.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak = max(peak, total)
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"indexing {path} ended with exit code {process.returncode}")
    return peak


def children(process: Any) -> list[Any]:
    import psutil

    try:
        found: list[Any] = process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def table(result: dict[str, Any]) -> str:
    lines = [f"{os.cpu_count()} cores, tiles of {TILE} pixels, tiles a second"]
    lines += [", ".join(f"{name} {value}" for name, value in one.items()) for one in result["rounds"]]
    lines += [f"peak memory, MB: {result['peak_rss_mb']}"]
    lines += [f"{name}: {result[name]} (goal: {words} {goal})" for name, (goal, words) in GOALS.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
