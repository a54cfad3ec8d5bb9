"""Operating points and subgroups."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from probes.cohort.truth import class_truth
from probes.evaluation.bootstrap import Interval, draw
from probes.evaluation.operating import choose_threshold, rates_evaluator
from probes.evaluation.operating_points import ppv_interval, ratios
from probes.evaluation.scoring import Resampling, by_group
from probes.evaluation.subgroups import gaps, subgroup_results

Y = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 0]) == 1
S = np.array([0.1, 0.2, 0.3, 0.35, 0.8, 0.3, 0.6, 0.7, 0.9, 0.05])


def test_golden_of_d11():
    loose = choose_threshold(Y, S, 0.8)
    assert (loose.sensitivity, loose.value) == (0.75, 0.6)
    assert loose.specificity == pytest.approx(0.8333, abs=1e-4)
    strict = choose_threshold(Y, S, 0.9)
    assert (strict.sensitivity, strict.value) == (0.25, 0.9)


def test_a_threshold_needs_both_kinds_of_rows():
    assert np.isnan(choose_threshold(np.ones(3, bool), np.arange(3.0), 0.9).value)


def test_where_no_score_is_specific_enough_nothing_is_called_positive():
    chosen = choose_threshold(np.array([False, True, False]), np.array([0.5, 0.2, 0.5]), 1.0)
    assert (chosen.value, chosen.sensitivity) == (np.nextafter(0.5, 1), 0)


def test_rates_and_ppv_at_a_prevalence():
    evaluate = rates_evaluator(Y, S >= 0.6, np.arange(10), 10)
    values = {k: v[0] for k, v in evaluate(np.ones((1, 10), int)).items()}
    assert values == pytest.approx(
        {"sensitivity": 3 / 4, "specificity": 5 / 6, "ppv": 3 / 4, "npv": 5 / 6, "lr_positive": 4.5, "lr_negative": 0.3}
    )


def test_likelihood_ratios_and_a_ppv_have_the_intervals_of_a_ratio_of_two_shares():
    """MOVER by hand, for sensitivity 3/4 (1/2 to 9/10) and specificity 4/5 (3/5 to 9/10); and where nothing varies."""
    rates = {"sensitivity": Interval(3 / 4, 1 / 2, 9 / 10), "specificity": Interval(4 / 5, 3 / 5, 9 / 10)}
    found = ratios(rates)
    down, up = math.hypot(math.log(1.5), math.log(2)), math.hypot(math.log(1.2), math.log(2))
    positive = (15 / 4, 15 / 4 * math.exp(-down), 15 / 4 * math.exp(up))
    assert (found["lr_positive"].value, found["lr_positive"].low, found["lr_positive"].high) == pytest.approx(positive)
    assert found["lr_negative"].value == pytest.approx(5 / 16)
    ppv = ppv_interval(rates, 0.01)
    assert ppv.value == pytest.approx(0.0075 / (0.0075 + 0.99 * 0.2))
    assert (ppv.low, ppv.high) == pytest.approx(tuple(r / (r + 99) for r in positive[1:]))
    perfect = {"sensitivity": Interval(1, 0.8, 1), "specificity": Interval(1, 0.9, 1)}
    assert np.isnan(ratios(perfect)["lr_positive"].value)  # infinite
    assert ratios(perfect)["lr_negative"].high == pytest.approx(0.2 / 0.9)
    ppv = ppv_interval(perfect, 0.1)
    assert (ppv.value, ppv.low, ppv.high) == pytest.approx((1, 0.08 / (0.08 + 0.09), 1))  # no certainty
    nothing = {"sensitivity": Interval(0, 0, 0.3), "specificity": Interval(1, 0.9, 1)}
    assert np.isnan(ppv_interval(nothing, 0.5).value)  # no row is called
    silent = {"sensitivity": Interval(0, 0, 0.3), "specificity": Interval(0.9, 0.8, 0.95)}
    assert ratios(silent)["lr_positive"].high == pytest.approx(0.3 / 0.05)


def test_a_small_subgroup_has_no_number_and_missing_values_are_a_subgroup():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 120)
    s = np.clip(0.3 * y + 0.5 * rng.random(120), 0, 1)
    sex = ["F"] * 60 + ["M"] * 40 + [None] * 12 + ["X"] * 8
    scored = (np.stack([1 - s, s], 1), class_truth(y, ("no", "yes")), np.arange(120))
    found = {r.value: r for r in subgroup_results("sex", sex, scored, 0.4, Resampling(200, 0))}
    assert found["X"].note == "n too small"
    assert found["X"].auc is None
    assert found["(missing)"].note == "n too small"
    women = np.arange(60)
    called = s[women] >= 0.4
    assert found["F"].sensitivity.value == pytest.approx(called[y[women] == 1].mean())
    gap = {g.metric: g for g in gaps(list(found.values()), {"sex": sex}, scored, 0.4, Resampling(200, 0))}
    assert gap["auc"].gap == pytest.approx(abs(found["F"].auc.value - found["M"].auc.value))
    assert gap["auc"].worst == min("FM", key=lambda v: found[v].auc.value)


def test_the_interval_of_a_gap_is_of_common_draws_of_the_patients_in_both_subgroups():
    rng = np.random.default_rng(1)
    patients = np.repeat(np.arange(40), 4)  # each with two front and two side views
    y = np.repeat(rng.integers(0, 2, 40), 4)
    s = np.clip(0.35 * y + np.repeat(0.3 * rng.random(40), 4) + 0.35 * rng.random(160), 0, 1)
    view = np.tile(["front", "front", "side", "side"], 40)
    scored, how = (np.stack([1 - s, s], 1), class_truth(y, ("no", "yes")), patients), Resampling(300, 0)
    found = {
        g.metric: g for g in gaps(subgroup_results("view", view, scored, 0.5, how), {"view": view}, scored, 0.5, how)
    }
    for metric, of in {
        "auc": lambda rows, w: roc_auc_score(y[rows], s[rows], sample_weight=w[rows]),
        "sensitivity": lambda rows, w: np.average(s[rows] >= 0.5, weights=w[rows] * y[rows]),
    }.items():
        gap = found[metric]
        ends = [np.flatnonzero(view == name) for name in (gap.best, gap.worst)]
        expected = [
            of(ends[0], weights[patients]) - of(ends[1], weights[patients])
            for block in draw(40, 300, 0)
            for weights in block
        ]
        assert gap.difference.value == gap.gap == pytest.approx(of(ends[0], np.ones(160)) - of(ends[1], np.ones(160)))
        assert (gap.difference.low, gap.difference.high) == pytest.approx(tuple(np.percentile(expected, [2.5, 97.5])))


def test_patient_scores_are_pooled_and_patients_of_several_classes_counted():
    p = np.array([[0.2, 0.8, 0], [0.4, 0.6, 0], [0.1, 0.1, 0.8], [0.9, 0.1, 0], [0.3, 0.3, 0.4]])
    truth = class_truth(np.array([1, 1, 2, 0, 1]), ("a", "b", "c"))
    pooled, pooled_truth, mixed = by_group(p, truth, np.array([5, 5, 7, 9, 9]), "mean")
    assert mixed == 1
    assert pooled_truth.codes.tolist() == [1, 2]
    assert pooled == pytest.approx(np.array([[0.3, 0.7, 0], [0.1, 0.1, 0.8]]))
    highest, _, _ = by_group(p, truth, np.array([5, 5, 7, 9, 9]), "max")
    assert highest[0] == pytest.approx(np.array([0.4, 0.8, 0]) / 1.2)
    two = class_truth(np.array([0, 1, 0]), ("no", "yes"))
    _, positive_if_any, mixed = by_group(p[:3, :2], two, np.array([0, 0, 1]), "mean")
    assert (positive_if_any.codes.tolist(), mixed) == ([1, 0], 0)
