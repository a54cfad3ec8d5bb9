"""Coordinates in which a task's Hessian is near the identity, from the Hessian on a sample of its rows.

Embeddings share a mean and their variances decay quickly, so that the plain coordinates are ill-conditioned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Float64
from probes.fitting.objective import Array, Point, Rows, Task, parts

SAMPLE_ROWS = 8_000  # rows from which the Hessian is estimated; at least SAMPLE_PER_DIM for each feature
SAMPLE_PER_DIM = 8
FLOORS = (1e-10, 1e-8, 1e-6, 1e-4, 1e-2)  # of the ridge, relative to the mean variance
LEAST_CURVATURE = 1e-9  # of a row; avoids 0/0 in the moments where every row is fitted perfectly


@dataclass(frozen=True)
class Moments:
    """Of the rows, weighted by their curvature p(1 - p) at a point, the mean of the outputs'."""

    mean: Float64  # (dim,)
    covariance: Float64  # (dim, dim), upper triangle
    curvature: Float64  # (outputs,) of one unit of weight


@dataclass(frozen=True)
class Coordinates:
    """Coordinates (V, β) with W = a · V L⁻¹ and b = a·β - W·mean."""

    mean: Float64  # (dim,)
    lower: Float64  # (dim, dim) L, with L Lᵀ near the curvature of one output
    scale: Float64  # (outputs, 1) a

    def inside(self, point: Point) -> Float64:
        coef, intercept = point
        v = (coef @ self.lower) / self.scale
        beta = (intercept + coef @ self.mean) / self.scale[:, 0]
        return np.concatenate([v.ravel(), beta])

    def outside(self, flat: Float64) -> Point:
        from scipy.linalg import solve_triangular

        k, dim = len(self.scale), len(self.mean)
        v, beta = flat[: k * dim].reshape(k, dim), flat[k * dim :]
        coef = self.scale * solve_triangular(self.lower, v.T, lower=True, trans="T", check_finite=False).T
        return coef, self.scale[:, 0] * beta - coef @ self.mean

    def gradient(self, of_coef: Float64, of_intercept: Float64) -> Float64:
        """Converts the gradient by (W, b) to the gradient by (V, β)."""
        from scipy.linalg import solve_triangular

        centred = of_coef - of_intercept[:, None] * self.mean
        of_v = self.scale * solve_triangular(self.lower, centred.T, lower=True, check_finite=False).T
        return np.concatenate([of_v.ravel(), self.scale[:, 0] * of_intercept])


def moments(x: Rows, task: Task, point: Point) -> Moments:
    """On a sample of the rows x, one matrix for all outputs. Rows are centred before the squares are summed.

    Without that, second - mean·meanᵀ has negative eigenvalues for duplicated rows and for features in few directions.
    """
    from scipy.linalg.blas import dsyrk, ssyrk

    n, dim = x.shape
    taken = min(n, max(SAMPLE_ROWS, SAMPLE_PER_DIM * dim))
    # Rows of weight 0 tell nothing: a label may be known from the middle of the table only
    weighted = [part for part in parts(x) if task.weights[part].any()]
    sample = weighted[:: max(1, sum(part.stop - part.start for part in weighted) // taken)]
    about = np.asarray(x[sample[0]], np.float64).mean(0)
    second, first = np.zeros((dim, dim), order="F"), np.zeros(dim)
    curvature, total = np.zeros(task.outputs), 0.0
    for part in sample:
        rows, weights = x[part], task.weights[part]
        p = _probabilities(rows @ point[0].T.astype(rows.dtype) + point[1].astype(rows.dtype))
        bend = (p * (1 - p) + LEAST_CURVATURE) * weights[:, None]
        row = bend.mean(1)
        curvature += bend.sum(0)
        total += float(weights.sum())
        rows = rows - about.astype(rows.dtype)
        first += row @ rows
        rows *= np.sqrt(row)[:, None].astype(rows.dtype)
        second += (ssyrk if rows.dtype == np.float32 else dsyrk)(1.0, rows.T)  # upper triangle
    mass = curvature.mean()
    away = first / mass
    return Moments(about + away, second / mass - np.outer(away, away), curvature / total)


def coordinates(found: Moments, task: Task) -> Coordinates:
    """The moments' coordinates at the task's penalty."""
    ridge = 1 / (task.c * float(task.weights.sum()) * found.curvature.mean())
    return Coordinates(found.mean, _root(found.covariance, ridge), 1 / np.sqrt(found.curvature)[:, None])


def _root(matrix: Float64, ridge: float) -> Float64:
    """Lower Cholesky factor of matrix + ridge, with the smallest of FLOORS for which it is positive definite.

    Only the upper triangle of `matrix` (dim, dim) is used. Where no floor is enough, its diagonal alone is used.
    """
    from scipy.linalg import LinAlgError, cholesky

    diagonal = np.maximum(np.diag(matrix), 0)
    level = float(diagonal.mean()) + 1e-300
    for floor in FLOORS:
        raised = matrix + np.diag(np.full(len(matrix), ridge + floor * level))
        try:
            root = np.asarray(cholesky(raised, lower=False))
        except (LinAlgError, ValueError):  # ValueError: not finite
            continue
        return np.ascontiguousarray(root.T)
    finite = np.where(np.isfinite(diagonal), diagonal, 1.0)
    return np.asarray(np.diag(np.sqrt(finite + ridge + FLOORS[-1] * max(float(finite.mean()), 1e-300))))


def _probabilities(z: Array) -> Float64:
    z = np.asarray(z, np.float64)
    if z.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -500, 500))))
    z = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(z / z.sum(1, keepdims=True))
