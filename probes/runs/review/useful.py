"""D27 to D29 on a scored experiment: usefulness and certainty."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from indexer.types import Float64, Int64
from probes.cohort.truth import Truth, hide_absent
from probes.evaluation.certainty.conformal import ConformalSets, conformal_sets, label_sets
from probes.evaluation.certainty.selective import selective
from probes.evaluation.certainty.trust import Place, Trust, place, place_of, trust, trusted
from probes.evaluation.operating import RATES
from probes.evaluation.scoring import Resampling
from probes.evaluation.usefulness.costs import RATIOS, Costs, costs
from probes.evaluation.usefulness.decision_curve import DecisionCurve, decision_curve
from probes.runs.outcome import Outcome
from probes.runs.review.record import Review


def scored_rows(outcome: Outcome) -> tuple[Float64, Truth, Int64]:
    """Probabilities, truth and groups of the test rows, as every metric of the result saw them."""
    experiment = outcome.experiment
    test = experiment.split.test
    truth = hide_absent(experiment.data.truth.take(test), experiment.absent)
    return outcome.p, truth, experiment.data.groups[test]


def with_usefulness(review: Review, outcome: Outcome, how: Resampling) -> Review:
    scored = scored_rows(outcome)
    curves, tables = _of_columns(outcome, scored, how)
    return replace(
        review, decision=curves, costs=tables, conformal=_sets(outcome, scored, how),
        label_sets=_label_sets(outcome, scored, how), selective=selective(*scored, how), trust=_trust(outcome),
    )  # fmt: skip


def _of_columns(
    outcome: Outcome, scored: tuple[Float64, Truth, Int64], how: Resampling
) -> tuple[tuple[DecisionCurve, ...], tuple[Costs, ...]]:
    """The columns with an operating point: the positive one of two classes, else each."""
    p, truth, groups = scored
    ratios = outcome.result.request.costs or RATIOS
    curves, tables = [], []
    for point in outcome.result.operating:
        j = truth.classes.index(point.column)
        rows = np.flatnonzero(truth.known[:, j])
        own = truth.positive[rows, j], p[rows, j], groups[rows]
        if own[0].any() and not own[0].all():
            curve = decision_curve(point.column, *own, how)
            found = trust("net_benefit", place(*own, outcome.result.test.classes[j].auc.value))
            curves.append(curve if found is None else replace(curve, held=found.coverage))
            tables.append(costs(point.column, own, point.threshold, ratios, how))
    return tuple(curves), tuple(tables)


def _sets(outcome: Outcome, scored: tuple[Float64, Truth, Int64], how: Resampling) -> ConformalSets | None:
    absent = outcome.experiment.absent
    if scored[1].multilabel:
        return None
    if absent:
        return ConformalSets(outcome.result.request.coverage, f"train or test lacks rows of: {', '.join(absent)}")
    return conformal_sets(*scored, outcome.result.request.coverage, how)


def _label_sets(outcome: Outcome, scored: tuple[Float64, Truth, Int64], how: Resampling) -> tuple[ConformalSets, ...]:
    return label_sets(*scored, outcome.result.request.coverage, how) if scored[1].multilabel else ()


def _trust(outcome: Outcome) -> tuple[Trust, ...]:
    result, at = outcome.result, place_here(outcome)
    named = dict.fromkeys((*result.test.metrics, *(RATES if len(result.operating) == 1 else ())))
    return () if at is None else trusted(named, at)


def place_here(outcome: Outcome) -> Place | None:
    """Where the test rows lie among the simulated designs."""
    return place_of(*scored_rows(outcome), np.array([c.auc.value for c in outcome.result.test.classes]))
