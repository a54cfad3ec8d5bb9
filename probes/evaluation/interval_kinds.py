"""D9: the kinds of 95 % interval, each from a metric's replicates under resampling of groups.

The kind for each metric was chosen by simulation: see `probes/protocols.md`, D9.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from indexer.types import Float64
from probes.evaluation.bootstrap import Interval, interval
from probes.evaluation.ranks import EQUAL

MISSED = 0.025  # probability on either side
MOST_EXPONENT = 700.0  # exp of more overflows


@cache
def student(freedom: float) -> float:
    """The .975 quantile of Student's distribution."""
    from scipy.stats import t

    return float(t.ppf(1 - MISSED, freedom))


def edge(groups: int) -> float:
    """How far from 1 a probability may be of which `groups` independent trials all succeeded: .025^(1/groups) is the
    lower end of Clopper & Pearson's interval.
    """
    return 1 - float(MISSED ** (1 / groups))


def area_interval(value: float, replicates: Float64, sides: int) -> Interval:
    """Interval of an AUC or average precision: logit(A) ∓ t·SD/(A(1-A)), SD of the replicates, t with `sides` - 1
    degrees of freedom.

    `sides` is the number of groups on the smaller side. Percentile intervals are too narrow where it is small, and miss
    on one side where the area is near 1. At 1 (or 0), where the replicates do not vary: an AUC of 1 says that `sides`
    pairs of a group with and another without all stood in the right order, which has a probability of at most A^sides,
    so that the interval is from .025^(1/sides) to 1.
    """
    plain = interval(value, replicates)
    if math.isnan(plain.low) or sides < 1:
        return plain
    if min(value, 1 - value) <= EQUAL:
        return (
            replace(plain, low=1 - edge(sides), high=1.0) if value > 0.5 else replace(plain, low=0.0, high=edge(sides))
        )
    if sides < 2:
        return plain
    half = student(sides - 1) * _spread(replicates) / (value * (1 - value))
    centre = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(min(MOST_EXPONENT, -(centre + sign * half)))) for sign in (-1, 1))
    return replace(plain, low=low, high=high)


def proportion_interval(value: float, replicates: Float64, counts: tuple[int, int]) -> Interval:
    """Interval of a share of rows. `counts`: groups and rows in its denominator.

    Wilson's score interval with as many trials as would have the replicates' variance, p(1-p)/variance, at most the
    rows, and Student's t of the groups in place of 1.96 (Dean & Pagano 2015). At 0 and 1, where resamples are constant,
    Clopper & Pearson's with the groups as trials: rows of one patient may be right together (the design effect cannot
    be estimated where all rows agree).
    """
    groups, rows = counts
    plain = interval(value, replicates)
    if math.isnan(value) or not groups:
        return plain
    if value in (0.0, 1.0):
        return replace(plain, low=1 - edge(groups), high=1.0) if value else replace(plain, low=0.0, high=edge(groups))
    if math.isnan(plain.low) or groups < 2:
        return plain
    variance = _spread(replicates) ** 2 * groups / (groups - 1)
    trials = min(float(rows), value * (1 - value) / variance) if variance > 0 else float(groups)
    squared = student(groups - 1) ** 2 / trials
    centre = (value + squared / 2) / (1 + squared)
    half = math.sqrt(squared * (value * (1 - value) + squared / 4)) / (1 + squared)
    return replace(plain, low=max(0.0, centre - half), high=min(1.0, centre + half))


def other(share: Interval) -> Interval:
    """1 minus the share."""
    return replace(share, value=1 - share.value, low=1 - share.high, high=1 - share.low)


def ratio_interval(over: Interval, under: Interval) -> Interval:
    """The ratio of two shares of different rows, from their intervals: MOVER on its logarithm (Donner & Zou 2012).

    ln low = ln(a/b) - √(ln²(a/a_low) + ln²(b_high/b)), the upper end likewise. Where a is 0 the ratio is 0, to
    a_high / b_low; where b is 0 it is infinite, from a_low / b_high; NaN where both are.
    """
    reliable = over.reliable and under.reliable
    a, b = over.value, under.value
    if not (a > 0 or b > 0) or math.isnan(over.low) or math.isnan(under.low):  # NaN is not above 0
        value = a / b if b > 0 else math.nan
        return Interval(value, math.nan, math.nan, reliable=False)
    if not b > 0:
        return Interval(math.inf, over.low / under.high, math.inf, reliable=reliable)
    if not a > 0:
        return Interval(0.0, 0.0, over.high / under.low if under.low > 0 else math.inf, reliable=reliable)
    down = math.hypot(_log(a, over.low), _log(under.high, b))
    up = math.hypot(_log(over.high, a), _log(b, under.low))
    return Interval(a / b, a / b * math.exp(-down), a / b * math.exp(up), reliable=reliable)


