"""D36, D37: rows with a predicted number, or a risk, and what is true of them, scored alike for both targets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.cohort.truth import Truth
from probes.evaluation.scoring import Resampling, Scored, compact
from probes.evaluation.targets import agreement, concordance
from probes.evaluation.targets.agreement import NumberEvaluator, number_evaluator, score_numbers
from probes.evaluation.targets.concordance import ConcordanceEvaluator, concordance_evaluator, horizon_of, score_risks

METRICS = {"numeric": agreement.METRICS, "survival": concordance.METRICS}  # by target; the first is the headline


@dataclass(frozen=True)
class Predictions:
    """Predicted numbers, or risks (higher for earlier events), of n rows, and what is true of them."""

    predicted: Float64  # (n,) numbers, or risks
    true: Float64  # (n,) numbers, or times
    events: Bool | None  # (n,) of times
    groups: Int64  # (n,) any ids
    horizon: float = float("nan")  # of times: events up to it count in Uno's C

    @property
    def target(self) -> str:
        return "numeric" if self.events is None else "survival"

    @property
    def metrics(self) -> tuple[str, ...]:
        return METRICS[self.target]

    def take(self, rows: Int64) -> Predictions:
        """Some of the rows; the horizon stays."""
        events = None if self.events is None else self.events[rows]
        return Predictions(self.predicted[rows], self.true[rows], events, self.groups[rows], self.horizon)

    def evaluator(self) -> NumberEvaluator | ConcordanceEvaluator:
        groups = compact(self.groups)
        if self.events is None:
            return number_evaluator(self.predicted, self.true, groups)
        return concordance_evaluator(self.predicted, self.true, self.events, groups, self.horizon)

    def point(self) -> dict[str, float]:
        """Every metric with weight 1 for each group; NaN without rows."""
        return self.evaluator().point() if len(self.true) else dict.fromkeys(self.metrics, float("nan"))

    def scored(self, how: Resampling) -> Scored:
        """Every metric with its interval."""
        if self.events is None:
            return score_numbers(self.predicted, self.true, self.groups, how)
        return score_risks(self.predicted, self.true, self.events, (self.groups, how), self.horizon)

    def by_group(self) -> tuple[Predictions, int] | None:
        """D15: one row for each group, and how many groups are left out; None where each group has one row, or none is
        left. Means of both numbers, or the mean risk; groups whose rows differ in time or event are left out.
        """
        ids = compact(self.groups)
        rows = np.bincount(ids)
        if len(rows) == len(ids):
            return None
        means = np.bincount(ids, weights=self.predicted) / rows
        names, first = np.unique(self.groups, return_index=True)
        if self.events is None:
            return replace(self, predicted=means, true=np.bincount(ids, weights=self.true) / rows, groups=names), 0
        same = (self.true == self.true[first][ids]) & (self.events == self.events[first][ids])
        kept = np.flatnonzero(np.bincount(ids, weights=~same) == 0)
        if not len(kept):
            return None
        found = Predictions(means[kept], self.true[first][kept], self.events[first][kept], names[kept], self.horizon)
        return found, len(rows) - len(kept)


def tested_rows(predicted: Float64, truth: Truth, groups: Int64) -> Predictions:
    """Of predictions (n, 1) for rows with this truth; times have the horizon of these rows."""
    assert truth.numbers is not None  # of a target that is no class
    horizon = float("nan") if truth.events is None or not truth.n else horizon_of(truth.numbers)
    return Predictions(predicted[:, 0], truth.numbers, truth.events, groups, horizon)
