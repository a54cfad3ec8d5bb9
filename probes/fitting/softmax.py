"""D4: minimises scikit-learn's logistic objective for many tasks at once, by L-BFGS in preconditioned coordinates.

scikit-learn's solver holds the whole matrix in float64 for the final fit, and needs about ten times as many passes over
it. Here blocks of rows are computed on demand, tasks on the same rows (penalties, folds, labels) share each pass, and
the unknowns are scaled by the root of the Hessian on a sample of the rows. Objective and minimum are scikit-learn's.

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
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from indexer.types import Float64
from probes.compute.threads import block_threads
from probes.fitting.coordinates import Coordinates, Moments, coordinates, moments
from probes.fitting.lbfgs import Search, Seen, lbfgs
from probes.fitting.objective import Double, Point, Run, Task, Value, entropy, evaluate, is_double, priors

OUTPUTS = 128  # most rows of W in one pass: L-BFGS keeps 60 copies of them
PENALTY_SHARE = 1000.0  # factor of the penalty term, see above
ROUNDING = 1e-24  # of the objective: a smaller excess counts as 0
SINGLE, DOUBLE = 1e-7, 1e-14  # relative rounding of the objective, by the rows' precision
STALLED = 1e-13  # relative decrease by a descent in float64 below which no other is tried
ATTEMPTS = 8  # most descents, each in the coordinates of the previous result
# Elements of the largest matrix passed to scikit-learn in float64 where the descent stops early
WHOLE_NUMBERS = 60_000_000


@dataclass(frozen=True)
class Minimum:
    """W (outputs, dim), b (outputs,), and whether the fit converged as the module defines it."""

    coef: Float64
    intercept: Float64
    converged: bool
    passes: int  # number of evaluations of this task


@dataclass(frozen=True)
class _Ask:
    """What a descent needs next: its task's Value at a point, or the Moments there."""

    point: Point
    double: bool  # rows as float64
    moments: bool = False


@dataclass(frozen=True)
class _End:
    """Where the descents of a task ended."""

    point: Point
    value: float  # of the divided objective
    converged: bool
    passes: int


Descents = Generator[_Ask, Value | Moments, _End]


def minimise_all(
    tasks: Sequence[Task], starts: Sequence[Point | None], *, tol: float, iterations: int, proved: bool = True
) -> list[Minimum]:
    """The minimum of each task to within `tol` (see the module), from its start (W, b) or from W = 0.

    All tasks must have the same rows `x`; the weights say which of them are a task's own. A point is accepted as the
    minimum only in coordinates computed at that point: a Hessian at another point, with other probabilities, may be
    wrong by orders of magnitude. Where the descent stops before it reaches the tolerance, scikit-learn's solver
    continues from there. Without `proved` the end of the first descent that reaches the tolerance in its own
    coordinates is taken: for a probe that orders what is shown next, in half the time.
    """
    out: list[Minimum] = []
    with block_threads() as run:
        for part in _by_outputs(tasks):
            own = tasks[part]
            ends = _in_step(
                own, [_descents(t, s, tol, iterations, proved) for t, s in zip(own, starts[part], strict=True)], run
            )
            out += [_centred(t, _rescued(t, end, tol, iterations, run)) for t, end in zip(own, ends, strict=True)]
    return out


def _by_outputs(tasks: Sequence[Task]) -> list[slice]:
    """Consecutive tasks, of OUTPUTS rows of W together, or one task."""
    out, start, total = [], 0, 0
    for i, task in enumerate(tasks):
        if i > start and total + task.outputs > OUTPUTS:
            out.append(slice(start, i))
            start, total = i, 0
        total += task.outputs
    return [*out, slice(start, len(tasks))] if tasks else []


def _in_step(tasks: Sequence[Task], descents: Sequence[Descents], run: Run) -> list[_End]:
    """Runs the descents, answering together what each of them asks for."""
    ends: dict[int, _End] = {}
    asked = {i: next(descent) for i, descent in enumerate(descents)}
    while asked:
        for i, answer in _answers(tasks, asked, run).items():
            try:
                asked[i] = descents[i].send(answer)
            except StopIteration as end:
                ends[i] = end.value
                del asked[i]
    return [ends[i] for i in range(len(tasks))]


