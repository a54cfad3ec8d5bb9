"""D11 on a scored experiment: thresholds from held-out fitted rows, their rates on the test rows with intervals."""

from __future__ import annotations

import numpy as np

from indexer.types import Float64, Int64
from probes.cohort.truth import Truth
from probes.evaluation.bootstrap import interval, proportion_interval, replicate
from probes.evaluation.operating import RATES, OperatingPoint, choose_threshold, denominators, ppv_at, rates_evaluator
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
    own = compact(groups[rows])
    n_groups = int(own.max()) + 1 if len(own) else 0
    called = p[rows, j] >= chosen.value
    rates = rates_evaluator(truth.positive[rows, j], called, own, n_groups)
    counts = denominators(truth.positive[rows, j], called, own)
    point = {name: value[0] for name, value in rates(np.ones((1, n_groups), np.int64)).items()}
    drawn = replicate(rates, n_groups, replicates=how.replicates, seed=how.seed)
    nothing = np.full(how.replicates, np.nan)
    values = {
        name: proportion_interval(float(point[name]), drawn.get(name, nothing), counts.get(name, 0)) for name in RATES
    }
    ppv = None
    if request.prevalence is not None:
        at = ppv_at(np.append(drawn.get("sensitivity", nothing), point["sensitivity"]),
                    np.append(drawn.get("specificity", nothing), point["specificity"]), request.prevalence)  # fmt: skip
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
