"""D4 for several fits at once: classes or labels, penalties and folds become tasks on one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.types import Float64, Int64
from probes.cohort.scaling import ScaledRows, TakenRows
from probes.cohort.truth import Truth
from probes.fitting.models import ABSENT, Model
from probes.fitting.objective import Point, Task
from probes.fitting.softmax import Minimum, minimise_all

EVALUATIONS = 5000  # most in one descent


@dataclass(frozen=True)
class Job:
    """One of several fits on the rows of one matrix."""

    rows: Int64  # (m,) ascending
    truth: Truth  # of those rows
    value: float  # C, or alpha for mlp
    start: Model | None = None  # a warm start where supported


@dataclass(frozen=True)
class Fitted:
    """A model, and whether its optimiser converged."""

    model: Model
    converged: bool


@dataclass(frozen=True)
class _Column:
    """The classes of a job, or one of its labels: what does not depend on the penalty."""

    label: int | None  # None: all classes
    present: Int64  # classes with a row
    codes: Int64  # (n,) positions in `present`; 0 in rows that are not the column's
    weights: Float64  # (n,) 0 in rows that are not the column's


def fit_linear(class_weight: str | None, x: Any, jobs: Sequence[Job], tol: float) -> list[Fitted]:
    """Σ wᵢ·CE(softmax(Wx + b), yᵢ) + ‖W‖²/(2C) of each job; for labels, one such binary fit for each on its known rows.

    Jobs with the same rows and truth (the very same objects) share their columns. A label of one value is left out: its
    metrics are NaN, and the result lists it.
    """
    used = np.unique(np.concatenate([job.rows for job in jobs]))
    x = _taken(x, used)
    columns: dict[tuple[int, int], list[_Column]] = {}
    tasks, starts, owners = [], [], []
    for i, job in enumerate(jobs):
        own = columns.setdefault((id(job.rows), id(job.truth)), [])
        own += [] if own else _columns(class_weight, job, used)
        for column in own:
            tasks.append(Task(x, column.codes, len(column.present), column.weights, job.value))
            starts.append(_start(job.start, column))
            owners.append((i, column))
    minima = minimise_all(tasks, starts, tol=tol, iterations=EVALUATIONS)
    found = list(zip(owners, minima, strict=True))
    dim = x.shape[1]
    return [_fitted(job, [(c, m) for (at, c), m in found if at == i], dim) for i, job in enumerate(jobs)]


def _taken(x: Any, rows: Int64) -> Any:
    """The rows of x; a view where they follow each other."""
    whole = len(rows) == rows[-1] - rows[0] + 1
    if isinstance(x, (ScaledRows, TakenRows)):
        return x if whole and len(rows) == x.shape[0] else x.take(rows)
    return x[rows[0] : rows[-1] + 1] if whole else TakenRows(x, rows)


def _columns(class_weight: str | None, job: Job, used: Int64) -> list[_Column]:
    truth, at = job.truth, np.searchsorted(used, job.rows)
    if truth.codes is not None:
        return [_column(class_weight, None, truth.codes, at, len(used))]
    out = []
    for j in range(len(truth.classes)):
        known = truth.known[:, j]
        codes = truth.positive[known, j].astype(np.int64)
        if len(np.unique(codes)) == 2:
            out.append(_column(class_weight, j, codes, at[known], len(used)))
    return out


def _column(class_weight: str | None, label: int | None, codes: Int64, at: Int64, n: int) -> _Column:
    from sklearn.utils.class_weight import compute_sample_weight

    present, own = np.unique(codes, return_inverse=True)
    spread, weights = np.zeros(n, np.int64), np.zeros(n)
    spread[at], weights[at] = own, compute_sample_weight(class_weight, own)
    return _Column(label, present, spread, weights)


def _start(model: Model | None, column: _Column) -> Point | None:
    if model is None:
        return None
    w, b = model.arrays["W"], model.arrays["b"]
    if column.label is not None:
        return w[column.label : column.label + 1], b[column.label : column.label + 1]
    w, b = w[column.present], b[column.present]
    if len(column.present) == 2:  # one logistic row: the second class against the first
        return w[1:] - w[:1], b[1:] - b[:1]
    return w, b


def _fitted(job: Job, found: Sequence[tuple[_Column, Minimum]], dim: int) -> Fitted:
    converged = all(minimum.converged for _, minimum in found)
    classes = len(job.truth.classes)
    if job.truth.codes is not None:
        ((column, minimum),) = found
        arrays = over_classes(minimum.coef, minimum.intercept, column.present, classes)
        return Fitted(Model("linear", arrays), converged)
    weights, bias = np.zeros((classes, dim)), np.zeros(classes)
    for column, minimum in found:
        assert column.label is not None
        weights[column.label], bias[column.label] = minimum.coef[0], minimum.intercept[0]
    return Fitted(Model("linear", {"W": weights, "b": bias}), converged)


def over_classes(
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
