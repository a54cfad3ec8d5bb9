"""D33: how many test patients an interval of a wished width takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from probes.evaluation.certainty.trust import Place, trust

MOST = 10_000_000  # patients; beyond that no archive is
TEST_SHARE = 0.2  # of the hash split


@dataclass(frozen=True)
class Study:
    """What is expected of the test rows."""

    prevalence: float = 0.5  # of patients; of numbers nothing depends on it
    images: float = 1.0  # mean images a patient
    likeness: float = 0.5  # share of a score's variance that is the patient's

    @property
    def design_effect(self) -> float:
        """The factor by which the variance grows since rows of a patient are alike: 1 + (images - 1) · likeness."""
        return 1 + (self.images - 1) * self.likeness


@dataclass(frozen=True)
class Plan:
    """Patients for one metric's 95 % interval of at most this width."""

    metric: str
    expected: float
    width: float
    patients: int  # in the test split
    positive: int | None  # of them, with the finding or the event; None of numbers
    all_patients: int  # of which the hash split puts a fifth into test
    expected_width: float
    simulated_coverage: float | None  # per cent, of D29's nearest design; None where it has none


def plan_area(area: float, width: float, study: Study) -> Plan:
    """For an AUC: D9's logit interval, with the standard error of two normal distributions of rows / deff."""
    return _plan("auc", area, width, study, lambda patients: area_width(area, patients, study))


def plan_rate(metric: str, rate: float, width: float, study: Study) -> Plan:
    """For a sensitivity or specificity: 2 · 1.96 · √(rate (1 - rate) · design effect / rows of that side)."""
    side = study.prevalence if metric == "sensitivity" else 1 - study.prevalence

    def expected(patients: int) -> float:
        rows = patients * side * study.images
        return 2 * 1.959964 * math.sqrt(rate * (1 - rate) * study.design_effect / rows) if rows > 0 else 1.0

    return _plan(metric, rate, width, study, expected)


def area_width(area: float, patients: int, study: Study) -> float:
    """The expected width of the interval; 1 with fewer than two patients on a side.

    Variance (A(1 - A) + (m + n - 2)(Q - A²)) / (m n) (Bamber 1975), m positive and n negative rows / deff, Q the
    probability that a row scores above two of the other side: of two normal distributions Φ₂(a, a; ½), a = Φ⁻¹(A).
    """
    from scipy.special import expit
    from scipy.stats import multivariate_normal, norm, t

    sides = patients * min(study.prevalence, 1 - study.prevalence)
    if sides < 2:
        return 1.0
    rows = patients * study.images / study.design_effect
    m, n = rows * study.prevalence, rows * (1 - study.prevalence)
    a = float(norm.ppf(area))
    both = float(multivariate_normal.cdf([a, a], cov=[[1.0, 0.5], [0.5, 1.0]]))
    variance = (area * (1 - area) + (m + n - 2) * (both - area**2)) / (m * n)
    half = float(t.ppf(0.975, sides - 1)) * math.sqrt(max(variance, 0.0)) / (area * (1 - area))
    centre = math.log(area / (1 - area))
    return float(expit(centre + half) - expit(centre - half))


def _plan(metric: str, expected: float, width: float, study: Study, width_of: Callable[[int], float]) -> Plan:
    found = fewest_patients(width, width_of)
    at = Place(found[0], min(study.prevalence, 1 - study.prevalence), study.images, study.likeness,
               expected if metric == "auc" else 0.85)  # fmt: skip
    known = trust("auc_macro" if metric == "auc" else metric, at)
    plan = planned(metric, expected, width, found, round(found[0] * study.prevalence))
    return plan if known is None else replace(plan, simulated_coverage=known.coverage)


def fewest_patients(width: float, width_of: Callable[[int], float]) -> tuple[int, float]:
    """The fewest whose expected width is at most `width`, and that width; MOST where no archive is large enough."""
    low, high = 1, 2
    while width_of(high) > width and high < MOST:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if width_of(middle) > width else (low, middle)
    return high, width_of(high)


def planned(metric: str, expected: float, width: float, found: tuple[int, float], positive: int | None = None) -> Plan:
    """A plan for this metric; `found` as `fewest_patients` gives it."""
    patients, own = found
    return Plan(metric, expected, width, patients, positive, math.ceil(patients / TEST_SHARE), own, None)
