"""Finds settings that reach a target recall on held-out queries against exact search, and measures their speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from indexer.ann.engines.protocol import K, Neighbours
from indexer.ann.engines.routing import sure
from indexer.ann.exact import best, cosines_of, exact_topk, padded, rounding_of, unit_floats
from indexer.ann.half import to_float32
from indexer.ann.index import Searchable, answer
from indexer.ann.manifest import Measured, Settings
from indexer.ann.rerank import rescore
from indexer.ann.vectors import Rows
from indexer.cores import cores
from indexer.types import Bool, Float64, Int64

SINGLE_QUERIES = 32  # queries timed one at a time
OPTIONS = 4  # pairs of width and depth that reach the recall, of which the fastest is taken


Clock = Callable[[], float]


@dataclass(frozen=True)
class Clocks:
    """Clocks in seconds: of a query alone, which runs on one thread, and of a batch, which runs on all cores."""

    alone: Clock
    batch: Clock


WALL = Clocks(time.perf_counter, time.perf_counter)
# CPU time, which other load on the machine changes little
CPU = Clocks(time.thread_time, lambda: time.process_time() / cores())


@dataclass(frozen=True)
class Truth:
    """Queries with their exact nearest rows."""

    queries: Float64  # (q, dim) unit rows
    own: Int64  # (q,) the query's own row id, excluded from hits and neighbours; -1 where it has none
    ids: Int64  # (q, 10 or more) row ids of the nearest rows, best first; -1 where there are fewer
    kth: Float64  # (q,) score of the 10th neighbour, or of the last where there are fewer
    neighbours: int  # min(10, rows that are not the query's own)

    def half(self, which: int) -> Truth:
        """Every second query: settings are chosen on one half and measured on the other."""
        part = slice(which, None, 2)
        return Truth(self.queries[part], self.own[part], self.ids[part], self.kth[part], self.neighbours)


def truth_of(rows: Rows, queries: Float64, own: Int64, near: int = K) -> Truth:
    """Exact nearest rows, by one pass over all rows; `near` (at least 10) is how many."""
    scores, ids = exact_topk(rows.scan() if len(queries) else [], queries, near + 1, rows.slack)
    neighbours = min(K, len(rows) - int((own >= 0).any()))
    scores, ids = padded(best(scores, np.where(ids == own[:, None], -1, ids), near), near)
    return Truth(queries, own, ids, scores[:, max(neighbours, 1) - 1], neighbours)


def recall_at_10(truth: Truth, rows: Rows, found_ids: Int64) -> Float64:
    """Recall@10 (q,) of found ids (q, k); k ≥ 11 where queries are rows, since their own id does not count."""
    return _shares(truth, _hits(truth, rows, found_ids))


def tune(over: Searchable, truth: Truth, target: float) -> Settings:
    """The fastest settings whose recall minus two standard errors reaches the target; else those of the best recall."""
    widths = over.engine.widths(over.index, neighbours_of(over.rows, truth), target)
    depths = [d for d in over.engine.depths if d <= max(len(over.rows), over.engine.depths[0])]
    if len(widths) == len(depths) == 1:
        return Settings(widths[0], depths[0])
    options: list[Settings] = []
    top = (-1.0, Settings(widths[-1], depths[-1]))
    for width in widths:
        shares = _recalls(over, truth, width, depths)
        depth = next((d for d, each in zip(depths, shares, strict=True) if sure(each) >= target), None)
        if depth is not None:
            options.append(Settings(width, depth))
        top = max(top, (float(shares[-1].mean()), Settings(width, depths[-1])), key=lambda found: found[0])
        if depth == depths[0] or len(options) == OPTIONS or (depth is None and top[0] >= 1):
            break
    if len(options) > 1:
        return min(options, key=lambda option: batch_seconds(over, truth.queries, option, time.process_time))
    return options[0] if options else top[1]


def neighbours_of(rows: Rows, truth: Truth) -> Neighbours:
    """The true neighbours' vectors, from which an engine computes its widths."""
    positions = rows.positions(truth.ids[:, :K])
    if not len(rows):
        return Neighbours(truth.queries, np.zeros((*positions.shape, rows.dim), np.float32), positions >= 0)
    vectors = unit_floats(rows.take(np.maximum(positions, 0).reshape(-1)), 0.0)
    return Neighbours(truth.queries, vectors.reshape(*positions.shape, rows.dim), positions >= 0)


def measure(over: Searchable, truth: Truth, settings: Settings, clocks: Clocks = WALL) -> Measured:
    """Recall and speed with these settings."""
    k = K + 1 if (truth.own >= 0).any() else K
    found = answer(over, truth.queries, k, settings)[1]
    recall = float(recall_at_10(truth, over.rows, found).mean())
    p50_ms, rate = speed(over, truth.queries, settings, clocks)
    return Measured(recall, p50_ms, rate, len(truth.queries))


def speed(over: Searchable, queries: Float64, settings: Settings, clocks: Clocks = WALL) -> tuple[float, float]:
    """Median milliseconds of a query alone, and queries per second in one batch."""
    times = [_timed(partial(answer, over, q[None], K, settings), clocks.alone) for q in queries[:SINGLE_QUERIES]]
    return 1e3 * float(np.median(times)), len(queries) / batch_seconds(over, queries, settings, clocks.batch)


def batch_seconds(over: Searchable, queries: Float64, settings: Settings, clock: Clock) -> float:
    """Seconds for all queries in one batch, the better of two runs."""
    return min(_timed(lambda: answer(over, queries, K, settings), clock) for _ in range(2))


def _recalls(over: Searchable, truth: Truth, width: int, depths: list[int]) -> list[Float64]:
    """Each query's recall@10 at each depth, all from one search."""
    own = int((truth.own >= 0).any())
    fetch = min(depths[-1] + own, len(over.rows))
    _, ids = over.engine.candidates(over.index, truth.queries, fetch, width)
    hits = _hits(truth, over.rows, ids)
    return [_shares(truth, hits[:, : depth + own]) for depth in depths]


def _hits(truth: Truth, rows: Rows, ids: Int64) -> Bool:
    positions = rows.positions(ids)
    scores = rescore(rows, positions, truth.queries).astype(np.float64)
    # A row that ties with the 10th true neighbour is a hit too. Scores close to its own are recomputed in float64.
    close = (positions >= 0) & (np.abs(scores - truth.kth[:, None]) <= rounding_of(rows.dim))
    scores[close] = cosines_of(to_float32(rows.take(positions[close])), truth.queries[np.nonzero(close)[0]])
    hits: Bool = (scores >= truth.kth[:, None]) & (positions >= 0) & (ids != truth.own[:, None])
    return hits


def _shares(truth: Truth, hits: Bool) -> Float64:
    counts: Float64 = hits.sum(1).clip(max=truth.neighbours).astype(np.float64)
    return counts / max(truth.neighbours, 1)


def _timed(call: Callable[[], object], clock: Clock) -> float:
    start = clock()
    call()
    return clock() - start
