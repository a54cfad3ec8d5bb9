"""Fits one probe on scaled features and keeps its arrays (D4).

The estimators are scikit-learn's. The linear probe minimises scikit-learn's objective with `probes.fitting.softmax`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import ProbeError
from indexer.types import Int64
from probes.cohort.scaling import ScaledRows, TakenRows
from probes.cohort.truth import Truth
from probes.fitting.models import ABSENT, Model

Features = npt.NDArray[Any]  # (n, dim) float32 or float64, scaled

SWEEP_TOL, SWEEP_ITERATIONS = 1e-3, 1000  # tol² bounds the relative excess of the objective: 1e-6
FINAL_TOL, FINAL_ITERATIONS = 1e-6, 5000  # in float64: within 1e-12 of the minimum
HIDDEN_UNITS = 256
SMALL = 4_000_000  # matrix elements; one thread multiplies so many in a few milliseconds
KERNEL_ROWS = 20_000  # a kernel machine's time grows with the square of the rows


@dataclass(frozen=True)
class Recipe:
    """The settings of a fit, except the penalty."""

    probe: str  # linear | svm | svm-rbf | mlp | prototype
    class_weight: str | None = None  # None | "balanced"
    seed: int = 0


@dataclass(frozen=True)
class Fitted:
    """A model, and whether its optimiser converged."""

    model: Model
    converged: bool


def fit(
    recipe: Recipe,
    x: Features | ScaledRows | TakenRows,
    truth: Truth,
    value: float,
    *,
    start: Model | None = None,
    final: bool = False,
) -> Fitted:
    """Fit on features x (n, dim). `value` is C (or alpha, for mlp); `start` is a warm start where supported.

    `final` selects the tight tolerance, which needs float64 features. Raises ProbeError with one class only.
    """
    if recipe.probe != "linear" and isinstance(x, (ScaledRows, TakenRows)):
        x = x.whole()
    check_two_classes(truth)
    if isinstance(x, (ScaledRows, TakenRows)):
        return _linear(recipe, x, truth, value, start, final)
    with _few_threads(x):
        return FITTERS[recipe.probe](recipe, x, truth, value, start, final)


def shows_two_classes(truth: Truth) -> bool:
    """Whether the rows have at least two classes; True for labels, which are checked one by one when fitted."""
    return truth.codes is None or len(np.unique(truth.codes)) > 1


def check_two_classes(truth: Truth, whose: str = "") -> None:
    """Raise ProbeError where the rows to fit on, described by `whose`, have fewer than two classes."""
    if not shows_two_classes(truth):
        only = truth.classes[int(truth.strata()[0])] if truth.n else "no class"
        rows = f"the rows to fit on{whose and f', of {whose},'}"
        raise ProbeError(f"{rows} hold one class only ({only}). Choose another split or --where.")


@contextmanager
def _few_threads(x: Features) -> Iterator[None]:
    """Limits BLAS to one thread for a small matrix: on a busy machine, two threads made 118 rows 100 times slower."""
    if x.size >= SMALL:
        yield
        return
    from threadpoolctl import ThreadpoolController

    with ThreadpoolController().limit(limits=1):
        yield


def _linear(recipe: Recipe, x: Any, truth: Truth, c: float, start: Model | None, final: bool) -> Fitted:
    """D4: Σ wᵢ·CE(softmax(Wx + b), yᵢ) + ‖W‖²/(2C); for labels, one such binary fit for each on its known rows."""
    if truth.codes is not None:
        return _softmax_regression(recipe, x, truth.codes, len(truth.classes), (c, start, final))
    weights = np.zeros((len(truth.classes), x.shape[1]))
    bias = np.zeros(len(truth.classes))
    converged = True
    for j in range(len(truth.classes)):
        rows = np.flatnonzero(truth.known[:, j])
        codes = truth.positive[rows, j].astype(np.int64)
        if len(np.unique(codes)) < 2:
            continue  # the label's metrics are NaN, and the result lists it
        before = None if start is None else Model("linear", {k: _two(v[j]) for k, v in start.arrays.items()})
        known = x.take(rows) if isinstance(x, (ScaledRows, TakenRows)) else x if len(rows) == len(x) else x[rows]
        one = _softmax_regression(recipe, known, codes, 2, (c, before, final))
        weights[j] = one.model.arrays["W"][1]
        bias[j] = one.model.arrays["b"][1]
        converged &= one.converged
    return Fitted(Model("linear", {"W": weights, "b": bias}), converged)


def _two(row: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A label's row of W as the second of two rows."""
    return np.stack([np.zeros_like(row), row])


def _softmax_regression(
    recipe: Recipe, x: Any, codes: Int64, classes: int, how: tuple[float, Model | None, bool]
) -> Fitted:
    from sklearn.utils.class_weight import compute_sample_weight

    from probes.fitting.softmax import Task, minimise

    c, before, final = how
    tol, iterations = (FINAL_TOL, FINAL_ITERATIONS) if final else (SWEEP_TOL, SWEEP_ITERATIONS)
    present, codes = np.unique(codes, return_inverse=True)
    task = Task(x, codes, len(present), compute_sample_weight(recipe.class_weight, codes), c)
    start = None
    if before is not None:
        coef, intercept = before.arrays["W"][present], before.arrays["b"][present]
        if len(present) == 2:  # one logistic row: the second class against the first
            coef, intercept = coef[1:] - coef[:1], intercept[1:] - intercept[:1]
        start = coef, intercept
    found = minimise(task, start, tol=tol, iterations=iterations)
    return Fitted(Model("linear", _spread(found.coef, found.intercept, present, classes)), found.converged)


