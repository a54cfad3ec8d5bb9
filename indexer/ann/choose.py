"""Chooses the index to build: measures every engine on a sample against recall, latency and memory."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, replace

import numpy as np

from indexer.ann.engines.kinds import CANDIDATES, EXACT
from indexer.ann.engines.protocol import IndexEngine, K, Trained
from indexer.ann.engines.routing import (
    KMEANS_ROUNDS,
    POINTS_PER_CENTROID,
    float_blocks,
    lists_for,
    train_centroids,
)
from indexer.ann.goal import Goal
from indexer.ann.index import Searchable, answer
from indexer.ann.manifest import Settings
from indexer.ann.sampling import HELD_OUT, GivenQueries, draw, floats_of, part_of, queries_of
from indexer.ann.tune import CPU, Truth, measure, recall_at_10, speed, truth_of, tune
from indexer.ann.vectors import Rows
from indexer.types import Float64

EXACT_ROWS = 16_384  # rows timed to predict a scan of all rows
GRAPH_ROWS = 8_000  # sample of a graph: adding a row takes a hundred times as long as to an inverted list
SMALL_ROWS = 2_000  # fewer are not measured: a scan takes under a tenth of a millisecond a thousand rows
RANGE_POINTS = 8_192  # rows that set the ranges of 8-bit codes; more changed them by less than one code
NEAR = 32  # nearest rows of each query in the sample: its neighbours, and rows with similar codes
SIMILAR_BUILD = 2.0  # builds within this factor of the quickest count as equally cheap; the quicker search decides


@dataclass(frozen=True)
class Candidate:
    """One kind, measured on a sample and predicted for all rows."""

    kind: str
    settings: Settings
    recall_at_10: float
    p50_ms: float  # predicted
    queries_per_second: float  # predicted
    nbytes: int  # predicted, of the index file
    build_seconds: float  # predicted, of the remaining build
    reason: str = ""
    chosen: bool = False


@dataclass(frozen=True)
class Choice:
    """The measured candidates and the one chosen."""

    candidates: tuple[Candidate, ...]
    chosen: Candidate
    verdict: str  # one sentence for the user
    truth: Truth  # of held-out queries over all rows, to tune the built index
    trained: Trained | None  # None where the index is exact
    sample_rows: int


def predicted_seconds(rows: int, dim: int) -> float:
    """Predicted seconds of a whole build on this machine, from a tenth of a second of matrix products and hashing.

    Counted are the products for routing (k-means passes over the training points, every row against every centroid),
    those for the exact truth (held-out queries against every row), and reading, writing and hashing of the bytes.
    """
    nlist, n = lists_for(rows), 4_096
    rng = np.random.default_rng(0)
    points, centroids = (rng.standard_normal((m, dim), np.float32) for m in (n, min(nlist, n)))
    started = time.perf_counter()
    (points @ centroids.T).argmax(1)
    per_product = (time.perf_counter() - started) / (n * len(centroids))
    chunk = points.tobytes()
    started = time.perf_counter()
    hashlib.sha256(bytearray(chunk))
    per_byte = 2 * (time.perf_counter() - started) / len(chunk)
    training = min(rows, POINTS_PER_CENTROID * nlist) * KMEANS_ROUNDS
    return per_product * ((training + rows) * nlist + rows * HELD_OUT) + per_byte * rows * dim * 4


def choose(rows: Rows, goal: Goal, seed: int = 0, given: GivenQueries | None = None) -> Choice:
    """Measure the candidates on a sample of the rows and pick the cheapest that meets the goal.

    Queries are rows that are held out, or the given ones.
    """
    drawn = draw(len(rows), rows.dim, goal.memory_bytes, seed)
    own, queries = queries_of(rows, drawn.queries) if given is None else given.drawn(seed)
    truth = truth_of(rows, queries, own, NEAR)
    exact = _exact_candidate(rows, goal)
    small = len(rows) <= SMALL_ROWS or exact.p50_ms <= goal.latency_ms
    # One to choose settings and one to report are needed: without, exact whatever was requested
    too_few = len(queries) < 2
    if goal.kind == EXACT.name or too_few or (goal.kind is None and small):
        verdict = f"{len(rows)} rows are scanned exactly in {exact.p50_ms:.2g} ms a query: no approximation pays."
        exact = replace(exact, reason=verdict, chosen=True)
        return Choice((exact,), exact, verdict, truth, None, 0)
    # Sampled rows are further apart than all rows, so that more lists would have to be searched than in the whole
    # table. The queries' nearest rows are therefore added to the sample.
    near = np.unique(rows.positions(truth.ids[truth.ids >= 0]))
    sample = part_of(rows, np.union1d(drawn.sample, near))
    started = time.perf_counter()
    training = floats_of(rows, drawn.training)
    trained = Trained(
        train_centroids(training, lists_for(len(rows)), seed), training[:: max(1, len(training) // RANGE_POINTS)].copy()
    )
    seconds = time.perf_counter() - started
    del training
    measured = [exact]
    for engine in CANDIDATES:
        if goal.kind not in (None, engine.name) or (engine.missing and goal.kind is None):
            continue
        if engine.routed:
            measured.append(_measure_lists(engine, len(rows), sample, truth, trained, goal))
        elif goal.kind is not None or all(_fault(c, goal) for c in measured):
            # A graph takes ten times as long to build as lists that meet the goal.
            measured.append(_measure_graph(engine, len(rows), sample, truth, goal))
    candidates, chosen = _pick(measured, goal)
    verdict = f"{chosen.kind}: {chosen.reason}. Routing was trained in {seconds:.1f} s and is used for the whole build."
    return Choice(tuple(candidates), chosen, verdict, truth, trained, len(sample))


def block_rows(dim: int, memory_bytes: int) -> int:
    """Rows converted to float32 at once: a sixteenth of the memory."""
    return int(np.clip(memory_bytes // 16 // (4 * dim), 1_024, 65_536))


def _exact_candidate(rows: Rows, goal: Goal) -> Candidate:
    settings = Settings(0, 10)
    if not len(rows):
        return Candidate(EXACT.name, settings, 1.0, 0.0, 0.0, 0, 0.0)
    part = Rows(rows.row_ids[:EXACT_ROWS], rows.vectors[:EXACT_ROWS], rows.slack)
    queries = queries_of(part, np.arange(min(32, len(part))))[1]
    if not len(queries):
        return Candidate(EXACT.name, settings, 1.0, 0.0, 0.0, 0, 0.0)
    index = EXACT.build(rows.dim, None)
    started = CPU.batch()
    EXACT.add(index, float_blocks(part, block_rows(rows.dim, goal.memory_bytes)))
    added = CPU.batch() - started
    p50_ms, rate = speed(Searchable(index, EXACT, part), queries, settings, CPU)
    scale = len(rows) / len(part)
    return Candidate(
        EXACT.name, settings, 1.0, p50_ms * scale, rate / scale,
        int(EXACT.bytes_per_vector(rows.dim) * len(rows)), added * scale,
    )  # fmt: skip


def _measure_lists(engine: IndexEngine, n: int, sample: Rows, truth: Truth, trained: Trained, goal: Goal) -> Candidate:
    """Inverted lists: recall over the sample with the build's own centroids, speed with lists of their full length."""
    index = engine.build(sample.dim, trained)
    started = CPU.batch()
    engine.add(index, float_blocks(sample, block_rows(sample.dim, goal.memory_bytes)))
    added = (CPU.batch() - started) * n / len(sample)
    over = Searchable(index, engine, sample)
    settings = tune(over, truth.half(0), goal.recall)
    shown = truth.half(1)
    recall = float(recall_at_10(shown, sample, answer(over, shown.queries, K + 1, settings)[1]).mean())
    single, batch = _list_speed(engine, n, sample, shown.queries, trained, settings)
    nbytes = int(engine.bytes_per_vector(sample.dim) * n)
    return Candidate(engine.name, settings, recall, single, 1e3 / batch, nbytes, added)


