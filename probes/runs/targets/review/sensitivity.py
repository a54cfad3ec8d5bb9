"""D32 for numbers and times: how much the headline moves with the split and with choices that protocols leave open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from probes.cohort.experiment import prepare
from probes.cohort.load import ProbeData
from probes.cohort.scaling import ScaledRows, fit_scaler
from probes.evaluation.targets.predictions import METRICS, Predictions, tested_rows
from probes.fitting.targets.numbers import mean_squared_length
from probes.progress import Stages
from probes.request import ProbeRequest
from probes.runs.review.record import Choice, Spread
from probes.runs.review.repeats import FIXED, SCALINGS, SPLITS, split_words, spread_of, with_split
from probes.runs.targets.folds import fitted


def target_repeats(request: ProbeRequest, data: ProbeData, progress: Stages) -> tuple[Spread, ...]:
    """Every metric over `request.repeats` further splits. Their test rows overlap: a spread, no interval."""
    points = [_run(with_split(request, number), data, progress).point() for number in range(1, request.repeats + 1)]
    spreads = (spread_of(name, [point[name] for point in points]) for name in METRICS[request.target])
    return tuple(each for each in spreads if each is not None)


def target_multiverse(request: ProbeRequest, data: ProbeData, progress: Stages) -> tuple[Choice, ...]:
    """The test headline metric for each scaling, rule for the penalty, split and pooling."""
    out: list[Choice] = []
    for number in range(SPLITS):
        own = with_split(request, number)
        for scaling in SCALINGS:
            scaled = replace(own, scaling=scaling)
            for rule, value in (("inner validation", None), _fixed(scaled, data)):
                tested = _run(replace(scaled, penalty=value), data, progress)
                out += [
                    Choice(scaling, rule, split_words(own), pooling, value=found) for pooling, found in _pooled(tested)
                ]
    return tuple(out)


def _fixed(request: ProbeRequest, data: ProbeData) -> tuple[str, float]:
    """A penalty that nothing chose: 1 of Cox's model, of a ridge regression the mean squared length of the rows."""
    if request.target == "survival":
        return f"fixed at {FIXED:g}", FIXED
    train = prepare(request, data).split.train
    scaler = fit_scaler(request.scaling, data.vectors, train)
    return "fixed by the rows' length", mean_squared_length(ScaledRows(data.vectors, train, scaler))


def _pooled(tested: Predictions) -> Iterator[tuple[str, float]]:
    """The headline by rows, and by groups where they have several."""
    metric = tested.metrics[0]
    yield "rows", tested.point()[metric]
    pooled = tested.by_group()
    if pooled is not None:
        yield "mean of a group", pooled[0].point()[metric]


def _run(request: ProbeRequest, data: ProbeData, progress: Stages) -> Predictions:
    """The test rows of one more split, by the whole protocol."""
    experiment = prepare(request, data)
    trained = fitted(experiment, progress)
    test = experiment.split.test
    return tested_rows(trained.test_logits, data.truth.take(test), data.groups[test])
