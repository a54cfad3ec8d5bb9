"""D4: minimises scikit-learn's logistic objective by L-BFGS over blocks of rows, in preconditioned coordinates.

scikit-learn's solver holds the whole matrix in float64 for the final fit, and needs about ten times as many passes over
it: embeddings share a mean and their variances decay quickly, so the plain coordinates are ill-conditioned. Here
blocks of rows are computed on demand, and the unknowns are scaled by the root of the Hessian on a sample of the rows.
Objective and minimum are scikit-learn's.

Convergence does not depend on the scale of the features or of C. With H the Hessian at the point found, gᵀH⁻¹g/2
estimates the excess of the objective f over its minimum (half the squared Newton decrement; Boyd & Vandenberghe 2004,
9.5.1). A fit has converged where this is at most tol² times the least of three numbers: f itself, the decrease of f
from the constant probe, and 1000 times the penalty term r. As f is strongly convex by its penalty, the last bounds the
relative error of W by tol·√1000; the second rejects a start at W = 0 for a small C, where f hardly changes. Rows in
single precision are read as float64 where their rounding stops the descent before that.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from indexer.types import Float64, Int64
from probes.compute.threads import block_threads

BLOCK_BYTES = 4 * 2**20  # of a block of rows, which is read twice, the second time from the processor's cache
SAMPLE_ROWS = 8_000  # rows from which the Hessian is estimated; at least SAMPLE_PER_DIM for each feature
SAMPLE_PER_DIM = 8
LINE_SEARCH = 50  # most evaluations in one iteration, as in scikit-learn
MEMORY = 30  # correction pairs of L-BFGS; their cost is small beside a pass over the rows
POLISH = 20  # steps without a line search
PENALTY_SHARE = 1000.0  # factor of the penalty term, see above
ROUNDING = 1e-24  # of the objective: a smaller excess counts as 0
STALLED = 1e-13  # relative decrease by a descent in float64 below which no other is tried
ATTEMPTS = 8  # most descents, each in the coordinates of the previous result
FLOORS = (1e-10, 1e-8, 1e-6, 1e-4, 1e-2)  # of the preconditioner's ridge, relative to the mean variance
LEAST_CURVATURE = 1e-9  # of a row; avoids 0/0 in the moments where every row is fitted perfectly
# Elements of the largest matrix passed to scikit-learn in float64 where the descent stops early
WHOLE_NUMBERS = 60_000_000

Array = npt.NDArray[Any]


class Rows(Protocol):
    """Features (n, dim) read block by block: an array, or stored rows that are scaled on demand."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, part: slice, /) -> Array: ...


@dataclass(frozen=True)
class Task:
    """The objective: Σ wᵢ·CE(softmax(Wx + b), yᵢ) + ‖W‖²/(2C), divided by Σ wᵢ."""

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
    """W (outputs, dim), b (outputs,), and whether the fit converged as the module defines it."""

    coef: Float64
    intercept: Float64
    converged: bool
    passes: int  # number of passes over the rows


@dataclass(frozen=True)
class Descent:
    """The result of a descent."""

    point: tuple[Float64, Float64]  # W, b
    value: float  # of the divided objective
    reached: bool  # whether the tolerance was reached, measured with the Hessian at the start
    passes: int


def minimise(task: Task, start: tuple[Float64, Float64] | None, *, tol: float, iterations: int) -> Minimum:
    """The minimum to within `tol` (see the module), from `start` (W, b) or from W = 0.

    A point is accepted as the minimum only in coordinates computed at that point: a Hessian at another point, with
    other probabilities, may be wrong by orders of magnitude. Where the descent stops before it reaches the tolerance,
    scikit-learn's solver continues from there.
    """
    with block_threads() as run:
        found, converged = _descents(task, start or _priors(task), (tol, iterations), run)
        if not converged and task.x.shape[0] * task.x.shape[1] <= WHOLE_NUMBERS:
            point = _scikit_learn(task, found.point, iterations)
            other, reached = _descents(task, point, (tol, iterations), run)
            if reached or other.value < found.value:
                found, converged = replace(other, passes=found.passes + other.passes), reached
    coef, intercept = found.point
    if task.outputs > 1:  # a common shift does not change the probabilities; scikit-learn's has mean 0
        coef, intercept = coef - coef.mean(0), intercept - intercept.mean()
    return Minimum(coef, intercept, converged, found.passes)


