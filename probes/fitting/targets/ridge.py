"""D36: ridge regression for every alpha at once, from sums over the rows or, with fewer rows than features, from them.

min over w, b of Σᵢ (yᵢ - w·xᵢ - b)² + α‖w‖², scikit-learn's objective; the intercept b is not penalised. With the
eigenvectors Q and eigenvalues λ of the centred XᵀX, w(α) = Q (λ + α)⁻¹ Qᵀ Xᵀy. The held-out squared error of every α
follows from the held-out rows' sums, so that the rows are read once whatever the number of alphas and folds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from indexer.types import Float64, Int64
from probes.cohort.scaling import BLOCK, ScaledRows
from probes.compute.threads import one_thread

ALPHAS: Float64 = 10.0 ** np.arange(-6, 8.01, 0.25)
SMALL = 500  # rows or features of an eigenproblem that one thread solves in a tenth of a second, on busy cores too


@dataclass(frozen=True)
class Sums:
    """Sums over some rows of x (dim,), y, xxᵀ, xy and y², of shifted features and numbers."""

    n: float
    x: Float64
    y: float
    xx: Float64  # (dim, dim)
    xy: Float64  # (dim,)
    yy: float

    def __add__(self, other: Sums) -> Sums:
        return Sums(*(a + b for a, b in zip(self._fields(), other._fields(), strict=True)))

    def __sub__(self, other: Sums) -> Sums:
        return Sums(*(a - b for a, b in zip(self._fields(), other._fields(), strict=True)))

    def _fields(self) -> tuple[Any, ...]:
        return self.n, self.x, self.y, self.xx, self.xy, self.yy


@dataclass(frozen=True)
class Path:
    """Solutions for several alphas: weights (a, dim) and intercepts (a,)."""

    weights: Float64
    intercepts: Float64


def _shift_of(x: ScaledRows, y: Float64) -> tuple[Float64, float]:
    """The means of features and numbers. Sums of what is left of both lose no digits where the means are large."""
    total = np.zeros(x.shape[1])
    for start in range(0, len(y), BLOCK):
        total += x[start : start + BLOCK].sum(0)
    return total / max(len(y), 1), float(y.mean())


def sums_of(x: ScaledRows, y: Float64, shift: tuple[Float64, float]) -> Sums:
    """The sums over all rows of x (n, dim), block by block."""
    dim = x.shape[1]
    total = Sums(0.0, np.zeros(dim), 0.0, np.zeros((dim, dim)), np.zeros(dim), 0.0)
    for start in range(0, len(y), BLOCK):
        rows, own = x[start : start + BLOCK] - shift[0], y[start : start + BLOCK] - shift[1]
        total.xx[...] += rows.T @ rows
        total = Sums(
            total.n + len(own), total.x + rows.sum(0), total.y + float(own.sum()), total.xx,
            total.xy + rows.T @ own, total.yy + float(own @ own),
        )  # fmt: skip
    return total


def _path_of_sums(sums: Sums, alphas: Sequence[float] | Float64) -> Path:
    """Solutions for more rows than features."""
    mean = sums.x / sums.n
    gram = sums.xx - np.outer(sums.x, mean)
    values, vectors = _eigen(gram)
    along = vectors.T @ (sums.xy - sums.x * (sums.y / sums.n))
    weights = (along / (values + np.asarray(alphas)[:, None])) @ vectors.T
    return Path(weights, sums.y / sums.n - weights @ mean)


def _path_of_rows(x: Float64, y: Float64, alphas: Sequence[float] | Float64) -> Path:
    """Solutions for fewer rows x (n, dim) than features: w = Xᵀ (XXᵀ + α)⁻¹ y, of centred rows."""
    mean, level = x.mean(0), float(y.mean())
    centred = x - mean
    values, vectors = _eigen(centred @ centred.T)
    along = vectors.T @ (y - level)
    weights = ((along / (values + np.asarray(alphas)[:, None])) @ vectors.T) @ centred
    return Path(weights, level - weights @ mean)


def _eigen(gram: Float64) -> tuple[Float64, Float64]:
    """Eigenvalues, of which rounding makes none negative, and eigenvectors."""
    if len(gram) <= SMALL:
        with one_thread():
            values, vectors = np.linalg.eigh(gram)
    else:
        values, vectors = np.linalg.eigh(gram)
    return np.maximum(values, 0.0), vectors


def squared_errors(path: Path, held: Sums) -> Float64:
    """(a,) Σ (y - w·x - b)² over the held-out rows, from their sums."""
    w, b = path.weights, path.intercepts
    quadratic = np.einsum("ad,ad->a", w @ held.xx, w)
    cross = w @ held.xy + b * held.y - b * (w @ held.x)
    return np.asarray(np.maximum(held.yy - 2 * cross + quadratic + held.n * b**2, 0.0))


@dataclass(frozen=True)
class Ridge:
    """Rows of one matrix on which ridge regressions are fitted; numbers y (n,)."""

    x: ScaledRows
    y: Float64
    shift: tuple[Float64, float]

    def sums(self, rows: Int64) -> Sums:
        return sums_of(self.x.take(rows), self.y[rows], self.shift)

    def path(self, rows: Int64, alphas: Sequence[float] | Float64, sums: Sums | None = None) -> Path:
        """Solutions on these rows, of shifted features and numbers. `sums` are the rows' own, where they are known."""
        if len(rows) > self.x.shape[1]:
            return _path_of_sums(self.sums(rows) if sums is None else sums, alphas)
        return _path_of_rows(self.x.take(rows).whole() - self.shift[0], self.y[rows] - self.shift[1], alphas)

    def fit(self, alpha: float) -> Path:
        """The one solution on all rows, of features and numbers as they are."""
        path = self.path(np.arange(len(self.y)), [alpha])
        return Path(path.weights, path.intercepts + self.shift[1] - path.weights @ self.shift[0])


def ridge_on(x: ScaledRows, y: Float64) -> Ridge:
    return Ridge(x, y, _shift_of(x, y))


def inner_errors(ridge: Ridge, folds: Sequence[tuple[Int64, Int64]]) -> Float64:
    """(a,) mean over the folds (fit rows, held-out rows) of the held-out root mean squared error of each alpha.

    The folds' held-out rows are disjoint, and their fit rows all other rows of the folds.
    """
    held = [ridge.sums(rows) for _, rows in folds]
    every = np.unique(np.concatenate([np.concatenate(fold) for fold in folds]))
    outside = np.setdiff1d(every, np.concatenate([rows for _, rows in folds]))
    whole = ridge.sums(outside)
    for part in held:
        whole = whole + part
    errors = [
        np.sqrt(squared_errors(ridge.path(fit, ALPHAS, whole - own), own) / own.n)
        for (fit, _), own in zip(folds, held, strict=True)
    ]
    return np.asarray(np.mean(errors, axis=0))
