"""Settings that reach a recall, found on held-out queries against exact truth, and what they cost in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from indexer.ann.exact import exact_topk, rescore
from indexer.ann.index import Searchable, answer
from indexer.ann.kinds import nearest
from indexer.ann.manifest import Measured, Settings
from indexer.ann.vectors import Rows
from indexer.types import Float32, Float64, Int64

Flags = npt.NDArray[np.bool_]
K = 10
DEPTHS = (10, 20, 40, 80, 160, 320)  # candidates re-ranked for a result of 10
TIE = 1e-6  # a row that scores like the 10th true neighbour is as right as it
SINGLE_QUERIES = 64  # timed one at a time


@dataclass(frozen=True)
class Truth:
    """Queries with their exact answer over the same rows."""

    queries: Float32  # (q, dim) unit rows
    own: Int64  # (q,) the query's own row id, which counts neither as hit nor as neighbour; -1 where it has none
    kth: Float32  # (q,) score of the 10th neighbour, or of the last where there are fewer
    neighbours: int  # min(10, rows that are not the query's own)

    def half(self, which: int) -> Truth:
        """Every second query: settings are chosen on one half and reported on the other."""
        part = slice(which, None, 2)
        return Truth(self.queries[part], self.own[part], self.kth[part], self.neighbours)


def truth_of(rows: Rows, queries: Float32, own: Int64) -> Truth:
    scores, ids = exact_topk([(rows.row_ids, rows.vectors)], queries, K + 1)
    mine = (own >= 0).any()
    neighbours = min(K, len(rows) - int(mine))
    scores = np.where((ids == own[:, None]) | (ids < 0), -np.inf, scores)
    ordered = -np.sort(-scores, axis=1)
    return Truth(queries, own, ordered[:, max(neighbours, 1) - 1], neighbours)


def recall_at_10(truth: Truth, rows: Rows, found_ids: Int64) -> Float64:
    """Each query's share of its true neighbours among the ids found (q, k ≥ 11 where queries are rows)."""
    return _shares(truth, _hits(truth, rows, found_ids))


def tune(over: Searchable, truth: Truth, target: float) -> tuple[Settings, float]:
    """The quickest settings whose recall, less one standard error, reaches the target; and that recall.

    Where none does, those with the best recall.
    """
    if over.kind.family == "exact":
        return Settings(0, K), 1.0
    # A graph's search width is at least what is fetched, so its depth cannot be read off a deeper search.
    depths = [d for d in DEPTHS if d <= max(len(over.rows), K)] if over.kind.family == "ivf" else [2 * K]
    lists = over.index.nlist if over.kind.family == "ivf" else 512
    reached: dict[int, tuple[int, float]] = {}  # depth → first nprobe that reaches the target
    top = (Settings(lists, depths[-1]), -1.0)
    for nprobe in _ladder(lists):
        recalls = _recalls(over, truth, nprobe, depths)
        for depth, (mean, error) in zip(depths, recalls, strict=True):
            if mean - error >= target and depth not in reached:
                reached[depth] = (nprobe, mean)
        if recalls[-1][0] > top[1]:
            top = Settings(nprobe, depths[-1]), recalls[-1][0]
        if depths[0] in reached or (reached and len(reached) >= 3) or recalls[-1][0] >= 0.9999:
            break
    if not reached:
        return top
    options = [(Settings(nprobe, depth), recall) for depth, (nprobe, recall) in reached.items()]
    if len(options) == 1:
        return options[0]
    return min(options, key=lambda option: batch_seconds(over, truth.queries, option[0]))


def measure(over: Searchable, truth: Truth, settings: Settings) -> Measured:
    """Recall and time with these settings."""
    k = K + 1 if (truth.own >= 0).any() else K
    found = answer(over, truth.queries, k, settings)[1]
    recall = float(recall_at_10(truth, over.rows, found).mean())
    p50_ms, rate = speed(over, truth.queries, settings)
    return Measured(recall, p50_ms, rate, len(truth.queries))


def speed(over: Searchable, queries: Float32, settings: Settings) -> tuple[float, float]:
    """Median milliseconds of a query alone, and queries a second when all come at once."""
    times = [_timed(partial(answer, over, q[None], K, settings)) for q in queries[:SINGLE_QUERIES]]
    return 1e3 * float(np.median(times)), len(queries) / batch_seconds(over, queries, settings)


def batch_seconds(over: Searchable, queries: Float32, settings: Settings) -> float:
    """Best of two runs over all queries at once."""
    return min(_timed(lambda: answer(over, queries, K, settings)) for _ in range(2))


def _recalls(over: Searchable, truth: Truth, nprobe: int, depths: list[int]) -> list[tuple[float, float]]:
    """(mean, standard error) of recall@10 at each depth, all from one search."""
    own = int((truth.own >= 0).any())
    _, ids = nearest(over.index, over.kind, truth.queries, min(depths[-1] + own, len(over.rows)), nprobe)
    hits = _hits(truth, over.rows, ids)
    out = []
    for depth in depths:
        each = _shares(truth, hits[:, : depth + own])
        out.append((float(each.mean()), float(each.std() / np.sqrt(len(each)))))
    return out


def _hits(truth: Truth, rows: Rows, ids: Int64) -> Flags:
    positions = rows.positions(ids)
    scores = rescore(rows.vectors, positions, truth.queries)
    hits: Flags = (scores >= truth.kth[:, None] - TIE) & (positions >= 0) & (ids != truth.own[:, None])
    return hits


def _shares(truth: Truth, hits: Flags) -> Float64:
    counts: Float64 = hits.sum(1).clip(max=truth.neighbours).astype(np.float64)
    return counts / max(truth.neighbours, 1)


def _ladder(top: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, … top."""
    steps = {1, 2, 3, top} | {p for e in range(2, 20) for p in (2**e, 3 * 2 ** (e - 1))}
    return sorted(s for s in steps if s <= top)


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
