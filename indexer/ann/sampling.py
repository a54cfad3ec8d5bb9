"""Which rows a build measures with: held-out queries, and, apart from them, a sample and the training points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.ann.exact import to_float32
from indexer.ann.kinds import POINTS_PER_CENTROID, lists_for
from indexer.ann.vectors import Rows
from indexer.types import Float32, Int64

HELD_OUT = 256  # queries: one half chooses settings, the other reports
SAMPLE_ROWS = 8_192  # candidates are built on so many rows, and on those nearest to the queries


@dataclass(frozen=True)
class Drawn:
    """Positions in the rows. The sample and the training points hold none of the queries."""

    queries: Int64  # ascending
    sample: Int64
    training: Int64


def draw(rows: int, dim: int, memory_bytes: int, seed: int) -> Drawn:
    """A quarter of the rows at most is held out; sample and training points each take a quarter of the memory."""
    rng = np.random.default_rng(seed)
    queries = np.sort(rng.choice(rows, min(HELD_OUT, rows // 4), replace=False)).astype(np.int64)
    others = np.delete(np.arange(rows, dtype=np.int64), queries)
    room = max(memory_bytes // 4 // (4 * dim), 4 * HELD_OUT)
    sizes = (SAMPLE_ROWS, POINTS_PER_CENTROID * lists_for(rows))
    sample, training = (np.sort(rng.choice(others, min(n, room, len(others)), replace=False)) for n in sizes)
    return Drawn(queries, sample, training)


def part_of(rows: Rows, positions: Int64) -> Rows:
    """Those rows alone, in memory."""
    return Rows(rows.row_ids[positions], rows.vectors[positions])


def floats_of(rows: Rows, positions: Int64) -> Float32:
    return to_float32(rows.vectors[positions])
