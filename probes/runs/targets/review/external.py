"""D25, D26 for numbers and times: the frozen probe on rows of another site, table or database."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from indexer.types import Progress
from probes.cohort.scaling import features, fit_scaler
from probes.evaluation.certainty.ranges import ConformalRanges, measure_ranges
from probes.evaluation.external.drop import drop
from probes.evaluation.scoring import Resampling, Scored
from probes.evaluation.targets.predictions import Predictions, tested_rows
from probes.fitting.train import logits_of
from probes.runs.outcome import Outcome
from probes.runs.review.external import external_audit, external_rows, external_shift
from probes.runs.review.record import External
from probes.runs.targets.horizon import horizon_calibration
from probes.runs.targets.review.certainty import Doubt


def tested_here(outcome: Outcome) -> Predictions:
    """The test rows of the split."""
    experiment = outcome.experiment
    test = experiment.split.test
    return tested_rows(outcome.p, experiment.data.truth.take(test), experiment.data.groups[test])


def target_external(
    outcome: Outcome, ranges: tuple[tuple[ConformalRanges, ...], Doubt | None], how: Resampling, progress: Progress
) -> External:
    """Weights and baseline hazard stay as they are, and so do the factors of the `ranges`. Both sides are scored at the
    earlier of their horizons. Raises ProbeError, EncoderMismatch.
    """
    data, kept, store = external_rows(outcome)
    predicted = logits_of(outcome.trained.model, data.vectors, kept, outcome.trained.scaler)
    there = tested_rows(predicted, data.truth.take(kept), data.groups[kept])
    own = tested_here(outcome)
    here: Scored | None = None
    if own.events is not None:
        time = min(own.horizon, there.horizon)
        there = replace(there, horizon=time)
        here = outcome.result.test if time == own.horizon else replace(own, horizon=time).scored(how)
    found = there.scored(how)
    compared = outcome.result.test if here is None else here
    made, doubt = ranges
    measured: tuple[ConformalRanges, ...] = ()
    if made and doubt is not None:
        unit = fit_scaler("none", outcome.experiment.data.vectors, outcome.experiment.split.train)
        expected = doubt.of(features(data.vectors, kept, unit), np.full(len(kept), -1))
        measured = tuple(
            measure_ranges(each, there.true - there.predicted, doubt.scale(each, expected), there.groups, how)
            for each in made
        )
    return External(
        db=store.uri,
        table=store.name,
        version=store.version,
        where=outcome.experiment.request.test_where or "",
        flow=data.flow,
        shared_rows=data.truth.n - len(kept),
        audit=external_audit(outcome, data, kept, progress),
        test=found,
        drops={name: drop(value, found.metrics[name]) for name, value in compared.metrics.items()},
        shift=external_shift(outcome, data, kept),
        here=here,
        horizon=there.horizon,
        at_horizon=horizon_calibration(there, outcome.trained.model, how),
        ranges=measured,
    )