def _log(larger: float, smaller: float) -> float:
    """Of the ratio; finite where the smaller is 0, so that exp of it neither overflows nor is undefined."""
    return min(MOST_EXPONENT / 2, math.log(larger / smaller)) if smaller > 0 else MOST_EXPONENT / 2


def varied_interval(value: float, replicates: Float64) -> Interval:
    """Percentiles; none where all replicates are equal, as the difference of two perfect scores or the kappa of calls
    of one grade alone: a width of 0 is no certainty.
    """
    plain = interval(value, replicates)
    return replace(plain, low=math.nan, high=math.nan) if plain.low == plain.high else plain


def mean_interval(value: float, replicates: Float64, parts: Sequence[tuple[Interval, Float64]]) -> Interval:
    """Interval of a mean of estimates from theirs: MOVER for dependent ones (Zou & Donner 2008).

    low = mean - √(Σᵢⱼ rᵢⱼ dᵢ dⱼ) / k, dᵢ the distance of estimate i to its lower end, r the correlation of the
    replicates (0 with one that does not vary); the upper end likewise. `parts`: each defined estimate and its
    replicates (b,); `value` and `replicates` are those of the mean.
    """
    plain = interval(value, replicates)
    if math.isnan(plain.low) or not parts or any(math.isnan(part.low) for part, _ in parts):
        return plain
    drawn = np.stack([of for _, of in parts], axis=1)
    with np.errstate(invalid="ignore"):
        spread = np.nanstd(drawn, axis=0)
        z = np.where(spread > 0, (drawn - np.nanmean(drawn, axis=0)) / spread, 0.0)
    z = np.nan_to_num(z)
    lacking = 1 - z.var(axis=0)  # of the variance 1: all of it for an estimate that does not vary

    def half(distances: Float64) -> float:
        return math.sqrt(float((z @ distances).var() + (lacking * distances**2).sum())) / len(parts)

    estimates, low, high = (np.array([getattr(p, of) for p, _ in parts]) for of in ("value", "low", "high"))
    return replace(plain, low=value - half(estimates - low), high=value + half(high - estimates))


def harmonic(share: float) -> float:
    """F1 from TP / (TP + FP + FN), a share of rows: 2J / (1 + J)."""
    return 2 * share / (1 + share)


def f1_interval(value: float, replicates: Float64, counts: tuple[int, int]) -> Interval:
    """Interval of an F1, which rises with the share J = TP / (TP + FP + FN) = F / (2 - F) of rows (Takahashi 2022);
    `counts`: groups and rows with the class or called so.
    """
    share = proportion_interval(value / (2 - value), replicates / (2 - replicates), counts)
    return replace(share, value=value, low=harmonic(share.low), high=harmonic(share.high))


def loss_interval(value: float, replicates: Float64, influence: Float64, most: float) -> Interval:
    """Interval of a mean loss: ln(L) ∓ t·SD/L with `degrees` of freedom, since few groups with large losses make most
    of the variance. `influence` (g,): each group's part of the estimate, which sum to 0; `most`: the largest mean loss
    that there can be.
    """
    plain = interval(value, replicates)
    groups = len(influence)
    if math.isnan(plain.low) or not value > 0 or groups < 2:
        return plain
    spread = _spread(replicates) * math.sqrt(groups / (groups - 1))
    half = min(MOST_EXPONENT, student(degrees(influence)) * spread / value)
    return replace(plain, low=value * math.exp(-half), high=min(most, value * math.exp(half)))


def degrees(deviations: Float64) -> float:
    """Effective degrees of freedom of the variance Σ d², by Satterthwaite 1946: 3 (Σ d²)² / Σ d⁴, with d (m,) the
    metric's deviations where a group is left out; at most m - 1, since the deviations sum to 0.

    Equals about the number of groups where all contribute alike (d normal), and less where few of them, e.g. the
    patients of a rare class, make most of the variance. Few deviations have a smaller fourth moment than the normal
    distribution's that the formula assumes: of two groups, ±d, it would be 6.
    """
    d = deviations[~np.isnan(deviations)]
    d = d - d.mean() if len(d) else d
    fourth = float((d**4).sum())
    most = max(1.0, len(d) - 1.0)
    return min(most, max(1.0, 3 * float((d**2).sum()) ** 2 / fourth)) if fourth > 0 else most


def _spread(replicates: Float64) -> float:
    return float(replicates[~np.isnan(replicates)].std())


def centred_interval(value: float, replicates: Float64) -> Interval:
    """Interval of an error ≥ 0 whose replicates are biased by resampling noise: percentiles, centred on `value`.

    An estimate below 0 is reported as 0, which the interval then contains.
    """
    defined = replicates[~np.isnan(replicates)]
    plain = interval(value, replicates)
    if np.isnan(plain.low):
        return plain
    shift = value - float(defined.mean())
    return replace(
        plain,
        value=max(0.0, value),
        low=max(0.0, min(value, plain.low + shift)),
        high=max(0.0, value, plain.high + shift),
    )