def _list_speed(
    engine: IndexEngine, n: int, sample: Rows, queries: Float64, trained: Trained, settings: Settings
) -> tuple[float, float]:
    """Predicted milliseconds of a query alone and in a batch at n rows.

    The sample is distributed over so few lists that each has its final length: searching a list has a fixed cost and a
    cost for each row, and both differ by kind.
    """
    nlist = len(trained.centroids)
    few = int(np.clip(round(nlist * len(sample) / n), min(2, nlist), nlist))
    index = engine.build(sample.dim, Trained(trained.centroids[:few], trained.ranges))
    engine.add(index, float_blocks(sample, len(sample)))
    over = Searchable(index, engine, sample)
    alone, together = zip(*(speed(over, queries, replace(settings, nprobe=p), CPU) for p in (1, few)), strict=True)
    lists = (settings.nprobe - 1) / max(few - 1, 1)
    batch = [1e3 / rate for rate in together]
    return alone[0] + max(alone[1] - alone[0], 0.0) * lists, batch[0] + max(batch[1] - batch[0], 0.0) * lists


def _measure_graph(engine: IndexEngine, n: int, sample: Rows, truth: Truth, goal: Goal) -> Candidate:
    """A graph, built over fewer rows: its width and its time grow with the logarithm of the rows."""
    part = part_of(sample, np.arange(0, len(sample), max(1, len(sample) // GRAPH_ROWS)))
    answers = truth_of(part, truth.queries, truth.own)
    index = engine.build(part.dim, None)
    started = CPU.batch()
    engine.add(index, float_blocks(part, block_rows(part.dim, goal.memory_bytes)))
    added = CPU.batch() - started
    over = Searchable(index, engine, part)
    settings = tune(over, answers.half(0), goal.recall)
    got = measure(over, answers.half(1), settings, CPU)
    longer = float(np.log(n) / np.log(len(part))) if len(part) > 1 else 1.0
    nbytes = int(engine.bytes_per_vector(part.dim) * n)
    return Candidate(
        engine.name, settings, got.recall_at_10, got.p50_ms * longer, got.queries_per_second / longer, nbytes,
        added * n / len(part) * longer,
    )  # fmt: skip


def _pick(measured: list[Candidate], goal: Goal) -> tuple[list[Candidate], Candidate]:
    """The candidates with their reasons, and the one to build."""
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
        out.append(replace(c, reason=why, chosen=True) if c is best else replace(c, reason=faults[c.kind] or slower))
    return out, next(c for c in out if c.chosen)


def _fault(c: Candidate, goal: Goal) -> str:
    if c.nbytes > goal.memory_bytes:
        return f"needs {c.nbytes / 2**30:.2g} GiB, more than --memory"
    if c.recall_at_10 < goal.recall - 0.005:  # tolerance: the settings were chosen on the other half of the queries
        return f"recall {c.recall_at_10:.3f} is below {goal.recall:g}"
    if c.p50_ms > goal.latency_ms:
        return f"{c.p50_ms:.3g} ms a query is over {goal.latency_ms:g}"
    return ""
