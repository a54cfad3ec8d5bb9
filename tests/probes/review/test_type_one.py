"""Over data sets without an effect, patients of several images, tests find one in about 5 of 100."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.paired import SETTLED, Design, rejected
from probes.cohort.truth import class_truth
from probes.evaluation.delong import delong
from probes.evaluation.external.drop import drop
from probes.evaluation.external.recalibration import recalibration
from probes.evaluation.scoring import Resampling, score
from probes.evaluation.usefulness.decision_curve import decision_curve

SEEDED, ALL = 60, 1000
LEVEL = (0.035, 0.065)
SHIFT = math.sqrt(2) * norm.ppf(0.8)  # between the classes, for an AUC of 0.8


def patients_of(rng, patients, images, ill, shift):
    """Scores, classes and patients of images; half of the variance is the patient's."""
    owner = np.repeat(np.arange(patients), rng.integers(1, images + 1, patients))
    noise = rng.standard_normal(patients)[owner] + rng.standard_normal(len(owner))
    return shift * ill[owner] + noise / math.sqrt(2), ill[owner].astype(int), owner


def scored(seed):
    """100 patients, 40 % of them ill, by the true probabilities of their scores."""
    rng = np.random.default_rng([29, seed])
    s, y, owner = patients_of(rng, 100, 4, rng.random(100) < 0.4, SHIFT)
    p = 1 / (1 + np.exp(-(SHIFT * s - SHIFT**2 / 2 + math.log(0.4 / 0.6))))
    return p, y, owner


def falls(seed):
    """Whether the AUC of one set of patients is said to differ from that of another, equal one."""
    found = []
    for number in (2 * seed, 2 * seed + 1):
        p, y, owner = scored(number)
        found.append(score(np.stack([1 - p, p], 1), class_truth(y, ("no", "yes")), owner, Resampling(200, number))[0])
    fall = drop(found[0].metrics["auc_macro"], found[1].metrics["auc_macro"])
    return not fall.low <= 0 <= fall.high


def miscalibrated(seed):
    p, y, owner = scored(seed)
    found = recalibration("yes", y == 1, p, owner)
    return [not found.intercept.low <= 0 <= found.intercept.high, not found.slope.low <= 1 <= found.slope.high]


def differ(seed):
    """DeLong's paired test, which is of one image a patient: two scores with a common part and the same AUC."""
    rng = np.random.default_rng([10, seed])
    ill, common = rng.random(100) < 0.4, rng.standard_normal(100)
    both = [1.2 * ill + common + rng.standard_normal(100) for _ in range(2)]
    return delong(ill, np.array(both)).test()[1] < 0.05


def useful(seed):
    """Whether probabilities that say nothing, scattered about the prevalence, are said to be of use somewhere."""
    rng = np.random.default_rng([27, seed])
    s, y, owner = patients_of(rng, 100, 4, rng.random(100) < 0.4, 0.0)
    p = 1 / (1 + np.exp(-(math.log(0.4 / 0.6) + 0.5 * s)))
    return bool(decision_curve("yes", y == 1, p, owner, Resampling(200, seed)).useful)


FOUND = {
    "the drop of an AUC to other patients (D25)": falls,
    "calibration intercept and slope (D25)": miscalibrated,
    "DeLong's paired test, one image a patient (D10)": differ,
}


def test_without_an_effect_few_are_found():
    for name, found in FOUND.items():
        rates = np.mean([found(seed) for seed in range(SEEDED)], axis=0)
        assert np.all(rates <= 0.15), name  # 0.05 + 3.5 standard errors
    assert np.mean([useful(seed) for seed in range(SEEDED)]) <= 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_without_an_effect_one_in_twenty_is_found(name, record_property):
    rates = np.atleast_1d(np.mean([FOUND[name](seed) for seed in range(ALL)], axis=0))
    record_property("measured", f"type I: {name}: {', '.join(f'{r:.1%}' for r in rates)} of {ALL}")
    assert all(LEVEL[0] <= rate <= LEVEL[1] for rate in rates)


@pytest.mark.slow
def test_the_paired_test_of_two_tables_finds_a_difference_in_one_of_twenty_without_one(record_property):
    for patients in (20, 40, 100):
        rate = rejected(Design(patients), ALL, 200)[SETTLED] / 100
        record_property("measured", f"type I: paired difference of AUCs, {patients} patients (D9): {rate:.1%} of {ALL}")
        assert LEVEL[0] <= rate <= LEVEL[1]


@pytest.mark.slow
def test_useless_probabilities_are_seldom_said_to_be_of_use(record_property):
    rate = np.mean([useful(seed) for seed in range(ALL)])
    record_property(
        "measured", f"type I: useless probabilities are of use at some threshold (D27): {rate:.1%} of {ALL}"
    )
    assert rate <= LEVEL[1]
