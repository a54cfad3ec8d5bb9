"""Builds the chosen index over all rows, then tunes and measures it on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.ann.choose import Choice, block_rows
from indexer.ann.engines.kinds import ENGINES
from indexer.ann.engines.protocol import IndexEngine
from indexer.ann.engines.routing import float_blocks
from indexer.ann.goal import Goal
from indexer.ann.index import Searchable
from indexer.ann.manifest import Measured, Settings
from indexer.ann.sampling import HELD_OUT, GivenQueries, queries_of
from indexer.ann.tune import Truth, measure, truth_of, tune
from indexer.ann.vectors import Rows
from indexer.progress.silent import SILENT
from indexer.types import Progress


@dataclass(frozen=True)
class Built:
    """A finished index and its measurements on all rows."""

    index: Any
    engine: IndexEngine
    nlist: int
    settings: Settings
    measured: Measured


def build(rows: Rows, choice: Choice, goal: Goal, *, progress: Progress = SILENT) -> Built:
    """Build the chosen kind over all rows; tune it again on them, and measure it with queries not tuned on."""
    engine = ENGINES[choice.chosen.kind]
    trained = choice.trained if engine.routed else None
    index = engine.build(rows.dim, trained)
    with progress.stage(f"building {choice.chosen.kind}", len(rows)):
        for row_ids, vectors in float_blocks(rows, block_rows(rows.dim, goal.memory_bytes)):
            engine.add(index, [(row_ids, vectors)])
            progress.advance(len(row_ids))
    with progress.stage("measuring"):
        settings, measured = _tuned(Searchable(index, engine, rows), choice.truth, goal.recall)
    return Built(index, engine, 0 if trained is None else len(trained.centroids), settings, measured)


def retune(
    over: Searchable, recall: float, seed: int = 0, given: GivenQueries | None = None
) -> tuple[Settings, Measured]:
    """Settings and measurements with sampled rows or the given queries: one half to choose, the other to measure."""
    rows = over.rows
    picked = np.sort(np.random.default_rng(seed + 1).choice(len(rows), min(HELD_OUT, len(rows)), replace=False))
    own, queries = queries_of(rows, picked) if given is None else given.drawn(seed)
    return _tuned(over, truth_of(rows, queries, own), recall)


def _tuned(over: Searchable, truth: Truth, recall: float) -> tuple[Settings, Measured]:
    if not len(truth.queries):  # too few rows to hold one out: every list is searched
        return Settings(1 + len(over.rows), 10), Measured(1.0, 0.0, 0.0, 0)
    settings = tune(over, truth.half(0), recall)
    return settings, measure(over, truth.half(1) if len(truth.queries) > 1 else truth, settings)
