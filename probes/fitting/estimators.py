"""Fits one probe on scaled features and keeps its arrays (D4).

The estimators are scikit-learn's; the linear probe has a minimiser of its own (`probes.fitting.softmax`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.cores import cores
from indexer.errors import ProbeError
from indexer.types import Int64
from probes.cohort.scaling import ScaledRows, TakenRows, rows_of
from probes.cohort.truth import Truth
from probes.compute.threads import one_thread
from probes.fitting.cumulative import fit_cumulative
from probes.fitting.linear import Fitted, Job, fit_linear, over_classes
from probes.fitting.models import ABSENT, Model

Features = npt.NDArray[Any]  # (n, dim) float32 or float64, scaled

SWEEP_TOL = 1e-3  # tol² bounds the relative excess of the objective: 1e-6
NEAR_TOL = 1e-5  # about as near as float32 rows come
FINAL_TOL = 1e-6  # in float64: within 1e-12 of the minimum
HIDDEN_UNITS = 256
TREES = 100
SMALL = 4_000_000  # matrix elements; one thread multiplies so many in a few milliseconds
KERNEL_ROWS = 20_000  # a kernel machine's time grows with the square of the rows


@dataclass(frozen=True)
class Recipe:
    """The settings of a fit, except the penalty."""

    probe: str  # linear | cumulative | svm | svm-rbf | mlp | forest | prototype
    class_weight: str | None = None  # None | "balanced"
    seed: int = 0


def fit(
    recipe: Recipe,
    x: Features | ScaledRows | TakenRows,
    truth: Truth,
    value: float,
    *,
    start: Model | None = None,
    tol: float = SWEEP_TOL,
) -> Fitted:
    """Fit on features x (n, dim). `value` is C (or alpha, for mlp); `start` is a warm start where supported.

    `tol` is the linear probe's; FINAL_TOL needs float64 features. Raises ProbeError with one class only.
    """
    return fit_all(recipe, x, [Job(np.arange(x.shape[0]), truth, value, start)], tol=tol)[0]


def fit_all(
    recipe: Recipe, x: Features | ScaledRows | TakenRows, jobs: Sequence[Job], *, tol: float = SWEEP_TOL
) -> list[Fitted]:
    """Fit every job on its rows of x (n, dim); linear probes share their passes over x. Raises ProbeError as `fit`.

    Jobs with the same rows and truth must have the very same objects, which are then prepared once.
    """
    for job in jobs:
        check_two_classes(job.truth)
    if recipe.probe == "linear":
        return fit_linear(recipe.class_weight, x, jobs, tol)
    if isinstance(x, (ScaledRows, TakenRows)):
        x = x.whole()
    with _few_threads(x):
        return [FITTERS[recipe.probe](recipe, rows_of(x, job.rows), job.truth, job.value) for job in jobs]


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
    with one_thread():
        yield


def _quietly(run: Callable[[], object]) -> bool:
    """Run a fit without its convergence warning; returns whether the optimiser converged.

    scikit-learn's threads set the filters of warnings of the whole process, each for its task, and may leave them
    altered or empty, and then remark on their own `delayed`: the filters are put back, and the remark is dropped.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        run()
    for other in caught:
        if not issubclass(other.category, ConvergenceWarning) and "utils.parallel.delayed" not in str(other.message):
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


def _svm(recipe: Recipe, x: Features, truth: Truth, c: float) -> Fitted:
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


def _rbf(recipe: Recipe, x: Features, truth: Truth, c: float) -> Fitted:
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


def _mlp(recipe: Recipe, x: Features, truth: Truth, alpha: float) -> Fitted:
    """One hidden layer of 256 rectified units, Adam (MLPClassifier)."""
    from sklearn.neural_network import MLPClassifier
    from sklearn.utils.class_weight import compute_sample_weight

    if truth.codes is None:
        raise ProbeError("an MLP probe takes one class a row. Use `probes linear` for several labels.")
    net = MLPClassifier((HIDDEN_UNITS,), alpha=alpha, random_state=recipe.seed, max_iter=200, tol=1e-4)
    weight = compute_sample_weight(recipe.class_weight, truth.codes)
    converged = _quietly(lambda: net.fit(x, truth.codes, sample_weight=weight))
    last = over_classes(net.coefs_[1].T, net.intercepts_[1], np.unique(truth.codes), len(truth.classes))
    arrays = {"W0": net.coefs_[0], "b0": net.intercepts_[0], "W1": last["W"].T, "b1": last["b"]}
    return Fitted(Model("mlp", arrays), converged)


def _forest(recipe: Recipe, x: Features, truth: Truth, leaf: float) -> Fitted:
    """Breiman's random forest; `leaf` is the least number of rows in a leaf. Its trees are kept as arrays of nodes."""
    from sklearn.ensemble import RandomForestClassifier

    if truth.codes is None:
        raise ProbeError("a forest probe takes one class a row. Use `probes linear` for several labels.")
    forest = RandomForestClassifier(
        TREES, min_samples_leaf=max(1, round(leaf)), class_weight=recipe.class_weight, random_state=recipe.seed,
        n_jobs=cores(),
    )  # fmt: skip
    _quietly(lambda: forest.fit(x, truth.codes))
    trees = [estimator.tree_ for estimator in forest.estimators_]
    roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
    shares = np.zeros((int(sum(tree.node_count for tree in trees)), len(truth.classes)), np.float32)
    shares[:, forest.classes_] = np.concatenate([tree.value[:, 0, :] for tree in trees])
    left, right = (
        np.concatenate([np.where(side >= 0, side + root, -1) for side, root in zip(sides, roots, strict=True)])
        for sides in ([t.children_left for t in trees], [t.children_right for t in trees])
    )
    arrays = {
        "roots": roots.astype(np.int32), "left": left.astype(np.int32), "right": right.astype(np.int32),
        "feature": np.concatenate([tree.feature for tree in trees]).astype(np.int32),
        "threshold": np.concatenate([tree.threshold for tree in trees]), "shares": shares,
    }  # fmt: skip
    return Fitted(Model("forest", arrays), True)


def _prototype(recipe: Recipe, x: Features, truth: Truth, value: float) -> Fitted:  # noqa: ARG001 - has no penalty
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


def _cumulative(recipe: Recipe, x: Features, truth: Truth, c: float) -> Fitted:
    """D34: one direction and a cut between neighbouring grades; grades without a row get probability 0."""
    from sklearn.utils.class_weight import compute_sample_weight

    if truth.codes is None or not truth.ordinal:
        raise ProbeError("a cumulative link takes ordered grades. Add --ordinal, or leave --link out.")
    present, codes = np.unique(truth.codes, return_inverse=True)
    weights = compute_sample_weight(recipe.class_weight, codes)
    w, cuts, converged = fit_cumulative(x, codes, weights, c)
    arrays = {"w": w, "cuts": cuts, "present": present.astype(np.int64), "classes": np.array([len(truth.classes)])}
    return Fitted(Model("cumulative", arrays), converged)


FITTERS: dict[str, Callable[[Recipe, Features, Truth, float], Fitted]] = {
    "cumulative": _cumulative,
    "svm": _svm,
    "svm-rbf": _rbf,
    "mlp": _mlp,
    "forest": _forest,
    "prototype": _prototype,
}
PROBES = ("linear", *FITTERS)
