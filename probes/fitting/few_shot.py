"""D12: test AUC by the number of fitted patients for each class (label-efficiency curve)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.errors import ProbeError
from indexer.types import Int64, Progress
from probes.cohort.experiment import Experiment
from probes.cohort.scaling import features, fit_scaler
from probes.cohort.splits import FOLDS, grouped_folds, units
from probes.cohort.truth import Truth, hide_absent, probabilities
from probes.evaluation.metrics import macro_auc
from probes.fitting.estimators import Features, Recipe, fit
from probes.fitting.models import Model
from probes.fitting.selection import PARAMETER, choose_penalty
from probes.fitting.train import recipe_of
from probes.request import ProbeRequest

DRAWS = 5
SWEEP_FROM = 16  # patients a class from which C is chosen by a sweep
FIXED = 1.0  # C for fewer


@dataclass(frozen=True)
class FewShotPoint:
    """One size of the label-efficiency curve."""

    patients_per_class: int  # for the last point, of the largest class
    auc_mean: float
    auc_sd: float
    draws: int
    penalties: tuple[float, ...]


@dataclass(frozen=True)
class FewShot:
    """D12: the curve; `area` is the mean AUC over log₂ of the patients a class."""

    points: tuple[FewShotPoint, ...]  # ascending; the last is all of train
    area: float
    penalty_rule: str


def patient_order(codes: Int64, groups: Int64, classes: int, seed: int) -> list[Int64]:
    """The groups of each class in a seeded order: the first n are the n-shot draw, so that draws are nested.

    A group with rows of several classes is in the list of each.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    return [rng.permutation(np.unique(groups[codes == c])) for c in range(classes)]


def shots(codes: Int64, groups: Int64, order: list[Int64], n: int) -> Int64:
    """Rows of each class's first n groups, only those of that class."""
    taken = [np.flatnonzero((codes == c) & np.isin(groups, names[:n])) for c, names in enumerate(order)]
    return np.sort(np.concatenate(taken))


def few_shot(experiment: Experiment, penalty_of_all: float, progress: Progress) -> FewShot:
    """The curve at 1, 2, 4, … patients a class over 5 seeds, and at all of train with the penalty of the main result.

    Val rows are not fitted on, and the test rows are always the same. Raises ProbeError for a multi-label task.
    """
    data, split, request = experiment.data, experiment.split, experiment.request
    truth = data.truth.take(split.train)
    if truth.codes is None:
        raise ProbeError("a label-efficiency curve takes one class a row. Leave out --few-shot or --multilabel.")
    scaler = fit_scaler(request.scaling, data.vectors, split.train)
    x, x_test = features(data.vectors, split.train, scaler), features(data.vectors, split.test, scaler)
    held = hide_absent(data.truth.take(split.test), experiment.absent)
    groups, recipe = data.groups[split.train], recipe_of(request)
    sizes = _sizes(truth.codes, groups)
    points = []
    for n in sizes:
        areas, penalties = [], []
        for seed in range(request.seed, request.seed + DRAWS):
            rows = shots(truth.codes, groups, patient_order(truth.codes, groups, len(truth.classes), seed), n)
            drawn = x[rows], truth.take(rows), groups[rows]
            penalty = request.penalty or _penalty(recipe, drawn, n, seed)
            model = fit(recipe, *drawn[:2], penalty).model
            areas.append(_test_auc(model, x_test, held))
            penalties.append(penalty)
        progress.advance()
        points.append(FewShotPoint(n, float(np.mean(areas)), float(np.std(areas, ddof=1)), DRAWS, tuple(penalties)))
    whole = fit(recipe, x, truth, penalty_of_all).model
    most = _most_patients(truth.codes, groups)
    points.append(FewShotPoint(most, _test_auc(whole, x_test, held), float("nan"), 1, (penalty_of_all,)))
    return FewShot(tuple(points), _area(points), _rule(recipe, request))


def _test_auc(model: Model, x_test: Features, held: Truth) -> float:
    return macro_auc(probabilities(model.logits(x_test), held.multilabel), held)


def _rule(recipe: Recipe, request: ProbeRequest) -> str:
    """A sentence on how C was set and how the draws were scaled."""
    fixed = f"{PARAMETER[recipe.probe]} = {FIXED:g} (scaling {request.scaling})"
    rule = f"{fixed} below {SWEEP_FROM} {units(request.group)} a class, from there on by inner folds"
    if recipe.probe == "prototype":
        rule = "no penalty to choose"
    elif request.penalty is not None:
        rule = f"{PARAMETER[recipe.probe]} = {request.penalty:g} (scaling {request.scaling}), as asked"
    if request.scaling in ("zscore", "center_l2"):
        rule += f"; the {request.scaling} scaling saw the vectors of all of train, without their labels"
    return rule


def _most_patients(codes: Int64, groups: Int64) -> int:
    return max(len(np.unique(groups[codes == c])) for c in np.unique(codes))


def _sizes(codes: Int64, groups: Int64) -> list[int]:
    """1, 2, 4, … below the number of patients of the largest class."""
    most = _most_patients(codes, groups)
    return [2**i for i in range(most.bit_length()) if 2**i < most]


def _penalty(recipe: Recipe, drawn: tuple[Features, Truth, Int64], n: int, seed: int) -> float:
    x, truth, groups = drawn
    if n < SWEEP_FROM or recipe.probe == "prototype" or len(np.unique(groups)) < FOLDS:
        return FIXED
    return choose_penalty(recipe, x, truth, grouped_folds(truth.strata(), groups, seed)).selection.value


def _area(points: list[FewShotPoint]) -> float:
    """Area under the mean AUC over log₂ n, all of train included, divided by its width."""
    if len(points) < 2:
        return float("nan")
    x, y = np.log2([p.patients_per_class for p in points]), [p.auc_mean for p in points]
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))
