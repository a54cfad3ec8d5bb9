"""Near-duplicates of a large table, measured whole and compared with brute force: `python -m benchmarks.duplicates`.

The table holds made-up vectors (`benchmarks.vectors`), in which some things are planted: one image in a hundred has a
near-duplicate (itself in a little noise), and one image is there many times (same bytes; a hundred thousand times
among a million rows), as blank images are. `indexer near-duplicates` runs in a process of its own and writes its pairs.
For a sample of rows, half of them planted ones, the pairs that it wrote are compared with the cosines of the row with
every other row: `pairs_wrong` counts pairs that are missing or too many.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.provenance import RESULTS, write
from benchmarks.vectors import KINDS, blocks
from indexer.ann.exact import DECIMALS
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.types import (
    EmbeddingBatch,
    EmbeddingRow,
    EncoderSpec,
    Float16,
    PixelSpec,
    Place,
    Shard,
    ShardResult,
)

NEAR_EACH = 100  # one row in so many is a near-duplicate of the row before it
COPIES_EACH = 10  # one row in so many is the same image
NOISE = 0.2  # length of a near-duplicate's difference
LISTED = 1_000_000  # pairs of a cluster that are listed; the copies are more
GOAL_SECONDS, GOAL_BYTES = 600.0, 3_000_000_000  # for a million rows on two cores


@dataclass(frozen=True)
class Made:
    """The rows as stored. Row i has the key k<i>."""

    vectors: Float16  # (n, dim)
    near: np.ndarray  # (n,) whether a row is a planted near-duplicate of the row before it
    copied: np.ndarray  # (n,) whether it is the image that is there many times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--data", choices=KINDS, default="overlapping")
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--sample", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, help="Keep the table here, and use one that is there.")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    made = rows_of(args.data, args.rows, args.dim)
    with tempfile.TemporaryDirectory(dir=args.folder) as scratch:
        database = (args.folder or Path(scratch)) / f"{args.data}-{args.rows}"
        if not database.exists():
            fill(database, args.data, made)
        report, found, seconds, cpu_seconds, peak = near_duplicates(database, Path(scratch), args.threshold)
    result: dict[str, Any] = {
        "rows": args.rows, "dim": args.dim, "data": args.data, "threshold": args.threshold,
        "seconds": seconds, "cpu_seconds": cpu_seconds, "peak_rss_bytes": peak,
        **checked(made, report, found, args.threshold, args.sample),
        "goal_seconds": GOAL_SECONDS, "goal_bytes": GOAL_BYTES,
        "met": seconds <= GOAL_SECONDS and peak <= GOAL_BYTES if args.rows == 1_000_000 else None,
        "report": report,
    }  # fmt: skip
    result = write(RESULTS / f"duplicates-{args.rows}-{args.data}.json", result)
    print(json.dumps(result) if args.json else "\n".join(f"{k}: {v}" for k, v in result.items()))


def rows_of(data: str, n: int, dim: int) -> Made:
    vectors = np.concatenate(list(blocks(data, n, dim, seed=0)))
    rng = np.random.default_rng(5)
    kind = rng.permutation(n)
    near, copied = kind < n // NEAR_EACH, kind >= n - n // COPIES_EACH
    near[0] = False
    for i in np.flatnonzero(near):
        change = rng.standard_normal(dim)
        row = vectors[i - 1].astype(np.float64) + NOISE * change / np.linalg.norm(change)
        vectors[i] = (row / np.linalg.norm(row)).astype(np.float16)
    vectors[copied] = vectors[np.argmax(copied)]
    return Made(vectors, near, copied)


def fill(database: Path, data: str, made: Made) -> None:
    n, dim = made.vectors.shape
    half = (0.5, 0.5, 0.5)
    spec = EncoderSpec(f"made-{data}", "random:7", "pooled", dim, half, half, "fp32", PixelSpec(size=8, resize=8))
    store = EmbeddingStore.create(str(database), "vectors", spec)
    size = 50_000
    with StoreWriter(store) as writer:
        for start in range(0, n, size):
            stop, name = min(start + size, n), f"s{start:09d}"
            place = Place(name, "", 0, 0, "png")
            contents = (n if made.copied[i] else i for i in range(start, stop))
            rows = tuple(
                EmbeddingRow(f"k{i}", place, f"{content:064x}", {})
                for i, content in zip(range(start, stop), contents, strict=True)
            )
            batch = EmbeddingBatch(rows, made.vectors[start:stop], np.ones(len(rows), np.float32))
            writer.commit([ShardResult(Shard(name, name, "1"), (batch,), (), len(rows))])
        writer.optimize()


def near_duplicates(
    database: Path, scratch: Path, threshold: float
) -> tuple[dict[str, Any], dict[str, set[str]], float, float, int]:
    """The command's report, each row's listed near-duplicates by key, seconds, CPU seconds, peak memory."""
    out, facts = scratch / "pairs.parquet", scratch / "facts.json"
    words = ["near-duplicates", str(database), "--threshold", str(threshold), "--pairs-per-cluster", str(LISTED)]
    started = time.perf_counter()
    with facts.open("w") as stdout:
        process = subprocess.Popen(
            [sys.executable, "-m", "indexer", *words, "--out", str(out), "--json"], stdout=stdout
        )
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"near-duplicates ended with exit code {process.returncode}")
    report = json.loads(facts.read_text())
    del report["first_pairs"]
    pairs: dict[str, set[str]] = defaultdict(set)
    for batch in pq.ParquetFile(out).iter_batches(columns=["key_a", "key_b"]):
        for a, b in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            pairs[a].add(b)
            pairs[b].add(a)
    return report, pairs, round(seconds, 2), round(usage.ru_utime + usage.ru_stime, 2), usage.ru_maxrss * 1024


def checked(
    made: Made, report: dict[str, Any], found: dict[str, set[str]], threshold: float, sample: int
) -> dict[str, Any]:
    """Pairs of sampled rows that are missing or too many, and whether the copies are one cluster, counted whole."""
    rng = np.random.default_rng(6)
    single = np.flatnonzero(~made.copied)
    planted = np.flatnonzero(made.near & ~made.copied)
    half = min(sample // 2, len(planted))
    asked = np.unique(np.r_[rng.choice(planted, half, replace=False), rng.choice(single, sample - half, replace=False)])
    missing = extra = pairs = 0
    for row, own in zip(asked, brute_force(made.vectors, asked, threshold), strict=True):
        truth = {f"k{j}" for j in np.flatnonzero(own) if j != row}
        listed = found.get(f"k{row}", set())
        pairs += len(truth)
        missing += len(truth - listed)
        extra += len(listed - truth)
    copies = int(made.copied.sum())
    return {
        "pairs_wrong": missing + extra, "pairs_missing": missing, "pairs_extra": extra, "sample_rows": len(asked),
        "sample_pairs": pairs, "copies": copies, "copies_in_one_cluster": report["largest_cluster"] >= copies,
        "copies_counted": report["same_bytes"] == copies * (copies - 1) // 2,
    }  # fmt: skip


def brute_force(vectors: Float16, asked: np.ndarray, threshold: float) -> np.ndarray:
    """Whether the cosine, in float64, of each sampled row with each row reaches the threshold: (sample, n)."""
    close = np.zeros((len(asked), len(vectors)), bool)
    queries = unit(vectors[asked])
    for start in range(0, len(vectors), 1 << 14):
        block = unit(vectors[start : start + (1 << 14)])
        close[:, start : start + len(block)] = np.round(queries @ block.T, DECIMALS) >= threshold
    return close


def unit(vectors: Float16) -> np.ndarray:
    rows = vectors.astype(np.float64)
    unit_rows: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit_rows


if __name__ == "__main__":
    main()
