"""Choosing and building an index for one set of vectors, within a recall, a latency and a memory budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.ann.exact import to_float32
from indexer.ann.index import Searchable
from indexer.ann.kinds import (
    CANDIDATES,
    EXACT,
    KINDS,
    POINTS_PER_CENTROID,
    Kind,
    add_rows,
    empty_index,
    float_blocks,
    lists_for,
    train_centroids,
)
from indexer.ann.manifest import Measured, Settings
from indexer.ann.tune import Truth, measure, speed, truth_of, tune
from indexer.ann.vectors import Rows
from indexer.types import Float32, Int64

SAMPLE_ROWS = 40_000  # candidates are built on so many rows
GRAPH_ROWS = 8_000  # a graph's links cost a hundred times an inverted list's entry
HELD_OUT = 512  # queries: one half chooses settings, the other reports
SMALL_ROWS = 2_000  # below this nothing needs measuring: a scan is under a tenth of a millisecond a thousand rows
SIMILAR_BUILD = 2.0  # builds within this factor of the quickest count as equally cheap; the quicker search decides


@dataclass(frozen=True)
class Goal:
    """What the caller asks of the index."""

    recall: float = 0.98
    latency_ms: float = 5.0
    memory_bytes: int = 4 << 30
    kind: str | None = None  # a name of KINDS: build that one, whatever the measurements say


@dataclass(frozen=True)
class Candidate:
    """One kind, measured on a sample and predicted for all rows."""

    kind: str
    settings: Settings
    recall_at_10: float
    p50_ms: float  # predicted
    queries_per_second: float  # predicted
    nbytes: int  # predicted, of the index file
    build_seconds: float  # predicted, what is still to be done
    reason: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Choice:
    """What was measured, and what follows from it."""

    candidates: tuple[Candidate, ...]
    chosen: Candidate
    verdict: str  # in words
    centroids: Float32 | None
    sample_rows: int


@dataclass(frozen=True)
class Built:
    """A finished index and how it was measured on all rows."""

    index: Any
    kind: Kind
    nlist: int
    settings: Settings
    measured: Measured


def choose(rows: Rows, goal: Goal, seed: int = 0) -> Choice:
    """Measure the candidates on a sample of the rows and pick the cheapest that meets the goal."""
    exact = _exact_candidate(rows, goal, seed)
    if goal.kind == EXACT.name or (goal.kind is None and (len(rows) <= SMALL_ROWS or exact.p50_ms <= goal.latency_ms)):
        verdict = f"{len(rows)} rows are scanned exactly in {exact.p50_ms:.2g} ms a query: no approximation pays."
        exact = _with(exact, verdict, chosen=True)
        return Choice((exact,), exact, verdict, None, 0)
    sample, truth = _sample(rows, goal, seed)
    started = time.perf_counter()
    centroids = train_centroids(_training(rows, goal, seed), lists_for(len(rows)), seed)
    trained = time.perf_counter() - started
    measured = [exact]
    for kind in CANDIDATES:
        if goal.kind not in (None, kind.name):
            continue
        if kind.family == "graph" and goal.kind is None and any(not _fault(c, goal) for c in measured):
            continue  # its links take ten times as long to build as lists that meet the goal
        measured.append(_measure_candidate(kind, rows, sample, truth, centroids, goal))
    candidates, chosen = _pick(measured, goal)
    verdict = f"{chosen.kind}: {chosen.reason}. Routing was trained in {trained:.1f} s and is used for the whole build."
    return Choice(tuple(candidates), chosen, verdict, centroids, len(sample))


def build(
    rows: Rows, choice: Choice, goal: Goal, *, seed: int = 0, progress: Callable[[int], None] | None = None
) -> Built:
    """Build the chosen kind over all rows; tune it again on them, and measure it with queries not tuned on."""
    kind = KINDS[choice.chosen.kind]
    centroids = choice.centroids if kind.family == "ivf" else None
    index = empty_index(kind, rows.dim, centroids, _training(rows, goal, seed))
    for row_ids, vectors in float_blocks(rows, _block_rows(rows.dim, goal)):
        add_rows(index, [(row_ids, vectors)])
        if progress:
            progress(len(row_ids))
    settings, measured = retune(Searchable(index, kind, rows), goal.recall, seed)
    return Built(index, kind, 0 if centroids is None else len(centroids), settings, measured)


def retune(over: Searchable, recall: float, seed: int = 0) -> tuple[Settings, Measured]:
    """Settings chosen on one half of the held-out queries, figures from the other half."""
    rows = over.rows
    if not len(rows):
        return Settings(0, 10), Measured(1.0, 0.0, 0.0, 0)
    picked = np.sort(np.random.default_rng(seed + 1).choice(len(rows), min(HELD_OUT, len(rows)), replace=False))
    truth = truth_of(rows, to_float32(rows.vectors[picked]), rows.row_ids[picked])
    settings, _ = tune(over, truth.half(0), recall)
    return settings, measure(over, truth.half(1) if len(picked) > 1 else truth, settings)


def _exact_candidate(rows: Rows, goal: Goal, seed: int) -> Candidate:
    n = max(min(len(rows), 16_384), 1)
    picked = _picked(len(rows), n, seed)
    part = Rows(rows.row_ids[picked], rows.vectors[picked])
    index = empty_index(EXACT, rows.dim, None, to_float32(part.vectors))
    started = time.perf_counter()
    add_rows(index, float_blocks(part, _block_rows(rows.dim, goal)))
    added = time.perf_counter() - started
    settings = Settings(0, 10)
    queries = to_float32(part.vectors[: min(64, len(part))])
    if not len(queries):
        return Candidate(EXACT.name, settings, 1.0, 0.0, 0.0, 0, 0.0)
    p50_ms, rate = speed(Searchable(index, EXACT, part), queries, settings)
    scale = len(rows) / len(part)
    return Candidate(
        EXACT.name, settings, 1.0, p50_ms * scale, rate / scale,
        int(EXACT.bytes_per_vector(rows.dim) * len(rows)), added * scale,
    )  # fmt: skip


def _measure_candidate(kind: Kind, rows: Rows, sample: Rows, truth: Truth, centroids: Float32, goal: Goal) -> Candidate:
    part, answers = sample, truth
    if kind.family == "graph" and len(sample) > GRAPH_ROWS:
        part = Rows(sample.row_ids[:GRAPH_ROWS], sample.vectors[:GRAPH_ROWS])
        answers = truth_of(part, truth.queries, truth.own)
    started = time.perf_counter()
    index = empty_index(kind, rows.dim, centroids if kind.family == "ivf" else None, to_float32(part.vectors))
    add_rows(index, float_blocks(part, _block_rows(rows.dim, goal)))
    added = time.perf_counter() - started
    over = Searchable(index, kind, part)
    settings, _ = tune(over, answers.half(0), goal.recall)
    got = measure(over, answers.half(1), settings)
    grown = len(rows) / len(part)
    per_query, batch = _scaled(kind, index, got, answers.queries, settings, grown, len(part))
    build_seconds = added * grown * (np.log(len(rows)) / np.log(len(part)) if kind.family == "graph" else 1.0)
    nbytes = int(kind.bytes_per_vector(rows.dim) * len(rows))
    return Candidate(kind.name, settings, got.recall_at_10, per_query, 1e3 / batch, nbytes, float(build_seconds))


def _scaled(
    kind: Kind, index: Any, got: Measured, queries: Float32, settings: Settings, grown: float, sampled: int
) -> tuple[float, float]:
    """Milliseconds (one at a time, in a batch) at `grown` times the rows: lists grow with them, routing does not."""
    if kind.family == "graph":
        factor = float(np.log(grown * sampled) / np.log(sampled))
        return got.p50_ms * factor, 1e3 / got.queries_per_second * factor
    few = queries[:64]
    started = time.perf_counter()
    index.quantizer.search(few, settings.nprobe)
    routing_batch = 1e3 * (time.perf_counter() - started) / len(few)
    started = time.perf_counter()
    index.quantizer.search(few[:1], settings.nprobe)
    routing = 1e3 * (time.perf_counter() - started)
    single, batch = got.p50_ms, 1e3 / got.queries_per_second
    return (
        routing + max(single - routing, 0.0) * grown,
        routing_batch + max(batch - routing_batch, 0.0) * grown,
    )


def _pick(measured: list[Candidate], goal: Goal) -> tuple[list[Candidate], Candidate]:
    """Reasons for every candidate, and the one to build."""
    faults = {c.kind: _fault(c, goal) for c in measured}
    fit = [c for c in measured if not faults[c.kind]]
    if goal.kind is not None:
        best = next(c for c in measured if c.kind == goal.kind)
        why = "asked for" + (f", though {faults[best.kind]}" if faults[best.kind] else "")
    elif fit:
        quickest = min(c.build_seconds for c in fit)
        cheap = [c for c in fit if c.build_seconds <= SIMILAR_BUILD * max(quickest, 0.5)]
        best = max(cheap, key=lambda c: c.queries_per_second)
        why = "meets recall and latency, builds as quickly as any that does, and answers the most queries a second"
    else:
        best = max(measured, key=lambda c: (c.nbytes <= goal.memory_bytes, min(c.recall_at_10, goal.recall), -c.p50_ms))
        why = f"NO candidate met the goal ({faults[best.kind]}); this comes nearest"
    out = []
    for c in measured:
        slower = "slower to build" if fit and c.build_seconds > 2 * best.build_seconds else "fewer queries a second"
        out.append(_with(c, why, chosen=True) if c is best else _with(c, faults[c.kind] or slower, chosen=False))
    return out, next(c for c in out if c.chosen)


def _fault(c: Candidate, goal: Goal) -> str:
    if c.nbytes > goal.memory_bytes:
        return f"needs {c.nbytes / 2**30:.2g} GiB, more than --memory"
    if c.recall_at_10 < goal.recall - 0.005:  # its settings reached the target on the other half of the queries
        return f"recall {c.recall_at_10:.3f} is below {goal.recall:g}"
    if c.p50_ms > goal.latency_ms:
        return f"{c.p50_ms:.3g} ms a query is over {goal.latency_ms:g}"
    return ""


def _with(c: Candidate, reason: str, *, chosen: bool) -> Candidate:
    return Candidate(
        c.kind, c.settings, c.recall_at_10, c.p50_ms, c.queries_per_second, c.nbytes, c.build_seconds, reason, chosen
    )


def _sample(rows: Rows, goal: Goal, seed: int) -> tuple[Rows, Truth]:
    """Rows to build candidates on, and queries that are not among them."""
    budget = max(goal.memory_bytes // 4 // (4 * rows.dim), 4 * HELD_OUT)
    n = min(len(rows), SAMPLE_ROWS + HELD_OUT, budget)
    picked = _picked(len(rows), n, seed)
    held = min(HELD_OUT, len(picked) // 4)
    order = np.random.default_rng(seed + 2).permutation(len(picked))
    queries, kept = picked[order[:held]], picked[np.sort(order[held:])]
    sample = Rows(rows.row_ids[kept], rows.vectors[kept])
    return sample, truth_of(sample, to_float32(rows.vectors[queries]), np.full(held, -1, np.int64))


def _training(rows: Rows, goal: Goal, seed: int) -> Float32:
    budget = max(goal.memory_bytes // 4 // (4 * rows.dim), 256)
    n = min(len(rows), POINTS_PER_CENTROID * lists_for(len(rows)), budget)
    return to_float32(rows.vectors[_picked(len(rows), n, seed + 3)])


def _picked(rows: int, n: int, seed: int) -> Int64:
    if n >= rows:
        return np.arange(rows, dtype=np.int64)
    return np.sort(np.random.default_rng(seed).choice(rows, n, replace=False)).astype(np.int64)


def _block_rows(dim: int, goal: Goal) -> int:
    return int(np.clip(goal.memory_bytes // 16 // (4 * dim), 1_024, 65_536))