def _spread(
    coef: npt.NDArray[Any], intercept: npt.NDArray[Any], present: Int64, classes: int
) -> dict[str, npt.NDArray[Any]]:
    """W and b for all classes: the first class of a binary fit has logit 0, an absent class probability 0."""
    weights = np.zeros((classes, coef.shape[1]))
    bias = np.full(classes, ABSENT)
    if len(present) == 2:
        weights[present[1]], bias[present] = coef[0], (0.0, float(intercept[0]))
    else:
        weights[present], bias[present] = coef, intercept
    return {"W": weights, "b": bias}


def _quietly(run: Callable[[], object]) -> bool:
    """Run a fit without its convergence warning; returns whether the optimiser converged."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        run()
    for other in caught:
        if not issubclass(other.category, ConvergenceWarning):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def _columns(truth: Truth) -> list[tuple[Int64, npt.NDArray[np.bool_]] | None]:
    """Each column's known rows and their truth; None for a column without positives or negatives."""
    out: list[tuple[Int64, npt.NDArray[np.bool_]] | None] = []
    for j in range(len(truth.classes)):
        rows = np.flatnonzero(truth.known[:, j])
        positive = truth.positive[rows, j]
        out.append((rows, positive) if positive.any() and not positive.all() else None)
    return out


def _svm(recipe: Recipe, x: Features, truth: Truth, c: float, start: Model | None, final: bool) -> Fitted:  # noqa: ARG001 - liblinear has no warm start
    """One linear SVM for each column (LinearSVC). Its decision values are calibrated by the temperature."""
    from sklearn.svm import LinearSVC

    weights, bias, converged = np.zeros((len(truth.classes), x.shape[1])), np.full(len(truth.classes), ABSENT), True
    for j, column in enumerate(_columns(truth)):
        if column is None:
            continue
        rows, positive = column
        machine = LinearSVC(C=c, class_weight=recipe.class_weight, random_state=recipe.seed, max_iter=5000)
        converged &= _quietly(lambda m=machine, r=rows, p=positive: m.fit(x if len(r) == len(x) else x[r], p))  # type: ignore[misc]
        weights[j], bias[j] = machine.coef_[0], machine.intercept_[0]
    return Fitted(Model("linear", {"W": weights, "b": bias}), converged)


def _rbf(recipe: Recipe, x: Features, truth: Truth, c: float, start: Model | None, final: bool) -> Fitted:  # noqa: ARG001 - as above
    """One SVM with a Gaussian kernel for each column (SVC, gamma "scale")."""
    from sklearn.svm import SVC

    if len(x) > KERNEL_ROWS:
        raise ProbeError(
            f"{len(x)} rows are too many for a kernel machine (at most {KERNEL_ROWS}). "
            "Use `probes svm` without --kernel rbf."
        )
    gamma = 1.0 / (x.shape[1] * float(x.var(dtype=np.float64)))
    dual, bias = np.zeros((len(truth.classes), len(x))), np.full(len(truth.classes), ABSENT)
    for j, column in enumerate(_columns(truth)):
        if column is None:
            continue
        rows, positive = column
        machine = SVC(C=c, gamma=gamma, class_weight=recipe.class_weight).fit(x[rows], positive)
        dual[j, rows[machine.support_]] = machine.dual_coef_[0]
        bias[j] = machine.intercept_[0]
    used = np.flatnonzero(dual.any(0))
    return Fitted(Model("rbf", {"support": x[used], "dual": dual[:, used], "b": bias}, {"gamma": gamma}), True)


def _mlp(recipe: Recipe, x: Features, truth: Truth, alpha: float, start: Model | None, final: bool) -> Fitted:  # noqa: ARG001 - always from its seed
    """One hidden layer of 256 rectified units, Adam (MLPClassifier)."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.utils.class_weight import compute_sample_weight

    if truth.codes is None:
        raise ProbeError("an MLP probe takes one class a row. Use `probes linear` for several labels.")
    net = MLPClassifier((HIDDEN_UNITS,), alpha=alpha, random_state=recipe.seed, max_iter=200, tol=1e-4)
    weight = compute_sample_weight(recipe.class_weight, truth.codes)
    converged = _quietly(lambda: net.fit(x, truth.codes, sample_weight=weight))
    last = _spread(net.coefs_[1].T, net.intercepts_[1], np.unique(truth.codes), len(truth.classes))
    arrays = {"W0": net.coefs_[0], "b0": net.intercepts_[0], "W1": last["W"].T, "b1": last["b"]}
    return Fitted(Model("mlp", arrays), converged)


def _prototype(recipe: Recipe, x: Features, truth: Truth, value: float, start: Model | None, final: bool) -> Fitted:  # noqa: ARG001 - has no penalty
    """D6 `prototype`: the class means (NearestCentroid)."""
    from sklearn.neighbors import NearestCentroid

    if truth.codes is None:
        raise ProbeError("a prototype probe takes one class a row. Use `probes linear` for several labels.")
    means = np.full((len(truth.classes), x.shape[1]), np.nan)
    with warnings.catch_warnings():  # about its standard deviations, which are not used
        warnings.filterwarnings("ignore", message="self.within_class_std_dev_ has", category=UserWarning)
        nearest = NearestCentroid().fit(x, truth.codes)
    means[nearest.classes_] = nearest.centroids_
    return Fitted(Model("prototype", {"means": means}), True)


Fitter = Callable[[Recipe, Features, Truth, float, "Model | None", bool], Fitted]
FITTERS: dict[str, Fitter] = {
    "linear": _linear,
    "svm": _svm,
    "svm-rbf": _rbf,
    "mlp": _mlp,
    "prototype": _prototype,
}
