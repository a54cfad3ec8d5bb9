"""Late interaction: a group's score is the mean, over the query's parts, of the best cosine to one of its rows.

The score is MaxSim of ColBERT (Khattab and Zaharia, 2020), divided by the number of the query's parts, so that it is a
mean cosine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.ann.exact import DECIMALS
from indexer.errors import RowNotFound
from indexer.groups.pooling import directed
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64

ROWS = 8_192  # read at once
PARTS = 256  # of the query, multiplied with these rows at once


@dataclass(frozen=True)
class Asked:
    """The parts of one query."""

    vectors: Float64  # (m, dim) unit rows
    names: Sequence[str]


def late_scores(view: EmbeddingStore, asked: Asked, groups: Sequence[Int64]) -> Float64:
    """The score (g,) of each group of row ids; -inf for an empty one."""
    sizes = np.array([len(rows) for rows in groups], np.int64)
    out = np.full(len(groups), -np.inf)
    flat = np.concatenate([np.empty(0, np.int64), *groups])
    owner = np.repeat(np.arange(len(groups)), sizes)
    best = np.full(len(asked.vectors), -np.inf)  # of the group that is read
    current = -1
    for start, rows in _read(view, flat):
        own = owner[start : start + len(rows)]
        first = np.flatnonzero(np.r_[True, own[1:] != own[:-1]])
        found = _best_by_group(asked.vectors, rows, first)
        for column, group in enumerate(own[first].tolist()):
            if group != current:
                best, current = np.full(len(asked.vectors), -np.inf), group
            best = np.maximum(best, found[:, column])
            out[group] = best.mean()  # the last block that holds rows of the group has the last word
    return np.round(out, DECIMALS)


def nearest_parts(view: EmbeddingStore, asked: Asked, rows: Int64) -> tuple[Float64, Int64]:
    """For each part of the query the cosine (m,) and the row id (m,) of the nearest of these rows."""
    best, ids = np.full(len(asked.vectors), -np.inf), np.full(len(asked.vectors), -1, np.int64)
    for start, vectors in _read(view, rows):
        cosines = asked.vectors @ vectors.T
        spots = cosines.argmax(axis=1)
        found = cosines[np.arange(len(spots)), spots]
        better = found > best
        best[better], ids[better] = found[better], rows[start + spots[better]]
    return np.round(best, DECIMALS), ids


def _best_by_group(parts: Float64, rows: Float64, first: Int64) -> Float64:
    """The best cosine (m, g) of each part to the rows from one of the positions `first` (g,) to the next."""
    blocks = [
        np.maximum.reduceat(parts[start : start + PARTS] @ rows.T, first, axis=1)
        for start in range(0, len(parts), PARTS)
    ]
    out: Float64 = np.concatenate(blocks)
    return out


def _read(view: EmbeddingStore, row_ids: Int64) -> Iterator[tuple[int, Float64]]:
    """The unit rows (≤ ROWS, dim) of these ids, in order, each block with its position."""
    for start in range(0, len(row_ids), ROWS):
        found, table = view.take(row_ids[start : start + ROWS], [], vectors=True)
        if not found.all():
            raise RowNotFound(f"a row of a group of table {view.name} cannot be read: the table was damaged.")
        yield start, np.concatenate([directed(vector_block(batch)) for batch in table.to_batches()])
