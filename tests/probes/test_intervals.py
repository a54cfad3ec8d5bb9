"""Clustered intervals, paired differences, DeLong: against definitions, another implementation, and simulation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from MLstatkit import Delong_test
from scipy.stats import binomtest, norm, t

from benchmarks.paired import RESULTS, SETTLED, Design, rejected
from probes.cohort.truth import class_truth, label_truth
from probes.evaluation.bootstrap import Interval, draw, interval, replicate
from probes.evaluation.delong import delong
from probes.evaluation.interval_kinds import (
    area_interval,
    degrees,
    loss_interval,
    mean_interval,
    proportion_interval,
)
from probes.evaluation.metrics import debiased, evaluator
from probes.evaluation.operating import denominators
from probes.evaluation.paired import holm, paired_difference
from probes.evaluation.scoring import Resampling, score


def two_columns(score):
    return np.stack([-score, score], axis=1)


def test_replicates_equal_a_plain_loop_over_drawn_groups():
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 12, 60)
    groups[:12] = range(12)
    y, s = rng.integers(0, 2, 60), np.round(rng.standard_normal(60), 1)
    fast = replicate(evaluator(two_columns(s), class_truth(y, ("a", "b")), groups), 12, replicates=120, seed=7)
    generator = np.random.Generator(np.random.PCG64(7))
    slow = []
    from sklearn.metrics import roc_auc_score

    for start in range(0, 120, 50):
        for drawn in generator.integers(0, 12, (min(50, 120 - start), 12)):
            rows = np.concatenate([np.flatnonzero(groups == g) for g in drawn])
            slow.append(roc_auc_score(y[rows], s[rows]) if 0 < y[rows].sum() < len(rows) else np.nan)
    assert fast["auc"][:, 1] == pytest.approx(np.array(slow), nan_ok=True)


def test_the_same_seed_draws_the_same_groups():
    first, second = (np.concatenate(list(draw(9, 130, 5))) for _ in range(2))
    assert (first == second).all()
    assert (first.sum(1) == 9).all()
    assert not (np.concatenate(list(draw(9, 130, 6))) == first).all()


def test_undefined_replicates_are_dropped_and_counted():
    values = np.concatenate([np.full(10, np.nan), np.linspace(0.5, 0.9, 90)])
    found = interval(0.7, values)
    assert found.dropped == 10
    assert not found.reliable
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(values[10:], [2.5, 97.5])))
    assert interval(0.7, values[6:]).reliable  # 4 of 94


def test_a_class_of_three_in_two_hundred_gets_an_interval():
    rng = np.random.default_rng(0)
    y = np.zeros(200, int)
    y[:3] = 1
    measured = evaluator(two_columns(rng.standard_normal(200) + 2 * y), class_truth(y, ("no", "yes")), np.arange(200))
    found = interval(measured.point()["auc_macro"], replicate(measured, 200, replicates=2000, seed=0)["auc_macro"])
    assert found.low < found.value < found.high
    assert 0.02 < found.dropped / 2000 < 0.09  # (1 - 3/200)^200 = .049 have no positive


@pytest.mark.parametrize("seed", range(5))
def test_delong_agrees_with_another_implementation(seed):
    rng = np.random.default_rng(seed)
    y = np.concatenate([[0, 1, 0, 1], rng.integers(0, 2, 80)])
    a, b = (np.round(rng.standard_normal(84) + shift * y, 1) for shift in (0.5, 1.0))
    ours = delong(y == 1, np.stack([a, b]))
    z, p, _, _, auc_a, auc_b, _ = Delong_test(y, a, b)
    assert ours.auc == pytest.approx([auc_a, auc_b], abs=1e-12)
    our_z, our_p = ours.test(1, 0)
    assert our_z == pytest.approx(z, abs=1e-12)
    assert our_p == pytest.approx(p, abs=1e-12)


def test_delong_interval_is_the_logit_one_and_undefined_where_it_must_be():
    rng = np.random.default_rng(0)
    y = rng.random(100) < 0.4
    fit = delong(y, rng.standard_normal(100) + y)
    area, sd = fit.auc[0], math.sqrt(fit.covariance[0, 0])
    logit = np.log(area / (1 - area)) + norm.ppf([0.025, 0.975]) * sd / (area * (1 - area))
    assert fit.interval() == pytest.approx(tuple(1 / (1 + np.exp(-logit))))
    assert np.isnan(delong(np.array([True, False, False]), np.array([1.0, 0, 2])).auc).all()
    assert np.isnan(delong(np.array([True, True, False, False]), np.array([3.0, 2, 1, 0])).interval()).all()


def test_the_p_of_a_difference_is_of_student_and_holms_correction_that_of_its_definition():
    replicates = np.array([0.1, 0.3, 0.2, 0.2, np.nan])
    found, p = paired_difference(0.2, replicates, np.array([1.0, -1.0, 1.0, -1.0]))
    spread = math.sqrt(0.02 / 4)
    assert p == pytest.approx(2 * t.sf(0.2 / spread, 3))  # of four groups; 3 · 4² / 4 by moments alone
    assert (found.value, found.dropped) == (0.2, 1)
    assert (found.low, found.high) == pytest.approx(tuple(0.2 + s * t.ppf(0.975, 3) * spread for s in (-1, 1)))
    assert paired_difference(0.0, np.zeros(99), np.zeros(5))[1] == 1
    assert math.isnan(paired_difference(float("nan"), np.full(9, np.nan), np.zeros(5))[1])
    assert holm([0.01, 0.04, 0.03, float("nan")]) == pytest.approx([0.03, 0.06, 0.06, float("nan")], nan_ok=True)


def test_few_patients_that_make_most_of_a_variance_leave_few_degrees_of_freedom():
    rng = np.random.default_rng(0)
    alike = rng.standard_normal(4000)
    assert degrees(alike) == pytest.approx(4000, rel=0.1)
    assert degrees(np.concatenate([alike / 1000, rng.standard_normal(10)])) < 25
    assert degrees(np.array([np.nan, 1.0, -1.0])) == 1  # as Student's paired test of two differences
    for groups in range(2, 12):
        for seed in range(20):
            assert 1 <= degrees(np.random.default_rng(seed).standard_normal(groups)) <= groups - 1
    assert degrees(np.zeros(7)) == 6


def test_under_the_null_the_paired_test_rejects_as_often_as_it_says():
    """A seeded part of benchmarks.paired, whose table of 1000 data sets must name the method and show its level."""
    for patients, images in ((20, 4), (40, 4)):
        levels = rejected(Design(patients, images), sets=200, replicates=100)
        assert 1.5 <= levels[SETTLED] <= 8.5, patients  # 5 ± 2.3 standard errors
        assert levels[SETTLED] <= levels["normal, SD of the replicates"]
    kept = json.loads(RESULTS.read_text())
    assert kept["sets"] == 1000
    for design in ("20 patients", "40 patients", "100 patients", "200 patients"):
        assert 3.5 <= kept["rejected_at_5_per_cent"][design][SETTLED] <= 6.5


def clustered(rng, patients=80, per_patient=3, shift=1.2):
    """Scores with a patient effect; the true AUC follows from the total variance."""
    y = rng.random(patients) < 0.4
    score = np.repeat(shift * y + rng.standard_normal(patients) * 0.8, per_patient)
    score = score + rng.standard_normal(len(score)) * 0.6
    return np.repeat(y, per_patient).astype(int), score, np.repeat(np.arange(patients), per_patient)


def test_clustered_intervals_cover_the_true_auc_and_row_intervals_do_not():
    rng = np.random.default_rng(2026)
    truth = norm.cdf(1.2 / math.sqrt(2 * (0.8**2 + 0.6**2)))
    covered = covered_by_rows = 0
    runs = 300
    for run in range(runs):
        y, score, groups = clustered(rng)
        target = class_truth(y, ("no", "yes"))
        for unit in ("group", "row"):
            members = groups if unit == "group" else np.arange(len(y))
            measured = evaluator(two_columns(score), target, members)
            auc = replicate(measured, measured.groups, replicates=400, seed=run)["auc"][:, 1]
            low, high = np.percentile(auc[~np.isnan(auc)], [2.5, 97.5])
            if unit == "group":
                covered += low <= truth <= high
            else:
                covered_by_rows += low <= truth <= high
    assert 0.92 <= covered / runs <= 0.98
    assert covered_by_rows / runs < 0.88


def test_intervals_by_patient_are_wider_than_by_row():
    y, score, groups = clustered(np.random.default_rng(0), patients=100, per_patient=5)
    target = class_truth(y, ("no", "yes"))
    widths = []
    for members in (groups, np.arange(len(y))):
        measured = evaluator(two_columns(score), target, members)
        low, high = np.percentile(
            replicate(measured, measured.groups, replicates=2000, seed=0)["auc"][:, 1], [2.5, 97.5]
        )
        widths.append(high - low)
    assert 1.5 < widths[0] / widths[1] < 2.5


@pytest.mark.case("M4")
def test_the_interval_of_an_area_is_the_logit_one_with_students_t_of_the_smaller_side():
    rng = np.random.default_rng(0)
    replicates = np.clip(0.8 + 0.05 * rng.standard_normal(500), 0, 1)
    found = area_interval(0.8, replicates, sides=9)
    half = t.ppf(0.975, 8) * replicates.std() / 0.16
    expected = [1 / (1 + math.exp(-(math.log(4) + sign * half))) for sign in (-1, 1)]
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert area_interval(0.8, replicates, sides=1) == interval(0.8, replicates)
    perfect, inverted = (area_interval(value, np.full(500, value), sides=9) for value in (1.0, 0.0))
    assert (perfect.low, perfect.high) == (pytest.approx(0.025 ** (1 / 9)), 1.0)
    assert (inverted.low, inverted.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 9)))


@pytest.mark.case("M4")
@pytest.mark.parametrize(("patients", "prevalence"), [(100, 0.1), (40, 0.4)])
def test_intervals_of_few_patients_cover_where_percentiles_do_not(patients, prevalence):
    truth = norm.cdf(1.2 / math.sqrt(2 * (0.8**2 + 0.6**2)))
    covered, by_percentiles, runs = 0, 0, 250
    for run in range(runs):
        rng = np.random.default_rng([4, run])
        y = rng.random(patients) < prevalence
        y[:2], y[2:4] = True, False
        scores = np.repeat(1.2 * y + 0.8 * rng.standard_normal(patients), 3) + 0.6 * rng.standard_normal(3 * patients)
        groups, target = np.repeat(np.arange(patients), 3), class_truth(np.repeat(y, 3).astype(int), ("no", "yes"))
        p = np.stack([1 - norm.cdf(scores), norm.cdf(scores)], axis=1)
        found = score(p, target, groups, Resampling(200, run))[0].metrics["auc_macro"]
        covered += found.low <= truth <= found.high
        measured = evaluator(p, target, groups)
        areas = replicate(measured, patients, replicates=200, seed=run)["auc_macro"]
        low, high = np.nanpercentile(areas, [2.5, 97.5])
        by_percentiles += low <= truth <= high
    assert 0.93 <= covered / runs <= 0.985
    assert by_percentiles / runs < covered / runs - 0.01


@pytest.mark.case("U11", "N4")
@pytest.mark.parametrize("groups", [1, 5, 50])
def test_a_share_of_all_or_none_gets_clopper_and_pearsons_interval_of_its_patients(groups):
    for value, successes in ((1.0, groups), (0.0, 0)):
        found = proportion_interval(value, np.full(100, value), (groups, 3 * groups))
        exact = binomtest(successes, groups).proportion_ci(0.95, method="exact")
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_a_share_has_wilsons_interval_of_the_trials_that_its_variance_is_worth():
    replicates = 0.2 + 0.1 * np.resize([-1.0, 1.0], 1000)
    found = proportion_interval(0.2, replicates, (20, 60))
    trials = 0.16 / (0.01 * 20 / 19)
    for end in (found.low, found.high):  # where the score test by Student's t just rejects
        assert abs(0.2 - end) / math.sqrt(end * (1 - end) / trials) == pytest.approx(t.ppf(0.975, 19))
    capped = proportion_interval(0.2, 0.2 + 1e-6 * np.resize([-1.0, 1.0], 1000), (20, 60))
    assert abs(0.2 - capped.low) / math.sqrt(capped.low * (1 - capped.low) / 60) == pytest.approx(t.ppf(0.975, 19))


def test_the_interval_of_a_mean_takes_its_parts_as_alike_as_their_replicates_are():
    rng = np.random.default_rng(0)
    first, second = Interval(0.4, 0.2, 0.7), Interval(0.6, 0.5, 0.8)
    a = rng.standard_normal(20000)
    same = mean_interval(0.5, a, [(first, a), (second, 2 * a)])
    assert (same.low, same.high) == pytest.approx((0.35, 0.75), abs=1e-6)
    apart = mean_interval(0.5, a, [(first, a), (second, rng.standard_normal(20000))])
    assert (apart.low, apart.high) == pytest.approx(
        (0.5 - math.hypot(0.2, 0.1) / 2, 0.5 + math.hypot(0.3, 0.2) / 2), abs=5e-3
    )
    constant = mean_interval(0.5, a, [(first, a), (second, np.full(20000, 0.6))])  # says nothing of its uncertainty
    assert constant.low == pytest.approx(0.5 - math.hypot(0.2, 0.1) / 2, abs=1e-6)


def test_the_interval_of_a_loss_is_of_its_logarithm_with_the_degrees_of_freedom_of_its_largest_parts():
    replicates = 0.3 + 0.05 * np.resize([-1.0, 1.0], 1000)
    influence = np.array([0.01] * 30 + [-0.3])
    found = loss_interval(0.3, replicates, influence, 2.0)
    half = t.ppf(0.975, degrees(influence)) * 0.05 * math.sqrt(31 / 30) / 0.3
    assert (found.low, found.high) == pytest.approx((0.3 * math.exp(-half), 0.3 * math.exp(half)))
    assert loss_interval(0.3, replicates, influence, 0.31).high == 0.31  # the most that there can be


def test_a_metrics_influence_is_the_derivative_of_the_metric_by_a_groups_weight():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(30), rng.integers(1, 4, 30))
    p = rng.dirichlet([1, 1, 1], len(groups))
    classes = class_truth(rng.integers(0, 3, len(groups)), ("a", "b", "c"))
    values = np.where(rng.random((len(groups), 3)) < 0.2, np.nan, rng.integers(0, 2, (len(groups), 3)))
    for truth in (classes, label_truth(values, ("a", "b", "c"))):
        measured = evaluator(p, truth, groups)
        heavy = measured(1000 + np.eye(30, dtype=np.int64))
        for name, influence in measured.influence().items():
            assert influence.sum() == pytest.approx(0, abs=1e-12)
            assert influence == pytest.approx((heavy[name] - measured.point()[name]) * 1000, rel=0.02, abs=1e-4)


def test_rare_calls_have_intervals_that_hold_the_balanced_accuracy_where_percentiles_do_not():
    """One in ten ill, hardly one called: most data sets have no hit, so that resamples hardly vary."""
    away, ill_share, runs = math.sqrt(2) * norm.ppf(0.75), 0.1, 150
    cut = away / 2 - math.log(ill_share / (1 - ill_share)) / away  # where the probability is one half
    sensitivity, alarms = norm.sf(cut - away), norm.sf(cut)
    hits, false = ill_share * sensitivity, (1 - ill_share) * alarms
    rest = (1 - ill_share) * (1 - alarms)
    truth = {
        "balanced_accuracy": (sensitivity + 1 - alarms) / 2,
        "f1_macro": hits / (ill_share + hits + false) + rest / (rest + (1 - ill_share) + ill_share - hits),
    }
    covered, by_percentiles = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0)
    for run in range(runs):
        rng = np.random.default_rng([5, run])
        ill = (rng.random(100) < ill_share).astype(int)
        ill[:2] = 1
        s = away * ill + rng.standard_normal(100)
        q = 1 / (1 + np.exp(-away * (s - cut)))
        found, drawn = score(
            np.stack([1 - q, q], 1), class_truth(ill, ("no", "yes")), np.arange(100), Resampling(200, run)
        )
        for name, value in truth.items():
            own = found.metrics[name]
            covered[name] += own.low <= value <= own.high
            low, high = np.nanpercentile(drawn[name], [2.5, 97.5])
            by_percentiles[name] += low <= value <= high
    for name in truth:
        assert covered[name] / runs >= 0.92, name
        assert by_percentiles[name] / runs < 0.5, name


def test_denominators_count_patients_not_rows():
    positive = np.array([True, True, True, False, False, False])
    called = np.array([True, True, False, False, False, True])
    groups = np.array([0, 0, 1, 2, 2, 3])
    assert denominators(positive, called, groups) == {
        "sensitivity": (2, 3), "specificity": (2, 3), "ppv": (2, 3), "npv": (2, 3),
    }  # fmt: skip


def calibrated(rng, rows):
    p = rng.random(rows)
    return np.stack([1 - p, p], axis=1), (rng.random(rows) < p).astype(int)


@pytest.mark.case("U11", "N4", "M4")
def test_the_calibration_error_of_a_calibrated_probe_is_near_zero_and_its_interval_holds_zero():
    estimates, plain, holds, runs = [], [], 0, 200
    for run in range(runs):
        p, y = calibrated(np.random.default_rng([9, run]), 300)
        found, _ = score(p, class_truth(y, ("no", "yes")), np.arange(300), Resampling(200, run))
        ece = found.metrics["ece_debiased"]
        assert ece.low <= ece.value <= ece.high
        holds += ece.low == 0
        estimates.append(ece.value)
        plain.append(float(evaluator(p, class_truth(y, ("no", "yes")), np.arange(300)).point()["ece"]))
    assert holds / runs > 0.9
    assert np.mean(estimates) < np.mean(plain) / 3


def test_the_calibration_error_of_a_probe_that_is_off_is_what_it_is_off_by():
    estimates = []
    for run in range(60):
        rng = np.random.default_rng([10, run])
        p = np.full(1000, 0.9)
        y = (rng.random(1000) < 0.75).astype(int)
        found, _ = score(
            np.stack([1 - p, p], axis=1), class_truth(y, ("no", "yes")), np.arange(1000), Resampling(100, run)
        )
        estimates.append(found.metrics["ece_debiased"].value)
    assert np.mean(estimates) == pytest.approx(0.15, abs=0.006)


def test_what_is_taken_off_a_gap_is_its_noise_where_the_truth_is_zero_and_nothing_where_it_is_large():
    noise = np.random.default_rng(0).standard_normal(200_000)
    assert debiased(0.02 * noise, np.full(200_000, 0.02)).mean() == pytest.approx(0, abs=2e-4)
    assert np.abs(0.02 * noise).mean() > 0.015
    assert debiased(0.3 + 0.02 * noise, np.full(200_000, 0.02)).mean() == pytest.approx(0.3, abs=2e-4)
    assert debiased(np.array([0.1, -0.1]), np.zeros(2)) == pytest.approx([0.1, 0.1])


@pytest.mark.case("M4")
def test_few_patients_on_a_side_are_said():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(40) < 6, 3).astype(int)
    p = np.clip(0.3 * y + 0.5 * rng.random(120), 0, 1)
    found, _ = score(
        np.stack([1 - p, p], 1), class_truth(y, ("no", "yes")), np.repeat(np.arange(40), 3), Resampling(50, 0)
    )
    assert any("fewer than 10 groups with or without: no, yes" in note for note in found.notes)
