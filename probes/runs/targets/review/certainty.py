"""D38: how sure a predicted number is: conformal ranges, and which rows to leave to a person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Float32, Float64, Int64
from probes.cohort.scaling import features, fit_scaler
from probes.evaluation.certainty.ranges import ConformalRanges, conformal_ranges, usable
from probes.evaluation.scoring import Resampling
from probes.evaluation.targets.predictions import Predictions
from probes.fitting.targets.held_out import neighbours_errors
from probes.fitting.targets.numbers import numbers_of
from probes.runs.outcome import Outcome


@dataclass(frozen=True)
class Doubt:
    """Fitted rows with the errors that they had when held out, from which the error of other rows is predicted."""

    unit: Float32  # (m, dim)
    errors: Float64  # (m,) true minus predicted
    groups: Int64  # (m,)

    def of(self, unit: Float32, groups: Int64) -> Float64:
        """(q,) the predicted error of unit rows (q, dim) of these groups (-1: of none of the fitted rows')."""
        return usable(neighbours_errors((self.unit, unit), self.errors, (self.groups, groups)))

    @staticmethod
    def scale(ranges: ConformalRanges, expected: Float64) -> Float64:
        """(q,) by which a range's factor is multiplied, of rows with these predicted errors."""
        return expected if ranges.adaptive else np.ones(len(expected))


def doubt_of(outcome: Outcome, held: Float64) -> Doubt:
    """`held` (m,) are predictions of the fit rows by fits without their groups."""
    experiment = outcome.experiment
    data, rows = experiment.data, experiment.fit_rows
    unit = fit_scaler("none", data.vectors, experiment.split.train)
    errors = numbers_of(experiment, rows) - held
    return Doubt(features(data.vectors, rows, unit), errors, data.groups[rows])


def expected_errors(outcome: Outcome, doubt: Doubt) -> Float64:
    """(n,) of the test rows."""
    experiment = outcome.experiment
    data, test = experiment.data, experiment.split.test
    unit = fit_scaler("none", data.vectors, experiment.split.train)
    return doubt.of(features(data.vectors, test, unit), data.groups[test])


def ranges_of(
    tested: Predictions, expected: Float64, wanted: float, how: Resampling
) -> tuple[ConformalRanges, ConformalRanges]:
    """Ranges of one width, and of a width that grows with the predicted error."""
    errors = tested.true - tested.predicted
    plain = conformal_ranges(errors, np.ones(len(errors)), tested.groups, wanted, how, adaptive=False)
    return plain, conformal_ranges(errors, expected, tested.groups, wanted, how, adaptive=True)
