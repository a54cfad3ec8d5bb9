"""Recall and time of filtered searches where the filter goes with the query: `python -m benchmarks.filters`.

The allowed rows are drawn at random, or are the nearest to the queries, or the farthest from them, as where a filter
names another organ than the query shows. Each case is searched as before (as widely as the index's
settings say, divided by the allowed share) and as it is now (ever wider, or scanned, where the hits are far), one query
after the other in this one run. Times are the CPU time of the searching thread.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.provenance import RESULTS, write
from benchmarks.vectors import blocks
from indexer.ann.goal import Goal
from indexer.ann.index import Allowed, Effort, VectorIndex, load
from indexer.ann.rowset import RowSet
from indexer.search.index_build import build_index
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.types import (
    EmbeddingBatch,
    EmbeddingRow,
    EncoderSpec,
    Float16,
    Float64,
    Int64,
    PixelSpec,
    Place,
    Shard,
    ShardResult,
)

K = 10
SHARES = (0.5, 0.1, 0.01, 0.001)
TIGHT = 2_000  # clusters, which an index searches in few lists


@dataclass(frozen=True)
class Measured:
    """One filter on one kind of data."""

    data: str
    kind: str
    share: float
    rows: str  # which are allowed: random | near | far
    recall_before: float
    recall: float
    ms_before: float
    ms: float
    answered: str  # how


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=130_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--recall", type=float, default=0.98)
    parser.add_argument("--kinds", default="ivf-fp16,ivf-rabitq", help="comma-separated")
    parser.add_argument("--out", type=Path, default=RESULTS / "filters.json")
    args = parser.parse_args()
    found = []
    for data in ("tight", "overlapping"):
        vectors = _rows(data, args.rows, args.dim, 0)
        queries = unit(_rows(data, 20 * args.queries, args.dim, 9))
        for kind in args.kinds.split(","):
            with tempfile.TemporaryDirectory() as folder:
                index = built(Path(folder), vectors, Goal(recall=args.recall, kind=kind))
                found += [asdict(m) for m in measured(index, data, vectors, queries, args.queries)]
    low = [m for m in found if m["recall"] < args.recall]
    result = {"rows": args.rows, "dim": args.dim, "asked": args.recall, "filters": found}
    write(args.out, result)
    print(table(found))
    print(f"below {args.recall}: {len(low)} of {len(found)}")
    return 1 if low else 0


def measured(index: VectorIndex, data: str, vectors: Float16, queries: Float64, q: int) -> list[Measured]:
    """Every share of allowed rows, for the q queries nearest to one of them, so that one filter is far from all."""
    near = queries[np.argsort(-(queries @ queries[0]))[:q]]
    order = np.argsort(-(vectors.astype(np.float32) @ near.mean(0).astype(np.float32)), kind="stable")
    out = []
    for share in SHARES:
        m = max(K, int(share * len(vectors)))
        drawn = np.random.default_rng(1).choice(len(vectors), m, replace=False)
        for rows, positions in (("random", drawn), ("near", order[:m]), ("far", order[-m:])):
            allowed = index.allow(RowSet.of([np.sort(index.rows.row_ids[positions])]))
            out.append(_measured(index, near, allowed, (data, share, rows)))
    return out


def _measured(index: VectorIndex, queries: Float64, allowed: Allowed, named: tuple[str, float, str]) -> Measured:
    truth = index.scan(queries, K, allowed)[1]
    effort = Effort()
    before, ms_before = _one_by_one(queries, lambda q: index.search(q, K, allowed)[1])
    now, ms = _one_by_one(queries, lambda q: index.search(q, K, allowed, effort)[1])
    data, share, rows = named
    recall_before, recall = (
        float(np.mean([np.isin(t, f).mean() for t, f in zip(truth, x, strict=True)])) for x in (before, now)
    )
    return Measured(data, index.manifest.kind, share, rows, recall_before, recall, ms_before, ms, str(effort))


def _one_by_one(queries: Float64, search: Callable[[Float64], Int64]) -> tuple[list[Int64], float]:
    """Each query's hits, and the mean milliseconds."""
    search(queries[:1])
    started = time.thread_time()
    found = [search(query[None])[0] for query in queries]
    return found, 1e3 * (time.thread_time() - started) / len(queries)


def built(folder: Path, vectors: Float16, goal: Goal) -> VectorIndex:
    """An index of a table with these rows."""
    half = (0.5, 0.5, 0.5)
    spec = EncoderSpec("numbers", "random:0", "pooled", vectors.shape[1], half, half, "fp32", PixelSpec(8, 8))
    store = EmbeddingStore.create(str(folder), "t", spec)
    rows = tuple(EmbeddingRow(f"k{i}", Place("s", f"k{i}.png", 0, 0, "png"), "", {}) for i in range(len(vectors)))
    batch = EmbeddingBatch(rows, vectors, np.ones(len(rows), np.float32))
    with StoreWriter(store) as writer:
        writer.commit([ShardResult(Shard("s", "s", "1"), (batch,), (), len(rows))])
    build_index(store, goal)
    index = load(store.index_directory)
    assert index is not None
    return index


def _rows(data: str, n: int, dim: int, seed: int) -> Float16:
    if data == "overlapping":
        return np.concatenate(list(blocks(data, n, dim, seed)))
    centres = np.random.default_rng(7).standard_normal((TIGHT, dim)).astype(np.float32)
    rng = np.random.default_rng(seed)
    return unit(centres[rng.integers(0, TIGHT, n)] + 0.3 * rng.standard_normal((n, dim))).astype(np.float16)


def unit(rows: Any) -> Float64:
    """Rows of length 1."""
    floats: Float64 = np.asarray(rows, np.float64)
    return floats / np.linalg.norm(floats, axis=1, keepdims=True)


def table(found: list[dict[str, Any]]) -> str:
    lines = [f"{'':12}{'index':12}{'share':>7}  {'rows':8}{'recall':>14}{'ms a query':>16}{'ratio':>7}"]
    lines += [
        f"{m['data']:12}{m['kind']:12}{m['share']:7.3f}  {m['rows']:8}{m['recall_before']:6.3f} → {m['recall']:.3f}"
        f"{m['ms_before']:8.2f} → {m['ms']:5.2f}{m['ms'] / m['ms_before']:7.1f}  {m['answered']}"
        for m in found
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
