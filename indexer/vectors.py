"""Normalisation of raw vectors, and the mean pairwise cosine of unit vectors."""

from __future__ import annotations

import threading

import numpy as np

from indexer.types import Bool, Float16, Float32, Float64

SpreadFacts = tuple[Float64, int]  # sum of the vectors (dim,), their number


class Spread:
    """Running mean pairwise cosine of unit vectors, near 1 for a collapsed encoder. Thread-safe.

    Keeps only the sum s of the n vectors: the mean over pairs of different vectors is (|s|² − n) / (n (n − 1)).
    """

    def __init__(self, dim: int) -> None:
        self._sum, self._n = np.zeros(dim), 0
        self._lock = threading.Lock()

    def add(self, vectors: Float16) -> None:
        with self._lock:
            self._sum += vectors.sum(axis=0, dtype=np.float64)
            self._n += len(vectors)

    def facts(self) -> SpreadFacts:
        with self._lock:
            return self._sum.copy(), self._n

    def merge(self, facts: SpreadFacts) -> None:
        """Add the vectors of another one."""
        with self._lock:
            self._sum += facts[0]
            self._n += facts[1]

    def mean_cosine(self) -> float | None:
        """Mean over all pairs of different rows; None for fewer than two rows."""
        if self._n < 2:
            return None
        return float((self._sum @ self._sum - self._n) / (self._n * (self._n - 1)))


def unit_rows(raw: Float32) -> tuple[Float16, Float32, Bool]:
    """Raw vectors (n, dim) → unit rows (n, dim) float16, norms (n,), and a mask (n,) of the valid rows.

    A row is valid where its norm is positive, finite and within float32; an invalid row becomes zeros.
    """
    raw = np.asarray(raw, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", raw, raw, dtype=np.float64))
    good = np.isfinite(norms) & (norms > 0) & (norms < np.finfo(np.float32).max)
    safe = np.where(good, norms, 1.0)
    units = (raw if good.all() else np.where(good[:, None], raw, 0)) / safe[:, None]
    return units.astype(np.float16), norms.astype(np.float32), good
