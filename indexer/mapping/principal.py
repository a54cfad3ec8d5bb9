"""Principal component analysis of all rows in two passes, in memory that does not grow with the rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.ann.exact import unit_floats
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float16, Float64, Int64, Progress

AXES = 2


@dataclass(frozen=True)
class Plane:
    """The plane of the largest variance of unit rows."""

    mean: Float64  # (dim,)
    axes: Float64  # (dim, 2), orthonormal; of each the entry of the largest magnitude is positive
    explained: float  # share of the variance along both axes; 0 where all rows are equal

    def project(self, units: Float64) -> Float64:
        """Unit rows (m, dim) → coordinates (m, 2)."""
        placed: Float64 = (units - self.mean) @ self.axes
        return placed


def fit_plane(view: EmbeddingStore, progress: Progress) -> tuple[Plane, Int64]:
    """The plane, and the ids (n,) of the rows that have a direction, in the table's order."""
    dim = view.dim
    ids, shift = [np.empty(0, np.int64)], np.zeros(dim)
    total, products, n = np.zeros(dim), np.zeros((dim, dim)), 0
    for batch in view.scan([], vectors=True):
        row_ids, units = directed(batch.column("_rowid").to_numpy().astype(np.int64), vector_block(batch))
        progress.advance(batch.num_rows)
        if not n and len(units):
            shift = units.mean(axis=0, dtype=np.float64)  # a covariance of numbers near 0 loses no digits
        centred = units - shift
        total += centred.sum(axis=0)
        products += centred.T @ centred
        n += len(units)
        ids.append(row_ids)
    mean = total / max(n, 1)
    covariance = products / max(n, 1) - np.outer(mean, mean)
    return _plane(mean + shift, covariance), np.concatenate(ids)


def directed(row_ids: Int64, vectors: Float16) -> tuple[Int64, Float64]:
    """Ids and unit rows of those that have a direction: neither zero nor infinite."""
    units = unit_floats(vectors)
    good = np.isfinite(units).all(axis=1)
    return row_ids[good], units[good].astype(np.float64)


def _plane(mean: Float64, covariance: Float64) -> Plane:
    values, axes = np.linalg.eigh(covariance)
    best = axes[:, ::-1][:, :AXES]
    best = best * np.where(best[np.abs(best).argmax(axis=0), np.arange(best.shape[1])] < 0, -1.0, 1.0)
    if best.shape[1] < AXES:  # vectors of one number
        best = np.pad(best, ((0, 0), (0, AXES - best.shape[1])))
    spread = float(np.trace(covariance))
    explained = float(values[::-1][:AXES].sum() / spread) if spread > 0 else 0.0
    return Plane(mean, best, min(1.0, max(0.0, explained)))