def _descents(
    task: Task, start: tuple[Float64, Float64], goal: tuple[float, int], run: Callable[..., Iterator[Any]]
) -> tuple[Descent, bool]:
    """Descents until one starts at the minimum, or one in float64 makes no progress."""
    found, passes = Descent(start, math.inf, reached=False, passes=0), 0
    for _ in range(ATTEMPTS):
        before = found
        found = _descent(task, before.point, goal, run)
        passes += found.passes
        if found.passes == 1:
            return replace(found, passes=passes), True
        if not found.reached:
            if _is_double(task.x):
                if not found.value < before.value * (1 - STALLED):
                    break
            else:
                task = replace(task, x=_Double(task.x))
    return replace(found, passes=passes), False


def _descent(
    task: Task, start: tuple[Float64, Float64], goal: tuple[float, int], run: Callable[..., Iterator[Any]]
) -> Descent:
    """One descent in the coordinates of its start; takes one pass where the start is the minimum."""
    tol, iterations = goal
    coordinates = _precondition(task, start)
    evaluate = _Evaluation(task, coordinates, run)
    flat = coordinates.inside(*start)
    evaluate(flat)
    if evaluate.excess <= tol**2:
        return Descent(start, evaluate.value, reached=True, passes=1)
    flat = _descend(evaluate, flat, tol, iterations)
    if _is_double(task.x):  # single precision has reached its own limit: float64 goes on from there
        flat = _polish(evaluate, flat, tol)
    evaluate(flat)
    return Descent(coordinates.outside(flat), evaluate.value, evaluate.excess <= tol**2, max(2, evaluate.passes))


def _is_double(x: Rows) -> bool:
    return bool(x[0:1].dtype == np.float64)


def _descend(evaluate: _Evaluation, flat: Float64, tol: float, iterations: int) -> Float64:
    from scipy.optimize import minimize

    def stop(_: Array) -> None:
        if evaluate.excess <= tol**2:
            raise StopIteration

    limits = {"maxiter": iterations, "maxfun": 4 * iterations, "maxcor": MEMORY, "maxls": LINE_SEARCH}
    found = minimize(
        evaluate, flat, jac=True, method="L-BFGS-B", callback=stop, options=limits | {"ftol": 0.0, "gtol": 0.0}
    )
    return np.asarray(found.x, np.float64)


def _polish(evaluate: _Evaluation, flat: Float64, tol: float) -> Float64:
    """The point of smallest gradient among Barzilai-Borwein steps.

    A line search compares objective values, which reach the limit of rounding before the gradient does.
    """
    _, gradient = evaluate(flat)
    best, lowest, step = flat, evaluate.excess, 1.0
    for _ in range(POLISH):
        if lowest <= tol**2:
            break
        ahead = flat - step * gradient
        _, there = evaluate(ahead)
        moved, bent = ahead - flat, there - gradient
        if evaluate.excess < lowest:
            best, lowest = ahead, evaluate.excess
        if not np.isfinite(bent).all() or not bent.any():
            break
        step = float(moved @ bent / (bent @ bent))
        flat, gradient = ahead, there
    return best


