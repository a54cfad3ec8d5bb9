"""A million rows through the real reader, decoder, pipeline and store, by an encoder that costs nothing.

Goals: memory flat within 10 % after the first tenth, fewer than 100 fragments, the last tenth written at no less
than 0.8 of the first tenth's rate, opened again in a second, counted in 50 ms.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.provenance import RESULTS, write
from benchmarks.stream import SIDE
from indexer.disk import DiskSync
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import Hooks, index
from indexer.progress.silent import Silent
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.types import EncoderSpec, Float32, PixelSpec, Shard, UInt8

STREAM = Path(__file__).with_name("stream.py")
IMAGES = 4096  # a shard
TENTHS = 10
GOALS = {  # name → (limit, whether the figure must be below it)
    "rss_growth": (0.10, True),
    "fragments": (100, True),
    "last_over_first_rate": (0.8, False),
    "last_over_first_store_rate": (0.8, False),
    "reopen_seconds": (1.0, True),
    "writer_reopen_seconds": (1.0, True),
    "count_ms": (50.0, True),
}


class Numbers:
    """An encoder of no cost: the picture's own bytes tell its vector."""

    device, batch_size, workers = "cpu", 128, 2

    def __init__(self, dim: int) -> None:
        half = (0.5, 0.5, 0.5)
        self.spec = EncoderSpec("numbers", "random:0", "pooled", dim, half, half, "fp32", PixelSpec(SIDE, SIDE))
        self._table = np.random.default_rng(0).standard_normal((4096, dim)).astype(np.float32)

    def embed(self, pictures: UInt8) -> Float32:
        first = pictures.reshape(len(pictures), -1)[:, :4].astype(np.int64)
        number = first @ np.array([1, 256, 65536, 0])
        vectors: Float32 = self._table[number % 4096] + self._table[number // 4096 % 4096]
        return vectors


@dataclass
class Watch(Silent):
    """Memory and time as the rows go by."""

    rows: int
    process: psutil.Process = field(default_factory=psutil.Process)
    start: float = field(default_factory=time.perf_counter)
    peaks: list[int] = field(default_factory=lambda: [0] * TENTHS)  # RSS by tenth
    passed: list[float] = field(default_factory=lambda: [0.0] * (TENTHS + 1))  # seconds when a tenth was full

    def advance(self, n: int = 1, **counts: int) -> None:  # noqa: ARG002 - the protocol's
        tenth = min(counts["images"] * TENTHS // self.rows, TENTHS)
        self.passed[tenth] = self.passed[tenth] or time.perf_counter() - self.start
        at = min(tenth, TENTHS - 1)
        self.peaks[at] = max(self.peaks[at], self.process.memory_info().rss)

    def rate(self, tenth: int) -> float:
        seconds = self.passed[tenth + 1] - (self.passed[tenth] if tenth else 0.0)
        return self.rows / TENTHS / seconds


@dataclass
class Clock:
    """Seconds and calls of a function, in its caller's place."""

    call: Any
    seconds: list[float] = field(default_factory=list)

    def __call__(self, *args: Any) -> Any:
        start = time.perf_counter()
        try:
            return self.call(*args)
        finally:
            self.seconds.append(time.perf_counter() - start)

    def per_call(self, tenth: int) -> float:
        n = len(self.seconds)
        return statistics.mean(self.seconds[n * tenth // TENTHS : n * (tenth + 1) // TENTHS])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="where the table is made; default: a temporary one")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        result = soak(Path(folder) / "db", args.rows, args.dim)
    result = write(RESULTS / "soak.json", result)
    print(json.dumps(result) if args.json else table(result))
    return 0 if all(map(reached, GOALS, [result] * len(GOALS))) else 1


def soak(db: Path, rows: int, dim: int) -> dict[str, Any]:
    encoder, watch = Numbers(dim), Watch(rows)
    commits, syncs = Clock(StoreWriter.commit), Clock(DiskSync.sync)
    StoreWriter.commit = lambda self, results: commits(self, results)  # type: ignore[method-assign]
    DiskSync.sync = lambda self, root: syncs(self, root)  # type: ignore[method-assign]
    store = EmbeddingStore.create(str(db), "t", encoder.spec)
    report = index(list(shards(rows)), store, encoder, RunOptions(), Hooks(watch))
    del store
    return {
        "rows": rows,
        "dim": dim,
        "rss_growth": max(watch.peaks[1:]) / watch.peaks[0] - 1,
        "rss_bytes_by_tenth": watch.peaks,
        "last_over_first_rate": watch.rate(TENTHS - 1) / watch.rate(0),
        "rows_per_second_by_tenth": [watch.rate(tenth) for tenth in range(TENTHS)],
        "last_over_first_store_rate": commits.per_call(0) / commits.per_call(TENTHS - 1),
        "commits": len(commits.seconds),
        "commit_seconds": sum(commits.seconds),
        "sync_seconds": sum(syncs.seconds),
        "seconds": report.seconds,
        "bottleneck": report.bottleneck,
        "embedded": report.embedded,
        **reopened(str(db), rows),
        "table_bytes": sum(p.stat().st_size for p in db.rglob("*") if p.is_file()),
        "memory_bytes": psutil.virtual_memory().total,
    }


def shards(rows: int) -> list[Shard]:
    made = []
    for first in range(0, rows, IMAGES):
        command = f"pipe:{sys.executable} -S -E {STREAM} {first} {min(IMAGES, rows - first)}"
        made.append(Shard(command, f"shard-{first // IMAGES:06d}", "1"))
    return made


def reopened(db: str, rows: int) -> dict[str, Any]:
    """What a reader and a writer wait for when they come to the finished table."""
    start = time.perf_counter()
    store = EmbeddingStore.open(db)
    counted = store.count()
    opened = time.perf_counter() - start
    if counted != rows:
        raise SystemExit(f"{counted} rows, not {rows}")
    times = []
    for _ in range(20):
        start = time.perf_counter()
        store.count()
        times.append(time.perf_counter() - start)
    start = time.perf_counter()
    some = store.count("site = 's07' AND n < 1000")
    filtered = time.perf_counter() - start
    start = time.perf_counter()
    with StoreWriter(store):
        entered = time.perf_counter() - start
    return {
        "reopen_seconds": opened,
        "writer_reopen_seconds": entered,
        "count_ms": statistics.median(times) * 1e3,
        "filtered_count_ms": filtered * 1e3,
        "filtered_rows": some,
        "fragments": store.fragments(),
    }


def reached(name: str, result: dict[str, Any]) -> bool:
    limit, below = GOALS[name]
    return bool(result[name] < limit if below else result[name] >= limit)


def table(result: dict[str, Any]) -> str:
    lines = [f"{result['rows']} rows of {result['dim']} numbers in {result['seconds']:.0f} s ({result['bottleneck']})"]
    for name, (limit, below) in GOALS.items():
        verdict = "" if reached(name, result) else "  MISSED"
        lines.append(f"{name:<28} {result[name]:10.3f}   goal {'<' if below else '>='} {limit:g}{verdict}")
    share = result["sync_seconds"] / result["seconds"]
    lines.append(f"{result['commits']} commits, {result['sync_seconds']:.1f} s in fsync: {share:.1%} of the run")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
