"""D11 on a scored experiment: thresholds from held-out fitted rows, their rates on the test rows with intervals."""

from __future__ import annotations

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.cohort.truth import Truth
from probes.evaluation.bootstrap import Interval, interval, replicate
from probes.evaluation.certainty.trust import place, quoted
from probes.evaluation.interval_kinds import NO_SHARE, proportion_interval
from probes.evaluation.operating import RATES, OperatingPoint, choose_threshold, denominators, ppv_at, rates_evaluator
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
    values, drawn = rates_at(chosen.value, (truth.positive[rows, j], p[rows, j], groups[rows]), how)
    ppv = None
    if request.prevalence is not None:
        sensitivity, specificity = (np.append(drawn[n], values[n].value) for n in ("sensitivity", "specificity"))
        at = ppv_at(sensitivity, specificity, request.prevalence)
        ppv = interval(float(at[-1]), at[:-1])
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


def rates_at(
    threshold: float, column: tuple[Bool, Float64, Int64], how: Resampling
) -> tuple[dict[str, Interval], dict[str, Float64]]:
    """RATES of one column at a fixed threshold, with intervals, and their replicates. `column`: positive, score and
    group of its rows (n,); without rows all are NaN.
    """
    positive, score, groups = column
    own = compact(groups)
    n_groups = int(own.max()) + 1 if len(own) else 0
    nothing = np.full(how.replicates, np.nan)
    if not n_groups:
        return dict.fromkeys(RATES, interval(float("nan"), nothing)), dict.fromkeys(RATES, nothing)
    called = score >= threshold
    rates, once = rates_evaluator(positive, called, own, n_groups), np.ones((1, n_groups), np.int64)
    counts = denominators(positive, called, own)
    point = {name: float(value[0]) for name, value in rates(once).items()}
    drawn = replicate(rates, n_groups, replicates=how.replicates, seed=how.seed)
    area = auc_and_ap(rank_column(score, positive, np.ones(len(score), bool), own), once)[0]
    at = place(positive, score, own, float(area[0]))
    found = {
        name: quoted(proportion_interval(point[name], drawn[name], counts.get(name, NO_SHARE)), name, at)
        for name in RATES
    }
    return found, drawn
