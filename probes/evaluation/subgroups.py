"""D13: metrics of each subgroup at a common threshold, and the gap between the best and the worst."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.cohort.truth import Truth
from probes.evaluation.bootstrap import Interval, replicate
from probes.evaluation.certainty.trust import place_of, quoted
from probes.evaluation.interval_kinds import area_interval, varied_interval
from probes.evaluation.metrics import Values, evaluator
from probes.evaluation.operating import rates_evaluator
from probes.evaluation.operating_points import rates_at
from probes.evaluation.scoring import Resampling, compact

FEWEST = 10  # positives, and negatives, below which no metric is reported
MISSING = "(missing)"


@dataclass(frozen=True)
class SubgroupResult:
    """One value of a subgroup column (D13). `note`: why a metric is missing."""

    column: str
    value: str
    rows: int
    positives: int
    negatives: int
    auc: Interval | None
    sensitivity: Interval | None
    specificity: Interval | None
    note: str = ""


@dataclass(frozen=True)
class SubgroupGap:
    """Highest minus lowest value of a metric over the subgroups in which it is reported."""

    column: str
    metric: str
    gap: float
    worst: str
    best: str = ""  # "" in results of before this field
    difference: Interval | None = None  # of `best` minus `worst`, from common draws of groups


def subgroup_results(
    column: str,
    values: Sequence[str | None],
    scored: tuple[Float64, Truth, Int64],
    threshold: float,
    how: Resampling,
) -> tuple[SubgroupResult, ...]:
    """One result for each value, nulls included. `scored`: p (n, c), truth, groups; the last column of two is the
    positive class. With more classes the AUC is the macro AUC and there is no threshold (NaN).
    """
    p, truth, groups = scored
    names = np.array([MISSING if v is None else v for v in values], dtype=object)
    out = []
    for name in sorted(set(names)):
        rows = np.flatnonzero(names == name)
        out.append(_one(column, str(name), (p[rows], truth.take(rows), groups[rows]), threshold, how))
    return tuple(out)


def _one(
    column: str, value: str, scored: tuple[Float64, Truth, Int64], threshold: float, how: Resampling
) -> SubgroupResult:
    p, truth, groups = scored
    positive = truth.positive[:, -1] & truth.known[:, -1]
    binary = truth.codes is not None and len(truth.classes) == 2
    sides = [positive.sum(), truth.n - positive.sum()]
    if not binary:  # of the rarest class or label with a metric
        columns = [(c, k) for c, k in zip(truth.positive.T, truth.known.T, strict=True) if k.any()]
        counts = [(int(c[k].sum()), int((~c[k]).sum())) for c, k in columns]
        sides = list(min(counts, key=min, default=(0, 0)))
    counted = (truth.n, int(sides[0]), int(sides[1]))
    if min(sides) < FEWEST:
        return SubgroupResult(column, value, *counted, None, None, None, "n too small")
    groups = compact(groups)
    measured = evaluator(p, truth, groups)
    drawn = replicate(measured, measured.groups, replicates=how.replicates, seed=how.seed)
    point = measured.point()
    auc = area_interval(float(point["auc_macro"]), drawn["auc_macro"], int(measured.sides().min()))
    auc = quoted(auc, "auc_macro", place_of(p, truth, groups, point["auc"]))
    if not binary or np.isnan(threshold):
        return SubgroupResult(column, value, *counted, auc, None, None)
    rates = rates_at(threshold, (positive, p[:, -1], groups), how)
    return SubgroupResult(column, value, *counted, auc, rates["sensitivity"], rates["specificity"])


def gaps(
    results: Sequence[SubgroupResult],
    values: Mapping[str, Sequence[str | None]],
    scored: tuple[Float64, Truth, Int64],
    threshold: float,
    how: Resampling,
) -> tuple[SubgroupGap, ...]:
    """The gap of each metric over the values of a column for which it is reported, its ends and its interval.

    `values`: column → the value of each row of `scored`.
    """
    out = []
    for column in dict.fromkeys(r.column for r in results):
        own = np.array([MISSING if v is None else v for v in values[column]], dtype=object)
        for metric in ("auc", "sensitivity", "specificity"):
            numbers = {
                r.value: getattr(r, metric).value
                for r in results
                if r.column == column and getattr(r, metric) is not None and not np.isnan(getattr(r, metric).value)
            }
            if len(numbers) > 1:
                worst, best = (pick(numbers, key=lambda name: numbers[name]) for pick in (min, max))
                gap = numbers[best] - numbers[worst]
                difference = _difference(metric, gap, [own == best, own == worst], scored, threshold, how)
                out.append(SubgroupGap(column, metric, gap, worst, best, difference))
    return tuple(out)


def _difference(
    metric: str,
    gap: float,
    members: Sequence[Bool],
    scored: tuple[Float64, Truth, Int64],
    threshold: float,
    how: Resampling,
) -> Interval:
    """First minus second subgroup, with the percentiles of common draws: a group may have rows in both."""
    p, truth, groups = scored
    both = np.flatnonzero(members[0] | members[1])
    ids = compact(groups[both])
    n_groups = int(ids.max()) + 1
    inside = [np.flatnonzero(member[both]) for member in members]
    first, second = (_metric(metric, p[both[m]], truth.take(both[m]), (ids[m], n_groups), threshold) for m in inside)

    def evaluate(weights: Int64) -> Values:
        return {"difference": first(weights) - second(weights)}

    drawn = replicate(evaluate, n_groups, replicates=how.replicates, seed=how.seed)
    return varied_interval(gap, drawn["difference"])


def _metric(
    metric: str, p: Float64, truth: Truth, grouped: tuple[Int64, int], threshold: float
) -> Callable[[Int64], Float64]:
    """A metric of these rows as a function of the weights (b, g) of all g groups; `grouped`: the rows' ids, and g."""
    groups, n_groups = grouped
    if metric == "auc":
        measured = evaluator(p, truth, groups)  # of the groups up to the last with a row here
        return lambda weights: measured(weights[:, : measured.groups])["auc_macro"]
    rates = rates_evaluator(truth.positive[:, -1] & truth.known[:, -1], p[:, -1] >= threshold, groups, n_groups)
    return lambda weights: rates(weights)[metric]