def _scikit_learn(task: Task, start: tuple[Float64, Float64], iterations: int) -> tuple[Float64, Float64]:
    """W and b of scikit-learn's L-BFGS, started at `start`; the caller checks convergence."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    solver = LogisticRegression(C=task.c, tol=1e-10, max_iter=iterations, warm_start=True)
    solver.coef_, solver.intercept_ = start[0].copy(), start[1].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        solver.fit(np.asarray(task.x[0 : task.x.shape[0]], np.float64), task.codes, sample_weight=task.weights)
    return np.asarray(solver.coef_, np.float64), np.asarray(solver.intercept_, np.float64)


@dataclass(frozen=True)
class _Double:
    """Rows in single precision, read as float64 block by block."""

    rows: Rows

    @property
    def shape(self) -> tuple[int, ...]:
        return self.rows.shape

    def __getitem__(self, part: slice) -> Array:
        return np.asarray(self.rows[part], np.float64)


@dataclass(frozen=True)
class _Coordinates:
    """Coordinates (V, β) with W = a · V L⁻¹ and b = a·β - W·mean, in which the Hessian is near the identity."""

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
        """Converts the gradient by (W, b) to the gradient by (V, β)."""
        from scipy.linalg import solve_triangular

        centred = of_coef - of_intercept[:, None] * self.mean
        of_v = self.scale * solve_triangular(self.lower, centred.T, lower=True, check_finite=False).T
        return np.concatenate([of_v.ravel(), self.scale[:, 0] * of_intercept])


class _Evaluation:
    """The divided objective and its gradient in given coordinates.

    `excess` is gᵀg/2 there, minus the rounding of float64, relative to the least of value, decrease and 1000·penalty.
    """

    def __init__(self, task: Task, coordinates: _Coordinates, run: Callable[..., Iterator[Any]]) -> None:
        self._task, self._coordinates, self._run = task, coordinates, run
        self._total = float(task.weights.sum())
        self._constant = _entropy(task)
        self._last: tuple[Float64, tuple[float, Float64]] | None = None
        self.value, self.excess, self.passes = math.inf, math.inf, 0

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
        penalty = ridge * float((coef**2).sum()) / 2
        loss = loss / self._total + penalty
        of_coef = of_coef / self._total + ridge * coef
        of_intercept = of_intercept / self._total
        gradient = self._coordinates.gradient(of_coef, of_intercept)
        self.passes += 1
        scale = min(loss, max(penalty, self._constant - loss), PENALTY_SHARE * penalty)
        above = max(0.0, float(gradient @ gradient) / 2 - ROUNDING * loss)
        self.value, self.excess = loss, above / max(scale, 1e-300)
        return loss, gradient


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
    """Coordinates from the Hessian on a sample of rows at the start, one matrix for all outputs.

    Moments are summed in float64: in single precision the difference second - mean·meanᵀ has negative eigenvalues for
    duplicated rows and for features in few directions.
    """
    from scipy.linalg.blas import dsyrk

    n, dim = task.x.shape
    taken = min(n, max(SAMPLE_ROWS, SAMPLE_PER_DIM * dim))
    coef, intercept = start or _priors(task)
    second, first = np.zeros((dim, dim), order="F"), np.zeros(dim)
    curvature, total = np.zeros(task.outputs), 0.0
    for part in _parts(task.x, n // taken):
        x, weights = task.x[part], task.weights[part]
        p = _probabilities(x @ coef.T.astype(x.dtype) + intercept.astype(x.dtype))
        bend = (p * (1 - p) + LEAST_CURVATURE) * weights[:, None]
        row = bend.mean(1)
        curvature += bend.sum(0)
        total += float(weights.sum())
        x = np.asarray(x, np.float64)
        first += row @ x
        second = dsyrk(1.0, (x * np.sqrt(row)[:, None]).T, beta=1.0, c=second, overwrite_c=1)  # upper triangle
    mass = curvature.mean()
    mean = first / mass
    matrix = second / mass - np.outer(mean, mean)
    curvature = curvature / total
    ridge = 1 / (task.c * float(task.weights.sum()) * curvature.mean())
    return _Coordinates(mean, _root(matrix, ridge), 1 / np.sqrt(curvature)[:, None])


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


def _priors(task: Task) -> tuple[Float64, Float64]:
    """W = 0, and b of the classes' frequencies."""
    share = np.bincount(task.codes, weights=task.weights, minlength=task.classes)
    log = np.log(share / share.sum())
    return np.zeros((task.outputs, task.x.shape[1])), np.array([log[1] - log[0]]) if task.outputs == 1 else log


def _entropy(task: Task) -> float:
    """The divided objective at `_priors`."""
    share = np.bincount(task.codes, weights=task.weights, minlength=task.classes) / task.weights.sum()
    return float(-(share * np.log(share)).sum())


def _parts(x: Rows, every: int = 1) -> Iterator[slice]:
    """Blocks of rows; the first of each `every` consecutive ones."""
    rows = max(1, BLOCK_BYTES // (8 * x.shape[1]))
    for start in range(0, x.shape[0], rows * every):
        yield slice(start, min(start + rows, x.shape[0]))