def _answers(tasks: Sequence[Task], asked: dict[int, _Ask], run: Run) -> dict[int, Value | Moments]:
    """All values by one pass in each precision; moments by one for each set of rows and point, in threads."""
    answers: dict[int, Value | Moments] = {}
    for double in sorted({ask.double for ask in asked.values()}):
        x = Double(tasks[0].x) if double and not is_double(tasks[0].x) else tasks[0].x
        own = {i: ask for i, ask in asked.items() if ask.double == double}
        same: dict[tuple[int, int, bytes], list[int]] = {}
        for i, ask in own.items():
            if ask.moments:
                point = np.concatenate([ask.point[0].ravel(), ask.point[1]]).tobytes()
                same.setdefault((id(tasks[i].codes), id(tasks[i].weights), point), []).append(i)
        found = run(lambda i, x=x, own=own: moments(x, tasks[i], own[i].point), [first for first, *_ in same.values()])
        answers |= {i: shared for shared, alike in zip(found, same.values(), strict=True) for i in alike}
        rest = [i for i, ask in own.items() if not ask.moments]
        if rest:
            values = evaluate(x, [tasks[i] for i in rest], [own[i].point for i in rest], run)
            answers |= dict(zip(rest, values, strict=True))
    return answers


def _descents(task: Task, start: Point | None, tol: float, iterations: int, proved: bool = True) -> Descents:
    """Descents until one starts at the minimum, or one in float64 makes no progress."""
    point, before, passes, double = start or priors(task), math.inf, 0, is_double(task.x)
    for _ in range(ATTEMPTS):
        found = yield _Ask(point, double, moments=True)
        assert isinstance(found, Moments)
        descent = _Descent(task, coordinates(found, task), double)
        first = yield from descent.at(point)
        passes += 1
        if first.excess <= tol**2:
            return _End(point, first.value, converged=True, passes=passes)
        last = yield from descent.follow(lbfgs(first, tol**2, iterations, DOUBLE if double else SINGLE))
        point, passes = descent.coordinates.outside(last.flat), passes + descent.passes
        if last.excess <= tol**2 and not proved:
            return _End(point, last.value, converged=True, passes=passes)
        if last.excess > tol**2:
            if double and not last.value < before * (1 - STALLED):
                break
            double = True
        before = last.value
    return _End(point, before, converged=False, passes=passes)


class _Descent:
    """One descent in given coordinates.

    `excess` of what it sees is gᵀg/2 there, minus the rounding of float64, relative to the least of value, decrease and
    1000·penalty.
    """

    def __init__(self, task: Task, own: Coordinates, double: bool) -> None:
        self.coordinates, self.passes = own, 0
        self._constant, self._double = entropy(task), double

    def at(self, point: Point) -> Generator[_Ask, Value | Moments, Seen]:
        value = yield _Ask(point, self._double)
        assert isinstance(value, Value)
        return self._seen(self.coordinates.inside(point), value)

    def follow(self, search: Search) -> Generator[_Ask, Value | Moments, Seen]:
        """Answers what the search asks for."""
        try:
            flat = next(search)
            while True:
                value = yield _Ask(self.coordinates.outside(flat), self._double)
                assert isinstance(value, Value)
                self.passes += 1
                flat = search.send(self._seen(flat, value))
        except StopIteration as end:
            last: Seen = end.value
            return last

    def _seen(self, flat: Float64, value: Value) -> Seen:
        gradient = self.coordinates.gradient(value.of_coef, value.of_intercept)
        scale = min(value.loss, max(value.penalty, self._constant - value.loss), PENALTY_SHARE * value.penalty)
        if not (np.isfinite(value.loss) and np.isfinite(gradient).all()):
            return Seen(flat, value.loss, gradient, np.inf)  # max(0.0, nan) is 0: a minimum
        above = max(0.0, float(gradient @ gradient) / 2 - ROUNDING * value.loss)
        return Seen(flat, value.loss, gradient, above / max(scale, 1e-300))


def _rescued(task: Task, end: _End, tol: float, iterations: int, run: Run) -> _End:
    """Where the descents did not converge: the end of others, from where scikit-learn's solver came to, if better."""
    if end.converged or task.x.shape[0] * task.x.shape[1] > WHOLE_NUMBERS:
        return end
    (other,) = _in_step([task], [_descents(task, _scikit_learn(task, end.point, iterations), tol, iterations)], run)
    return replace(other, passes=end.passes + other.passes) if other.converged or other.value < end.value else end


def _scikit_learn(task: Task, start: Point, iterations: int) -> Point:
    """W and b of scikit-learn's L-BFGS, started at `start`; the caller checks convergence."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    own = np.flatnonzero(task.weights)
    solver = LogisticRegression(C=task.c, tol=1e-10, max_iter=iterations, warm_start=True)
    solver.coef_, solver.intercept_ = start[0].copy(), start[1].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        x = np.asarray(task.x[0 : task.x.shape[0]], np.float64)
        solver.fit(x[own], task.codes[own], sample_weight=task.weights[own])
    return np.asarray(solver.coef_, np.float64), np.asarray(solver.intercept_, np.float64)


def _centred(task: Task, end: _End) -> Minimum:
    coef, intercept = end.point
    if task.outputs > 1:  # a common shift does not change the probabilities; scikit-learn's has mean 0
        coef, intercept = coef - coef.mean(0), intercept - intercept.mean()
    return Minimum(coef, intercept, end.converged, end.passes)
