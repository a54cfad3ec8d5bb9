"""D4's minimum: scikit-learn's logistic objective, by L-BFGS over blocks of rows in preconditioned coordinates.

scikit-learn's solver holds the whole matrix in float64 for the final fit, and needs about ten times as many passes over
it: embeddings share a mean and their spread falls off quickly, so the plain coordinates are badly conditioned. Here a
block of rows is made, used for both products and forgotten, and the unknowns are scaled by the root of the Hessian as a
sample of the rows shows it. Objective and minimum are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from indexer.types import Float64, Int64
from probes.compute.threads import block_threads

BLOCK_BYTES = 4 * 2**20  # of a block of rows: it is read once from memory and once from the processor's cache
SAMPLE_ROWS = 20_000  # rows that show the Hessian; at least SAMPLE_PER_DIM for each feature
SAMPLE_PER_DIM = 8
LINE_SEARCH = 50  # evaluations of one iteration at most, as in scikit-learn
MEMORY = 30  # pairs that L-BFGS keeps: cheap beside a pass over the rows
POLISH = 20  # steps without a line search
FLOOR = 1e-10  # of the preconditioner's ridge, relative to the mean variance

Array = npt.NDArray[Any]


class Rows(Protocol):
    """Features (n, dim) that can be had a block at a time: an array, or stored rows scaled when asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, part: slice, /) -> Array: ...


@dataclass(frozen=True)
class Task:
    """What is minimised: Σ wᵢ·CE(softmax(Wx + b), yᵢ) + ‖W‖²/(2C), divided by Σ wᵢ."""

    x: Rows  # (n, dim)
    codes: Int64  # (n,) 0 … classes - 1, every one present
    classes: int  # two: one row of W, the log odds of the second class
    weights: Float64  # (n,)
    c: float

    @property
    def outputs(self) -> int:
        return 1 if self.classes == 2 else self.classes


@dataclass(frozen=True)
class Minimum:
    """W (outputs, dim), b (outputs,), and whether the largest gradient entry came below the tolerance."""

    coef: Float64
    intercept: Float64
    converged: bool
    passes: int  # over the rows


def minimise(task: Task, start: tuple[Float64, Float64] | None, *, tol: float, iterations: int) -> Minimum:
    """From `start` (W, b), or from W = 0. As in scikit-learn, `tol` bounds the divided objective's largest gradient."""
    with block_threads() as run:
        coordinates = _precondition(task, start)
        evaluate = _Evaluation(task, coordinates, run)
        flat = coordinates.inside(*(start or _priors(task)))
        evaluate(flat)
        if evaluate.largest > tol:
            flat = _descend(evaluate, flat, tol, iterations)
        flat, lowest = _polish(evaluate, flat, tol)
        coef, intercept = coordinates.outside(flat)
    if task.outputs > 1:  # the same probabilities for any common shift: scikit-learn's is the one of mean 0
        coef, intercept = coef - coef.mean(0), intercept - intercept.mean()
    return Minimum(coef, intercept, lowest <= tol, evaluate.passes)


def _descend(evaluate: _Evaluation, flat: Float64, tol: float, iterations: int) -> Float64:
    from scipy.optimize import minimize

    def stop(_: Array) -> None:
        if evaluate.largest <= tol:
            raise StopIteration

    limits = {"maxiter": iterations, "maxfun": 4 * iterations, "maxcor": MEMORY, "maxls": LINE_SEARCH}
    found = minimize(
        evaluate, flat, jac=True, method="L-BFGS-B", callback=stop, options=limits | {"ftol": 0.0, "gtol": 0.0}
    )
    return np.asarray(found.x, np.float64)


def _polish(evaluate: _Evaluation, flat: Float64, tol: float) -> tuple[Float64, float]:
    """Where Barzilai-Borwein steps bring the largest gradient entry lowest, and that entry.

    A line search compares values of the objective, and these drown in rounding before the gradient does.
    """
    _, gradient = evaluate(flat)
    best, lowest, step = flat, evaluate.largest, 1.0
    for _ in range(POLISH):
        if lowest <= tol:
            break
        ahead = flat - step * gradient
        _, there = evaluate(ahead)
        moved, bent = ahead - flat, there - gradient
        if evaluate.largest < lowest:
            best, lowest = ahead, evaluate.largest
        if not bent.any():
            break
        step = float(moved @ bent / (bent @ bent))
        flat, gradient = ahead, there
    return best, lowest


@dataclass(frozen=True)
class _Coordinates:
    """W = a · V L⁻¹ and b = a·β - W·mean: in (V, β) the Hessian is near the identity."""

    mean: Float64  # (dim,)
    lower: Float64  # (dim, dim) L, with L Lᵀ near the curvature of one output
    scale: Float64  # (outputs, 1) a

    def inside(self, coef: Float64, intercept: Float64) -> Float64:
        v = (coef @ self.lower) / self.scale
        beta = (intercept + coef @ self.mean) / self.scale[:, 0]
        return np.concatenate([v.ravel(), beta])

    def outside(self, flat: Float64) -> tuple[Float64, Float64]:
        from scipy.linalg import solve_triangular

        k, dim = len(self.scale), len(self.mean)
        v, beta = flat[: k * dim].reshape(k, dim), flat[k * dim :]
        coef = self.scale * solve_triangular(self.lower, v.T, lower=True, trans="T", check_finite=False).T
        return coef, self.scale[:, 0] * beta - coef @ self.mean

    def gradient(self, of_coef: Float64, of_intercept: Float64) -> Float64:
        """The gradient by (W, b) as one by (V, β)."""
        from scipy.linalg import solve_triangular

        centred = of_coef - of_intercept[:, None] * self.mean
        of_v = self.scale * solve_triangular(self.lower, centred.T, lower=True, check_finite=False).T
        return np.concatenate([of_v.ravel(), self.scale[:, 0] * of_intercept])


