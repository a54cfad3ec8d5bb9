"""D5 for any fitted probe: which penalty, by inner rows that are not tested on.

Equal inner AUCs are told apart by log-loss (see probes.fitting.sweep), for kernel and support vector machines too: what
they report are the softmax of their decision values, and balanced accuracy, the other choice, stays at 1 down to a C
whose decision values differ in the ninth decimal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.errors import ProbeError
from indexer.types import Float64, Int64
from probes.cohort.scaling import rows_of
from probes.cohort.truth import Truth, hide_absent, lacking, probabilities
from probes.evaluation.calibration import log_loss
from probes.evaluation.metrics import macro_auc
from probes.evaluation.ranks import mean
from probes.fitting.estimators import Features, Fitted, Recipe, fit
from probes.fitting.models import Model
from probes.fitting.sweep import Candidate, Selection, fixed, sweep_decades, sweep_halving, sweep_values

PARAMETER = {"linear": "C", "svm": "C", "svm-rbf": "C", "mlp": "alpha", "prototype": "none"}
SEARCHES = {"decades": sweep_decades, "halving": sweep_halving}
SHORT_LISTS = {"svm-rbf": (0.1, 1.0, 10.0, 100.0), "mlp": (1e-5, 1e-3, 1e-1)}  # too slow for the decades of D5

Folds = Sequence[tuple[Int64, Int64]]  # (fit rows, held-out rows)


@dataclass(frozen=True)
class Inner:
    """What the inner rows chose, and how the chosen probe scored them: for temperature and thresholds."""

    selection: Selection
    rows: Int64  # held-out rows, concatenated over the folds
    logits: Float64  # (len(rows), c) by models that had not seen them
    start: Model | None  # of the last fold at the chosen penalty, to warm-start the final fit


def choose_penalty(
    recipe: Recipe,
    x: Features,
    truth: Truth,
    folds: Folds,
    *,
    value: float | None = None,
    search: str = "decades",
    progress: Callable[[str], None] = lambda _: None,
) -> Inner:
    """Sweep the recipe's penalty over `folds` of features x (n, dim), or only score `value` where it is given.

    `search` is "decades" (D5) or "halving" (Radford 2021). Raises ProbeError where no fold defines an AUC.
    """
    trial = _Trial(recipe, x, truth, folds, progress)
    parameter = PARAMETER[recipe.probe]
    inner = "val split" if len(folds) == 1 else f"{len(folds)} grouped folds of train"
    if parameter == "none" or value is not None:
        trial(1.0 if value is None else value)
        selection = fixed(parameter, 1.0 if value is None else value)
    elif recipe.probe in SHORT_LISTS:
        selection = sweep_values(parameter, inner, SHORT_LISTS[recipe.probe], trial)
    else:
        selection = SEARCHES[search](parameter, inner, trial)
    if selection.candidates and all(np.isnan(c.auc) for c in selection.candidates):
        raise ProbeError(
            f"no inner AUC is defined: nothing can choose {parameter}. Fix it with --penalty, or label more rows."
        )
    rows = np.concatenate([held for _, held in folds])
    return Inner(selection, rows, trial.logits[selection.value], trial.models[selection.value][-1])


class _Trial:
    """Fits one penalty on every fold, warm-started from the nearest penalty tried before."""

    def __init__(
        self, recipe: Recipe, x: Features, truth: Truth, folds: Folds, progress: Callable[[str], None]
    ) -> None:
        self._recipe, self._x, self._truth, self._folds, self._progress = recipe, x, truth, folds, progress
        self.models: dict[float, list[Model]] = {}
        self.logits: dict[float, Float64] = {}

    def __call__(self, value: float) -> Candidate:
        self._progress(f"{PARAMETER[self._recipe.probe]} = {value:.3g}")
        near = min(self.models, key=lambda v: abs(np.log(v / value)), default=None)
        fits: list[Fitted] = []
        areas, losses, logits = [], [], []
        for i, (rows, held) in enumerate(self._folds):
            start = None if near is None else self.models[near][i]
            fits.append(fit(self._recipe, rows_of(self._x, rows), self._truth.take(rows), value, start=start))
            scored = fits[-1].model.logits(rows_of(self._x, held))
            inside = hide_absent(self._truth.take(held), lacking(self._truth.take(rows)))
            p = probabilities(scored, inside.multilabel)
            areas.append(macro_auc(p, inside))
            losses.append(log_loss(p, inside))
            logits.append(scored)
        self.models[value] = [f.model for f in fits]
        self.logits[value] = np.concatenate(logits)
        defined = [i for i, a in enumerate(areas) if not np.isnan(a)]
        auc, loss = (mean([of[i] for i in defined]) for of in (areas, losses))
        return Candidate(value, auc, all(f.converged for f in fits), loss)
