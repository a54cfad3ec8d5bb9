"""D11 on a scored experiment: thresholds from held-out fitted rows, their rates on the test rows with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.cohort.truth import Truth
from probes.evaluation.bootstrap import Interval, interval, replicate
from probes.evaluation.certainty.trust import Place, place, quoted
from probes.evaluation.interval_kinds import other, proportion_interval, ratio_interval
from probes.evaluation.operating import RATES, OperatingPoint, choose_threshold, denominators, rates_evaluator
from probes.evaluation.ranks import auc_and_ap, rank_column
from probes.evaluation.scoring import Resampling, compact
from probes.request import ProbeRequest


def operating_points(
    inner: tuple[Float64, Truth], scored: tuple[Float64, Truth, Int64], request: ProbeRequest, how: Resampling
) -> tuple[OperatingPoint, ...]:
    """Operating points of the positive class of two (the last), else of every class or label against the rest."""
    truth = scored[1]
    columns = range(len(truth.classes))
    shown = columns[-1:] if len(columns) == 2 and not truth.multilabel else columns
    return tuple(_operating_point(j, inner, scored, request, how) for j in shown)


def global_threshold(points: tuple[OperatingPoint, ...], truth: Truth) -> float:
    """The threshold of a two-class task, which all subgroups share (D13); NaN for any other task."""
    return points[-1].threshold if points and len(truth.classes) == 2 and not truth.multilabel else float("nan")


def _operating_point(
    j: int, inner: tuple[Float64, Truth], scored: tuple[Float64, Truth, Int64], request: ProbeRequest, how: Resampling
) -> OperatingPoint:
    inner_p, inner_truth = inner
    p, truth, groups = scored
    known = inner_truth.known[:, j]
    chosen = choose_threshold(inner_truth.positive[known, j], inner_p[known, j], request.specificity)
    rows = np.flatnonzero(truth.known[:, j]) if not np.isnan(chosen.value) else np.empty(0, np.int64)
    values = rates_at(chosen.value, (truth.positive[rows, j], p[rows, j], groups[rows]), how)
    ppv = None
    if request.prevalence is not None:
        found = ppv_interval(values, request.prevalence)
        column = truth.positive[rows, j], p[rows, j], groups[rows]
        ppv = quoted(found, "ppv_at_prevalence", _place(*column) if len(rows) else None)
    return OperatingPoint(
        truth.classes[j],
        request.specificity,
        chosen.value,
        chosen.sensitivity,
        chosen.specificity,
        values,
        request.prevalence,
        ppv,
    )


def rates_at(threshold: float, column: tuple[Bool, Float64, Int64], how: Resampling) -> dict[str, Interval]:
    """RATES of one column at a fixed threshold, with intervals. `column`: positive, score and group of its rows (n,);
    without rows all are NaN.
    """
    positive, score, groups = column
    own = compact(groups)
    n_groups = int(own.max()) + 1 if len(own) else 0
    nothing = np.full(how.replicates, np.nan)
    if not n_groups:
        return dict.fromkeys(RATES, interval(float("nan"), nothing))
    called = score >= threshold
    rates, once = rates_evaluator(positive, called, own, n_groups), np.ones((1, n_groups), np.int64)
    counts = denominators(positive, called, own)
    point = {name: float(value[0]) for name, value in rates(once).items()}
    drawn = replicate(rates, n_groups, replicates=how.replicates, seed=how.seed)
    at = _place(positive, score, own)
    found = {name: proportion_interval(point[name], drawn[name], counts[name]) for name in counts}
    found |= ratios(found)
    return {name: quoted(found[name], name, at) for name in RATES}


def ratios(rates: Mapping[str, Interval]) -> dict[str, Interval]:
    """Both likelihood ratios; not defined where they are infinite."""
    sensitivity, specificity = rates["sensitivity"], rates["specificity"]
    found = {
        "lr_positive": ratio_interval(sensitivity, other(specificity)),
        "lr_negative": ratio_interval(other(sensitivity), specificity),
    }
    undefined = Interval(float("nan"), float("nan"), float("nan"), reliable=False)
    return {name: value if value.value < np.inf else undefined for name, value in found.items()}


def ppv_interval(rates: Mapping[str, Interval], prevalence: float) -> Interval:
    """sens·π / (sens·π + (1 - spec)(1 - π)): its odds are the prevalence's times LR+, and its ends those of LR+."""
    ratio = ratio_interval(rates["sensitivity"], other(rates["specificity"]))
    odds = prevalence / (1 - prevalence)

    def share(times: float) -> float:
        return 1 - 1 / (1 + odds * times)

    return replace(ratio, value=share(ratio.value), low=share(ratio.low), high=share(ratio.high))


def _place(positive: Bool, score: Float64, groups: Int64) -> Place:
    """Of one column's rows (n,) among the simulated designs."""
    own = compact(groups)
    ranked = rank_column(score, positive, np.ones(len(score), bool), own)
    area = auc_and_ap(ranked, np.ones((1, int(own.max()) + 1), np.int64))[0]
    return place(positive, score, own, float(area[0]))
