"""D36: a probe of a number, from the split to the result."""

from __future__ import annotations

import math

import numpy as np

from indexer.types import Float32, Float64, Int64
from probes.cohort.experiment import Experiment
from probes.cohort.splits import units
from probes.evaluation.leakage import Audit
from probes.evaluation.scoring import Resampling, Scored, compact
from probes.evaluation.subgroups import FEWEST, MISSING
from probes.evaluation.targets.agreement import number_evaluator, score_numbers
from probes.fitting.targets.numbers import CHOSEN_FROM, SizePoint, numbers_of, sizes, train_numbers
from probes.fitting.trained import Trained
from probes.progress import Stages
from probes.runs.cautions import warnings_of
from probes.runs.outcome import Outcome, package_versions
from probes.runs.result import FORMAT, ProbeResult
from probes.runs.targets.record import NumbersResult, NumberSubgroup

MOST_POINTS = 2000  # drawn; of more test rows so many, at random

Pair = tuple[Float64, Float64, Int64]  # predicted and true numbers, and groups, of some rows


def run_numbers(experiment: Experiment, near: tuple[Float32 | None, Audit | None], progress: Stages) -> Outcome:
    """Fit and score an audited experiment. Raises ProbeError where train holds one number only."""
    request, data, test = experiment.request, experiment.data, experiment.split.test
    trained = train_numbers(experiment, progress)
    how = Resampling(request.replicates, request.seed)
    pair = trained.test_logits[:, 0], numbers_of(experiment, test), data.groups[test]
    with progress.stage("intervals"):
        scored = score_numbers(*pair, how)
        subgroups = _subgroups(experiment, pair, how)
        distinct = _without(near[0], request.tau, pair, how)
        patients = _patients(experiment, pair, how)
    points: tuple[SizePoint, ...] = ()
    if request.few_shot:
        with progress.stage("label efficiency"):
            points = sizes(experiment, trained.selection.value, progress)
    result = ProbeResult(
        format=FORMAT,
        request=request,
        source=data.source,
        flow=data.flow,
        split=experiment.facts,
        audit=near[1],
        selection=trained.selection,
        converged=True,
        baselines=_baselines(numbers_of(experiment, experiment.fit_rows), pair),
        test=scored,
        without_duplicates=distinct,
        patients=patients,
        numbers=NumbersResult(_drawn(pair, request.seed), points, _rule(experiment) if points else "", subgroups),
        warnings=(*warnings_of(experiment, trained, near[1], scored), *_warnings(experiment, trained, pair)),
        packages=package_versions(),
        seconds=progress.seconds,
    )
    return Outcome(result, experiment, trained, trained.test_logits)


def _baselines(fitted: Float64, pair: Pair) -> dict[str, dict[str, float]]:
    """The mean and the median of the fitted rows as the prediction of every row."""
    out = {}
    for name, value in (("mean", fitted.mean()), ("median", np.median(fitted))):
        point = number_evaluator(np.full(len(pair[1]), value), pair[1], np.arange(len(pair[1]))).point()
        out[name] = {metric: number for metric, number in point.items() if not math.isnan(number)}
    return out


def _without(cosine: Float32 | None, tau: float, pair: Pair, how: Resampling) -> Scored | None:
    """Every metric without the test rows that have a near-duplicate; None where there are none, or nothing is left."""
    if cosine is None or not (cosine >= tau).any() or (cosine >= tau).all():
        return None
    rows = np.flatnonzero(~(cosine >= tau))
    predicted, true, groups = pair
    return score_numbers(predicted[rows], true[rows], groups[rows], how)


def _patients(experiment: Experiment, pair: Pair, how: Resampling) -> Scored | None:
    """D15: the mean prediction and the mean number of each group; None where each group has one row."""
    predicted, true, groups = pair
    ids = compact(groups)
    rows = np.bincount(ids)
    if experiment.data.level == "image" or len(rows) == len(ids):
        return None
    means = [np.bincount(ids, weights=values) / rows for values in (predicted, true)]
    return score_numbers(means[0], means[1], np.arange(len(rows)), how)


def _subgroups(experiment: Experiment, pair: Pair, how: Resampling) -> tuple[NumberSubgroup, ...]:
    predicted, true, groups = pair
    out = []
    for column, values in experiment.data.subgroups.items():
        own = np.array([MISSING if values[i] is None else values[i] for i in experiment.split.test], dtype=object)
        for value in sorted(set(own)):
            rows = np.flatnonzero(own == value)
            count = len(np.unique(groups[rows]))
            mae = bias = None
            if len(rows) >= FEWEST:
                scored = score_numbers(predicted[rows], true[rows], groups[rows], how)
                mae, bias = scored.metrics["mae"], scored.metrics["bias"]
            out.append(NumberSubgroup(column, str(value), len(rows), count, mae, bias))
    return tuple(out)


def _drawn(pair: Pair, seed: int) -> tuple[tuple[float, float], ...]:
    predicted, true, _ = pair
    rows = np.arange(len(true))
    if len(rows) > MOST_POINTS:
        rows = np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))[:MOST_POINTS])
    return tuple(zip(predicted[rows].tolist(), true[rows].tolist(), strict=True))


def _rule(experiment: Experiment) -> str:
    request, named = experiment.request, units(experiment.request.group)
    rule = f"alpha = the mean squared length of a row below {CHOSEN_FROM} {named}, from there on by inner folds"
    if request.penalty is not None:
        rule = f"alpha = {request.penalty:g}, as asked"
    return f"{rule}; the {request.scaling} scaling saw the vectors of all of train, without their numbers"


def _warnings(experiment: Experiment, trained: Trained, pair: Pair) -> tuple[str, ...]:
    fitted = numbers_of(experiment, experiment.fit_rows)
    outside = int(((pair[1] < fitted.min()) | (pair[1] > fitted.max())).sum())
    checks = (
        (
            outside > 0,
            f"{outside} of {len(pair[1])} test rows have a {experiment.request.labels[0]} outside the fitted range, "
            f"{fitted.min():g} to {fitted.max():g}",
        ),
        (len(pair[1]) > 1 and not np.ptp(pair[1]) > 0, "the test rows hold one number only: R² is not defined"),
        (not np.ptp(trained.test_logits) > 0, "the prediction is the same for every test row"),
    )
    return tuple(text for holds, text in checks if holds)