class _Evaluation:
    """The divided objective and its gradient in given coordinates; remembers the largest entry of the plain one."""

    def __init__(self, task: Task, coordinates: _Coordinates, run: Callable[..., Iterator[Any]]) -> None:
        self._task, self._coordinates, self._run = task, coordinates, run
        self._total = float(task.weights.sum())
        self._last: tuple[Float64, tuple[float, Float64]] | None = None
        self.largest, self.passes = float("inf"), 0

    def __call__(self, flat: Float64) -> tuple[float, Float64]:
        if self._last is None or not np.array_equal(flat, self._last[0]):
            self._last = flat.copy(), self._pass(flat)
        return self._last[1]

    def _pass(self, flat: Float64) -> tuple[float, Float64]:
        task = self._task
        coef, intercept = self._coordinates.outside(flat)
        loss, of_coef, of_intercept = 0.0, np.zeros_like(coef), np.zeros_like(intercept)
        for one, w, b in self._run(lambda part: _block(task, coef, intercept, part), _parts(task.x)):
            loss, of_coef, of_intercept = loss + one, of_coef + w, of_intercept + b
        ridge = 1 / (task.c * self._total)
        loss = loss / self._total + ridge * float((coef**2).sum()) / 2
        of_coef = of_coef / self._total + ridge * coef
        of_intercept = of_intercept / self._total
        self.largest = max(float(np.abs(of_coef).max()), float(np.abs(of_intercept).max()))
        self.passes += 1
        return loss, self._coordinates.gradient(of_coef, of_intercept)


def _block(task: Task, coef: Float64, intercept: Float64, part: slice) -> tuple[float, Float64, Float64]:
    """Loss and gradients of a block of rows, in the rows' precision; the sums over blocks are in float64."""
    x, codes, weights = task.x[part], task.codes[part], task.weights[part]
    z = x @ coef.T.astype(x.dtype) + intercept.astype(x.dtype)
    at = np.arange(len(codes))
    if task.outputs == 1:
        sign = np.where(codes == 1, z.dtype.type(1), z.dtype.type(-1))
        margin = sign * z[:, 0]
        low = np.exp(-np.abs(margin))
        loss = np.maximum(-margin, 0) + np.log1p(low)
        residual = (-sign * np.where(margin > 0, low, 1) / (1 + low))[:, None]
    else:
        z -= z.max(axis=1, keepdims=True)
        own = z[at, codes]
        np.exp(z, out=z)
        total = z.sum(axis=1)
        loss = np.log(total) - own
        residual = z
        residual /= total[:, None]
        residual[at, codes] -= 1
    residual *= weights[:, None].astype(residual.dtype)
    return float(loss @ weights), (x.T @ residual).T.astype(np.float64), residual.sum(0, dtype=np.float64)


def _precondition(task: Task, start: tuple[Float64, Float64] | None) -> _Coordinates:
    """The Hessian that a sample of rows shows at the start, with one matrix for all outputs."""
    from scipy.linalg import cholesky

    n, dim = task.x.shape
    taken = min(n, max(SAMPLE_ROWS, SAMPLE_PER_DIM * dim))
    coef, intercept = start or _priors(task)
    second, first = np.zeros((dim, dim)), np.zeros(dim)
    curvature, total = np.zeros(task.outputs), 0.0
    for part in _parts(task.x, n // taken):
        x, weights = task.x[part], task.weights[part]
        p = _probabilities(x @ coef.T.astype(x.dtype) + intercept.astype(x.dtype))
        bend = p * (1 - p) * weights[:, None]
        row = bend.mean(1)
        curvature += bend.sum(0)
        total += float(weights.sum())
        second += (x * np.sqrt(row)[:, None].astype(x.dtype)).T @ (x * np.sqrt(row)[:, None].astype(x.dtype))
        first += row @ x
    mass = curvature.mean()
    mean = first / mass
    matrix = second / mass - np.outer(mean, mean)
    curvature = np.maximum(curvature / total, 1e-12)
    ridge = 1 / (task.c * float(task.weights.sum()) * curvature.mean())
    matrix[np.diag_indices(dim)] += ridge + FLOOR * (np.trace(matrix) / dim + 1e-300)
    return _Coordinates(mean, cholesky(matrix, lower=True), 1 / np.sqrt(curvature)[:, None])


def _probabilities(z: Array) -> Float64:
    z = np.asarray(z, np.float64)
    if z.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -500, 500))))
    z = np.exp(z - z.max(1, keepdims=True))
    return np.asarray(z / z.sum(1, keepdims=True))


def _priors(task: Task) -> tuple[Float64, Float64]:
    """W = 0 and the classes' frequencies."""
    share = np.bincount(task.codes, weights=task.weights, minlength=task.classes)
    log = np.log(share / share.sum())
    return np.zeros((task.outputs, task.x.shape[1])), np.array([log[1] - log[0]]) if task.outputs == 1 else log


def _parts(x: Rows, every: int = 1) -> Iterator[slice]:
    """Blocks of rows; of each `every` consecutive ones the first."""
    rows = max(1, BLOCK_BYTES // (8 * x.shape[1]))
    for start in range(0, x.shape[0], rows * every):
        yield slice(start, min(start + rows, x.shape[0]))
