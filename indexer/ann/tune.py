"""Settings that reach a recall, found on held-out queries against exact truth, and what they cost in time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from indexer.ann.exact import BLOCK_ROWS, best, best_of_floats, merge, nothing, rescore, to_float32
from indexer.ann.index import Searchable, answer
from indexer.ann.kinds import float_blocks, nearest
from indexer.ann.manifest import Measured, Settings
from indexer.ann.vectors import Rows
from indexer.types import Float32, Float64, Int64

Flags = npt.NDArray[np.bool_]
K = 10
DEPTHS = (40, 80, 160, 320)  # candidates re-ranked for a result of 10; a search fetches 36 at least
TIE = 1e-6  # a row that scores like the 10th true neighbour is as right as it
SINGLE_QUERIES = 32  # timed one at a time


@dataclass(frozen=True)
class Truth:
    """Queries with their exact answer over the same rows."""

    queries: Float32  # (q, dim) unit rows
    own: Int64  # (q,) the query's own row id, which counts neither as hit nor as neighbour; -1 where it has none
    ids: Int64  # (q, 10 or more) row ids of the nearest rows, best first; -1 where there are fewer
    kth: Float32  # (q,) score of the 10th neighbour, or of the last where there are fewer
    neighbours: int  # min(10, rows that are not the query's own)

    def half(self, which: int) -> Truth:
        """Every second query: settings are chosen on one half and reported on the other."""
        part = slice(which, None, 2)
        return Truth(self.queries[part], self.own[part], self.ids[part], self.kth[part], self.neighbours)


def truth_of(rows: Rows, queries: Float32, own: Int64, near: int = K) -> Truth:
    """One pass over all rows; `near` (at least 10) is how many of the nearest are named."""
    found = nothing(len(queries), near + 1)
    for row_ids, vectors in float_blocks(rows, BLOCK_ROWS):
        if len(queries):
            found = merge(found, best_of_floats(row_ids, vectors, queries, near + 1), near + 1)
    neighbours = min(K, len(rows) - int((own >= 0).any()))
    scores, ids = best(found[0], np.where(found[1] == own[:, None], -1, found[1]), near)
    return Truth(queries, own, ids, scores[:, max(neighbours, 1) - 1], neighbours)


def recall_at_10(truth: Truth, rows: Rows, found_ids: Int64) -> Float64:
    """Each query's share of its true neighbours among the ids found (q, k ≥ 11 where queries are rows)."""
    return _shares(truth, _hits(truth, rows, found_ids))


def tune(over: Searchable, truth: Truth, target: float) -> Settings:
    """The quickest settings whose recall, less two standard errors, reaches the target; else those with the best."""
    if over.kind.family == "exact":
        return Settings(0, K)
    if over.kind.family == "graph":
        # A graph's search width is at least what is fetched, so its depth cannot be read off a deeper search.
        widths, depths = _ladder(1, 512), [2 * K]
    else:
        # Recall is at most the share of neighbours in the lists looked into, and which lists hold them is known.
        needed = lists_needed(over, truth)
        fewest = next((p for p in _ladder(1, over.index.nlist) if _sure((needed <= p).mean(1)) >= target), None)
        widths = _ladder(fewest or over.index.nlist, over.index.nlist)
        depths = [d for d in DEPTHS if d <= max(len(over.rows), DEPTHS[0])]
    options: list[Settings] = []
    top = (-1.0, Settings(widths[-1], depths[-1]))
    for width in widths:
        shares = _recalls(over, truth, width, depths)
        depth = next((d for d, each in zip(depths, shares, strict=True) if _sure(each) >= target), None)
        if depth is not None:
            options.append(Settings(width, depth))
        top = max(top, (float(shares[-1].mean()), Settings(width, depths[-1])), key=lambda found: found[0])
        if depth == depths[0] or len(options) == 2 or (depth is None and top[0] >= 1):
            break
    if len(options) > 1:
        return min(options, key=lambda option: batch_seconds(over, truth.queries, option))
    return options[0] if options else top[1]


def lists_needed(over: Searchable, truth: Truth) -> Int64:
    """How many lists (q, 10) a query must look into to meet each of its neighbours; 0 where there is no neighbour."""
    quantizer, nlist = over.index.quantizer, over.index.nlist
    positions = over.rows.positions(truth.ids[:, :K])
    vectors = to_float32(over.rows.vectors[np.maximum(positions, 0).reshape(-1)])
    lists = quantizer.assign(vectors, 1).reshape(positions.shape)
    order = quantizer.search(truth.queries, nlist)[1]
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(nlist), order.shape), 1)
    needed: Int64 = np.where(positions >= 0, np.take_along_axis(ranks, lists, 1) + 1, 0)
    return needed


def measure(
    over: Searchable, truth: Truth, settings: Settings, clock: Callable[[], float] = time.perf_counter
) -> Measured:
    """Recall and time with these settings."""
    k = K + 1 if (truth.own >= 0).any() else K
    found = answer(over, truth.queries, k, settings)[1]
    recall = float(recall_at_10(truth, over.rows, found).mean())
    p50_ms, rate = speed(over, truth.queries, settings, clock)
    return Measured(recall, p50_ms, rate, len(truth.queries))


def speed(
    over: Searchable, queries: Float32, settings: Settings, clock: Callable[[], float] = time.perf_counter
) -> tuple[float, float]:
    """Median milliseconds by `clock` of a query alone, and queries a second when all come at once.

    A query alone runs on one thread, so `time.thread_time` tells what it costs however busy the machine is.
    """
    times = [_timed(partial(answer, over, q[None], K, settings), clock) for q in queries[:SINGLE_QUERIES]]
    return 1e3 * float(np.median(times)), len(queries) / batch_seconds(over, queries, settings)


def batch_seconds(over: Searchable, queries: Float32, settings: Settings) -> float:
    """Best of two runs over all queries at once."""
    return min(_timed(lambda: answer(over, queries, K, settings)) for _ in range(2))


def _recalls(over: Searchable, truth: Truth, nprobe: int, depths: list[int]) -> list[Float64]:
    """Each query's recall@10 at each depth, all from one search."""
    own = int((truth.own >= 0).any())
    _, ids = nearest(over.index, over.kind, truth.queries, min(depths[-1] + own, len(over.rows)), nprobe)
    hits = _hits(truth, over.rows, ids)
    return [_shares(truth, hits[:, : depth + own]) for depth in depths]


def _sure(each: Float64) -> float:
    """Mean less two standard errors: what the recall of other queries will hardly fall below."""
    return float(each.mean() - 2 * each.std() / np.sqrt(len(each)))


def _hits(truth: Truth, rows: Rows, ids: Int64) -> Flags:
    positions = rows.positions(ids)
    scores = rescore(rows.vectors, positions, truth.queries)
    hits: Flags = (scores >= truth.kth[:, None] - TIE) & (positions >= 0) & (ids != truth.own[:, None])
    return hits


def _shares(truth: Truth, hits: Flags) -> Float64:
    counts: Float64 = hits.sum(1).clip(max=truth.neighbours).astype(np.float64)
    return counts / max(truth.neighbours, 1)


def _ladder(bottom: int, top: int) -> list[int]:
    """From bottom to top in steps of about a fifth."""
    steps = [bottom]
    while steps[-1] < top:
        steps.append(min(max(steps[-1] + 1, round(steps[-1] * 1.2)), top))
    return steps


def _timed(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    call()
    return clock() - start
