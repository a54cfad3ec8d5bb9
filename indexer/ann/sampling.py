"""Draws the rows a build is measured on: disjoint sets of held-out queries, sample rows and training rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.ann.engines.routing import POINTS_PER_CENTROID, lists_for
from indexer.ann.exact import unit_floats
from indexer.ann.half import to_float32
from indexer.ann.vectors import Rows
from indexer.types import Float32, Float64, Int64

HELD_OUT = 256  # queries: one half chooses settings, the other reports
SAMPLE_ROWS = 8_192  # random rows on which candidates are built; the queries' nearest rows are added


@dataclass(frozen=True)
class DrawnRows:
    """Positions of the drawn rows. Sample and training rows contain none of the queries."""

    queries: Int64  # ascending
    sample: Int64
    training: Int64


def draw(rows: int, dim: int, memory_bytes: int, seed: int) -> DrawnRows:
    """Draw positions: at most a quarter of the rows is held out; sample and training rows each fill at most a quarter
    of the memory.
    """
    rng = np.random.default_rng(seed)
    queries = np.sort(rng.choice(rows, min(HELD_OUT, rows // 4), replace=False)).astype(np.int64)
    others = np.delete(np.arange(rows, dtype=np.int64), queries)
    room = max(memory_bytes // 4 // (4 * dim), 4 * HELD_OUT)
    sizes = (SAMPLE_ROWS, POINTS_PER_CENTROID * lists_for(rows))
    sample, training = (np.sort(rng.choice(others, min(n, room, len(others)), replace=False)) for n in sizes)
    return DrawnRows(queries, sample, training)


@dataclass(frozen=True)
class GivenQueries:
    """Queries that are no rows of the table, to choose settings and to measure with."""

    name: str  # of their file
    vectors: Float64  # (q, dim) unit rows

    def drawn(self, seed: int) -> tuple[Int64, Float64]:
        """At most HELD_OUT of them, each without a row id of its own (-1)."""
        picked = np.random.default_rng(seed).permutation(len(self.vectors))[:HELD_OUT]
        return np.full(len(picked), -1, np.int64), self.vectors[np.sort(picked)]


def part_of(rows: Rows, positions: Int64) -> Rows:
    """The rows at these positions, in memory."""
    return Rows(rows.row_ids[positions], rows.take(positions), rows.slack)


def floats_of(rows: Rows, positions: Int64) -> Float32:
    """Unit vectors (p, dim) of the rows at these positions; zero for a row without direction."""
    return unit_floats(rows.take(positions), 0.0)


def queries_of(rows: Rows, positions: Int64) -> tuple[Int64, Float64]:
    """Row ids (p,) and unit vectors (p, dim) of the rows at these positions, without rows of no direction."""
    vectors = to_float32(rows.take(positions)).astype(np.float64)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(vectors, axis=1)
    good = np.isfinite(lengths) & (lengths > 0)
    return rows.row_ids[positions][good], vectors[good] / lengths[good, None]
