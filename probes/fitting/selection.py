"""D5 for any fitted probe: chooses the penalty on inner rows, which are not test rows.

Ties of inner AUC are broken by log-loss (see probes.fitting.sweep), for support vector machines too: their
probabilities are the softmax of their decision values, and the alternative, balanced accuracy, stays 1 down to a C
whose decision values differ in the ninth decimal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from indexer.types import Float64, Int64, Progress
from probes.cohort.scaling import rows_of
from probes.cohort.truth import Truth, hide_absent, lacking, probabilities
from probes.evaluation.calibration import log_loss
from probes.evaluation.metrics import macro_auc, macro_auc_error
from probes.evaluation.ranks import mean
from probes.fitting.estimators import Features, Recipe, fit_all, shows_two_classes
from probes.fitting.linear import Fitted, Job
from probes.fitting.models import Model
from probes.fitting.sweep import UNCHOSEN, Candidate, Selection, fixed, sweep_decades, sweep_halving, sweep_values

PARAMETER = {
    "linear": "C",
    "cumulative": "C",
    "svm": "C",
    "svm-rbf": "C",
    "mlp": "alpha",
    "forest": "leaf",
    "prototype": "none",
}
DEFAULT = {"C": 1.0, "alpha": 1e-3, "leaf": 1.0}  # where no inner AUC is defined
CALIBRATED = (
    "linear",
    "cumulative",
    "mlp",
    "forest",
)  # their scores are probabilities: log-loss may decide among nearly equal AUCs
CONSTANT = 0.025  # SD of held-out scores, in logits minus the row's mean (with two classes, half the log odds)
SEARCHES = {"decades": sweep_decades, "halving": sweep_halving}
SHORT_LISTS = {  # too slow for the decades of D5
    "svm-rbf": (0.1, 1.0, 10.0, 100.0), "mlp": (1e-5, 1e-3, 1e-1), "forest": (1.0, 4.0, 16.0),
}  # fmt: skip

Folds = Sequence[tuple[Int64, Int64]]  # (fit rows, held-out rows)


@dataclass(frozen=True)
class Inner:
    """The choice on the inner rows, and their scores at the chosen penalty."""

    selection: Selection
    rows: Int64  # held-out rows, concatenated over the folds whose fit rows have two classes
    logits: Float64  # (len(rows), c) by models fitted without them
    start: Model | None  # of the last fold at the chosen penalty, to warm-start further fits


def choose_penalty(
    recipe: Recipe,
    x: Features,
    truth: Truth,
    folds: Folds,
    *,
    value: float | None = None,
    search: str = "decades",
    progress: Progress | None = None,
) -> Inner:
    """Sweep the recipe's penalty over `folds` of features x (n, dim), or only score `value` where it is given.

    `search` is "decades" (D5) or "halving" (Radford 2021). A fold whose fit rows have one class only is left out. Where
    no inner AUC is defined, DEFAULT is used and `selection.inner` is UNCHOSEN. `progress` advances once for each value.
    """
    folds = [fold for fold in folds if shows_two_classes(truth.take(fold[0]))]
    trial = _Trial(recipe, x, truth, folds, progress)
    parameter = PARAMETER[recipe.probe]
    inner = "val split" if len(folds) == 1 else f"{len(folds)} grouped folds of train"
    if value is None and parameter in DEFAULT and not _ranks(truth, folds):
        value = DEFAULT[parameter]
        trial([value])
        selection = replace(fixed(parameter, value), inner=UNCHOSEN)
    elif parameter == "none" or value is not None:
        trial([1.0 if value is None else value])
        selection = fixed(parameter, 1.0 if value is None else value)
    elif recipe.probe in SHORT_LISTS:
        selection = sweep_values(parameter, inner, SHORT_LISTS[recipe.probe], trial)
    else:
        selection = SEARCHES[search](parameter, inner, trial)
    rows = np.concatenate([np.empty(0, np.int64), *(held for _, held in folds)])
    models = trial.models[selection.value]
    return Inner(selection, rows, trial.logits[selection.value], models[-1] if models else None)


def _ranks(truth: Truth, folds: Folds) -> bool:
    """Whether some fold has positives and negatives of a column both in its fit rows and in its held-out rows."""
    for rows, held in folds:
        inside = hide_absent(truth.take(held), lacking(truth.take(rows)))
        positive = (inside.positive & inside.known).sum(0)
        if ((positive > 0) & (positive < inside.known.sum(0))).any():
            return True
    return False


class _Trial:
    """Fits several penalties on every fold together, each from what the penalties tried before suggest."""

    def __init__(self, recipe: Recipe, x: Features, truth: Truth, folds: Folds, progress: Progress | None) -> None:
        self._recipe, self._x, self._folds, self._progress = recipe, x, folds, progress
        self._multilabel, self._classes = truth.multilabel, len(truth.classes)
        self._fitted = [truth.take(rows) for rows, _ in folds]
        self._held = [
            hide_absent(truth.take(held), lacking(own)) for own, (_, held) in zip(self._fitted, folds, strict=True)
        ]
        self.models: dict[float, list[Model]] = {}
        self.logits: dict[float, Float64] = {}

    def __call__(self, values: Sequence[float]) -> list[Candidate]:
        jobs = [
            Job(rows, truth, value, self._start(value, i))
            for i, ((rows, _), truth) in enumerate(zip(self._folds, self._fitted, strict=True))
            for value in values
        ]
        fits = fit_all(self._recipe, self._x, jobs) if jobs else []
        return [self._candidate(value, fits[i :: len(values)]) for i, value in enumerate(values)]

    def _start(self, value: float, fold: int) -> Model | None:
        """Between the models of the penalties around it, on the scale of log C; beyond them the nearest one's."""
        below = max((v for v in self.models if v <= value), default=None)
        above = min((v for v in self.models if v >= value), default=None)
        if below is None or above is None or below == above:
            near = above if below is None else below
            return None if near is None else self.models[near][fold]
        share = float(np.log(value / below) / np.log(above / below))
        low, high = self.models[below][fold], self.models[above][fold]
        if low.kind != "linear":
            return None
        return Model("linear", {k: (1 - share) * v + share * high.arrays[k] for k, v in low.arrays.items()})

    def _candidate(self, value: float, fits: Sequence[Fitted]) -> Candidate:
        areas, errors, losses = [], [], []
        logits = [np.empty((0, self._classes))]
        for fitted, (_, held), inside in zip(fits, self._folds, self._held, strict=True):
            logits.append(fitted.model.logits(rows_of(self._x, held)))
            p = probabilities(logits[-1], inside.multilabel)
            areas.append(macro_auc(p, inside))
            errors.append(macro_auc_error(areas[-1], inside))
            losses.append(log_loss(p, inside))
        if self._progress is not None:
            self._progress.advance()
        self.models[value] = [f.model for f in fits]
        self.logits[value] = np.concatenate(logits)
        defined = [i for i, a in enumerate(areas) if not np.isnan(a)]
        auc, loss = (mean([of[i] for i in defined]) for of in (areas, losses))
        error = float(np.sqrt(np.sum([errors[i] ** 2 for i in defined]))) / max(len(defined), 1)
        return Candidate(
            value, auc, all(f.converged for f in fits), loss,
            error if self._recipe.probe in CALIBRATED and np.isfinite(error) else 0.0, self._constant(logits),
        )  # fmt: skip

    def _constant(self, logits: Sequence[Float64]) -> bool:
        """Whether the scores hardly vary among the held-out rows of each fold."""
        parts = [part for part in logits if len(part)]
        if not self._multilabel:
            parts = [part - part.mean(axis=1, keepdims=True) for part in parts]
        return bool(parts) and max(float(part.std(axis=0).max()) for part in parts) < CONSTANT
