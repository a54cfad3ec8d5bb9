"""Ranks the groups of a table for one query: candidates by their pooled vectors, then by late interaction."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np

from indexer.groups.pooling import directed
from indexer.search.by_group.late import Asked, late_scores
from indexer.store.pooled import PooledTable
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64

CANDIDATE_ROWS = 65_536  # rows of the candidates that are ranked together
FEWEST = 50  # candidates ranked together, however many rows they have


@dataclass(frozen=True)
class Ranked:
    """A group and its rows that the options allow."""

    group: str
    score: float
    row_ids: Int64


@dataclass
class Looked:
    """What a search looked at."""

    groups: int = 0  # with a row that the options allow or without
    of: int = 0


def ranked_groups(
    view: EmbeddingStore,
    pooled: PooledTable,
    asked: Asked,
    allowed: Callable[[Int64], Int64],
    own: Collection[str],
    *,
    exact: bool,
    looked: Looked,
) -> Iterator[list[Ranked]]:
    """Groups with an allowed row, best first, in lists: each is of the next candidates by pooled vectors.

    A list's groups are ranked among each other, and stand behind those of the lists before it, so that pages do not
    depend on how many hits are asked for. `exact`: all groups are in one list. `allowed` leaves of row ids those that
    may match; groups in `own` are left out.
    """
    cosines, sizes = _pooled_cosines(pooled, asked.vectors.mean(axis=0))
    looked.of = len(cosines)
    order = np.argsort(-cosines, kind="stable")
    found: list[Ranked] = []
    for positions in _cut(order, sizes):
        groups = [(name, allowed(rows)) for name, rows in pooled.taken(positions) if name not in own]
        groups = [(name, rows) for name, rows in groups if len(rows)]
        looked.groups += len(positions)
        scores = late_scores(view, asked, [rows for _, rows in groups])
        found += [Ranked(name, score, rows) for (name, rows), score in zip(groups, scores.tolist(), strict=True)]
        if not exact:
            yield _sorted(found)
            found = []
    yield _sorted(found)


def _sorted(found: list[Ranked]) -> list[Ranked]:
    return sorted(found, key=lambda one: (-one.score, one.group))


def _pooled_cosines(pooled: PooledTable, query: Float64) -> tuple[Float64, Int64]:
    """Cosine to the query's mean (up to its length) and number of rows of each group (g,), in the order of a scan."""
    cosines, sizes = [np.empty(0)], [np.empty(0, np.int64)]
    for batch in pooled.scan(["rows", "vector"]):
        cosines.append(np.round(directed(vector_block(batch)) @ query, 12))
        sizes.append(batch.column("rows").to_numpy())
    return np.concatenate(cosines), np.concatenate(sizes)


def _cut(order: Int64, sizes: Int64) -> Iterator[Int64]:
    """The positions in runs of at most CANDIDATE_ROWS rows, or of FEWEST groups where these have more."""
    start = 0
    total = np.cumsum(sizes[order])
    while start < len(order):
        before = total[start - 1] if start else 0
        fitting = int(np.searchsorted(total, before + CANDIDATE_ROWS, side="right")) - start
        stop = start + max(fitting, FEWEST)
        yield order[start:stop]
        start = stop
