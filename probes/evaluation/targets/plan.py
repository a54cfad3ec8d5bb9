"""D33: how many test patients an interval of a wished width takes, of a number's errors and of a concordance."""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from indexer.types import Float64
from probes.evaluation.certainty.plan import Plan, Study, fewest_patients, planned
from probes.evaluation.targets.agreement import LIMITS

SIMULATED = 2000  # patients from whom the spread of a concordance is taken
HALF_NORMAL = math.sqrt(2 / math.pi)  # mean of |d| of a standard normal d
MOST_SPREAD = 20.0  # SD of the log hazard ratios, above that of a concordance of .95
QUANTILES = 20_001  # of a normal distribution


def plan_mae(mae: float, width: float, study: Study) -> Plan:
    """For a mean absolute error, of normal differences with mean 0."""
    return planned("mae", mae, width, fewest_patients(width, lambda patients: mae_width(mae, patients, study)))


def plan_limits(sd: float, width: float, study: Study) -> Plan:
    """For each limit of agreement, of differences with this SD."""
    return planned("limits", sd, width, fewest_patients(width, lambda patients: limits_width(sd, patients, study)))


def plan_concordance(c: float, width: float, events: float) -> Plan:
    """For Harrell's C, of patients of whom this share has the event, one row each."""
    found = fewest_patients(width, lambda patients: concordance_width(c, patients, events))
    return planned("harrell", c, width, found, round(found[0] * events))


def mae_width(mae: float, patients: int, study: Study) -> float:
    """M · 2 sinh(t · SE / M) (D36's interval), SE² = (π/2 - 1) M² · deff / rows.

    Deff of |d| has the correlation of |X| and |Y| of two normal numbers that correlate by ρ: (√(1 - ρ²) + ρ asin ρ - 1)
    · (2/π) / (1 - 2/π).
    """
    if patients < 2:
        return math.inf
    r = study.likeness
    alike = (math.sqrt(1 - r**2) + r * math.asin(r) - 1) * HALF_NORMAL**2 / (1 - HALF_NORMAL**2)
    deff = 1 + (study.images - 1) * alike
    half = _student(patients - 1) * math.sqrt((math.pi / 2 - 1) * deff / (patients * study.images))
    return 2 * mae * math.sinh(half) if half < 700 else math.inf


def limits_width(sd: float, patients: int, study: Study) -> float:
    """2 · t · s · √(deff₁ / n + z² deff₂ / (2 (n - 1))), n rows (Bland & Altman 1999 for independent ones); deff₁ of
    the mean has the likeness ρ, deff₂ of the SD its square.
    """
    rows = patients * study.images
    if patients < 2 or rows <= 1:
        return math.inf
    mean, spread = (1 + (study.images - 1) * study.likeness**power for power in (1, 2))
    return 2 * _student(patients - 1) * sd * math.sqrt(mean / rows + LIMITS**2 * spread / (2 * (rows - 1)))


def concordance_width(c: float, patients: int, events: float) -> float:
    """D37's logit interval, with the SD of a simulated population times √(its size / patients) and t of the events."""
    if patients * events < 2:
        return 1.0
    spread = _concordance_sd(c, events) * math.sqrt(SIMULATED / patients)
    half = _student(patients * events - 1) * spread / (c * (1 - c))
    centre = math.log(c / (1 - c))
    low, high = (1 / (1 + math.exp(min(700.0, -(centre + sign * half)))) for sign in (-1, 1))
    return high - low


@cache
def _concordance_sd(c: float, events: float) -> float:
    """First-order SD of Harrell's C of SIMULATED patients: normal log hazard ratios, exponential times and censoring.

    √Σᵢ (aᵢ - C bᵢ)² / B, aᵢ and bᵢ the concordant and comparable pairs of patient i, B all comparable pairs.
    """
    from scipy.optimize import brentq

    rng = np.random.Generator(np.random.PCG64(0))
    risks = rng.standard_normal(SIMULATED) * _spread_of(c)
    times, limits = rng.exponential(np.exp(-risks)), rng.exponential(size=SIMULATED)
    rate = brentq(lambda log: (times < limits * math.exp(log)).mean() - events, -30, 30)
    limits = limits * math.exp(rate)
    happened, seen = times < limits, np.minimum(times, limits)
    comparable = happened[:, None] & (seen[:, None] < seen[None, :])
    right = comparable & (risks[:, None] > risks[None, :])
    a, b = (pairs.sum(0) + pairs.sum(1) for pairs in (right.astype(np.int64), comparable.astype(np.int64)))
    total = comparable.sum()
    deviations: Float64 = a - right.sum() / total * b
    return float(np.sqrt((deviations**2).sum()) / total)


def _spread_of(c: float) -> float:
    """SD of normal log hazard ratios whose C is c: E[1 / (1 + e^-|Δ|)] = c, Δ of two patients (Gönen & Heller 2005)."""
    from scipy.optimize import brentq
    from scipy.stats import norm

    apart = np.abs(norm.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES)) * math.sqrt(2)
    return float(brentq(lambda sd: (1 / (1 + np.exp(-apart * sd))).mean() - c, 1e-9, MOST_SPREAD))


def _student(freedom: float) -> float:
    from scipy.stats import t

    return float(t.ppf(0.975, freedom))
