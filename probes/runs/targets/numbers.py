"""D36: a probe of a number, from the split to the result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from indexer.types import Float32
from probes.cohort.experiment import Experiment
from probes.cohort.splits import units
from probes.evaluation.leakage import Audit
from probes.evaluation.scoring import Resampling
from probes.evaluation.subgroups import FEWEST, MISSING
from probes.evaluation.targets.predictions import Predictions, tested_rows
from probes.fitting.targets.numbers import CHOSEN_FROM, SizePoint, numbers_of, sizes, train_numbers
from probes.progress import Stages
from probes.runs.outcome import Outcome, result_of
from probes.runs.targets.parts import number_baselines, scored_by_group, without_twins
from probes.runs.targets.record import NumbersResult, NumberSubgroup

MOST_POINTS = 2000  # drawn; of more test rows so many, at random


def run_numbers(experiment: Experiment, near: tuple[Float32 | None, Audit | None], progress: Stages) -> Outcome:
    """Fit and score an audited experiment. Raises ProbeError where train holds one number only."""
    request, data, test = experiment.request, experiment.data, experiment.split.test
    trained = train_numbers(experiment, progress)
    how = Resampling(request.replicates, request.seed)
    tested = tested_rows(trained.test_logits, data.truth.take(test), data.groups[test])
    with progress.stage("intervals"):
        scored = tested.scored(how)
        subgroups = _subgroups(experiment, tested, how)
        distinct = without_twins(near[0], request.tau, tested, how)
        patients = scored_by_group(experiment, tested, how)
    points: tuple[SizePoint, ...] = ()
    if request.few_shot:
        with progress.stage("label efficiency"):
            points = sizes(experiment, trained.selection.value, progress)
    begun = result_of(experiment, trained, near[1], scored, progress)
    result = replace(
        begun,
        baselines=number_baselines(numbers_of(experiment, experiment.fit_rows), tested.true),
        without_duplicates=distinct,
        patients=patients,
        numbers=NumbersResult(_drawn(tested, request.seed), points, _rule(experiment) if points else "", subgroups),
        warnings=(*begun.warnings, *_warnings(experiment, tested)),
    )
    return Outcome(result, experiment, trained, trained.test_logits)


def _subgroups(experiment: Experiment, tested: Predictions, how: Resampling) -> tuple[NumberSubgroup, ...]:
    out = []
    for column, values in experiment.data.subgroups.items():
        own = np.array([MISSING if values[i] is None else values[i] for i in experiment.split.test], dtype=object)
        for value in sorted(set(own)):
            rows = tested.take(np.flatnonzero(own == value))
            mae = bias = None
            if len(rows.true) >= FEWEST:
                scored = rows.scored(how)
                mae, bias = scored.metrics["mae"], scored.metrics["bias"]
            out.append(NumberSubgroup(column, str(value), len(rows.true), len(np.unique(rows.groups)), mae, bias))
    return tuple(out)


def _drawn(tested: Predictions, seed: int) -> tuple[tuple[float, float], ...]:
    predicted, true = tested.predicted, tested.true
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


def _warnings(experiment: Experiment, tested: Predictions) -> tuple[str, ...]:
    fitted, true = numbers_of(experiment, experiment.fit_rows), tested.true
    outside = int(((true < fitted.min()) | (true > fitted.max())).sum())
    checks = (
        (
            outside > 0,
            f"{outside} of {len(true)} test rows have a {experiment.request.labels[0]} outside the fitted range, "
            f"{fitted.min():g} to {fitted.max():g}",
        ),
        (len(true) > 1 and not np.ptp(true) > 0, "the test rows hold one number only: R² is not defined"),
        (not np.ptp(tested.predicted) > 0, "the prediction is the same for every test row"),
    )
    return tuple(text for holds, text in checks if holds)
