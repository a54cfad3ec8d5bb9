"""Metrics against the protocol's goldens and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from probes.cohort.truth import class_truth, label_truth, probabilities
from probes.evaluation.calibration import at_bound, calibration, fit_temperature, log_loss
from probes.evaluation.metrics import confusion, evaluator, macro_auc

P = np.array(
    [[.9, .05, .05], [.6, .3, .1], [.2, .7, .1], [.34, .33, .33],
     [.1, .1, .8], [.05, .15, .8], [.45, .45, .1], [0, 1, 0]]
)  # fmt: skip
T = class_truth(np.array([0, 1, 1, 2, 2, 0, 1, 1]), ("a", "b", "c"))


def golden():
    return evaluator(P, T, np.arange(8)).point()


def test_golden_of_d7():
    point = golden()
    assert point["auc"] == pytest.approx([0.583333, 0.9375, 0.875], abs=1e-6)
    assert point["auc_macro"] == pytest.approx(0.798611, abs=1e-6)
    assert point["auc_weighted"] == pytest.approx(0.833333, abs=1e-6)
    assert point["balanced_accuracy"] == pytest.approx(0.5)
    assert point["brier"] == pytest.approx(0.47855)
    assert point["log_loss"] == pytest.approx(0.849007, abs=1e-6)
    assert point["ece"] == pytest.approx(0.29875)


def test_golden_of_calibration():
    assert calibration(P, T, bins=10).ece == pytest.approx(0.29875)
    assert calibration(P, T).ece == pytest.approx(0.29875)
    logits = np.log(np.clip(P, 1e-12, 1))
    temperature = fit_temperature(logits, T)
    assert temperature == pytest.approx(1.547622, abs=1e-5)
    assert log_loss(probabilities(logits, False, temperature), T) == pytest.approx(0.815826, abs=1e-6)


def test_a_temperature_driven_to_either_end_of_its_range_is_at_its_bound():
    truth = class_truth(np.array([0, 1, 2]), ("a", "b", "c"))
    right = 0.01 * np.eye(3)  # the colder, the better; the classes turned round: the hotter, the better
    ends = [fit_temperature(logits, truth) for logits in (right, np.roll(right, 1, axis=0))]
    assert ends == pytest.approx([0.01, 100], rel=1e-3)
    assert all(at_bound(t) for t in ends)
    assert not any(at_bound(t) for t in (0.02, 1.0, 99.0))


@pytest.mark.case("M7")
def test_log_loss_of_labels_is_that_of_every_known_pair_and_a_perfect_one_is_plain_zero():
    p, values = np.array([[0.9, 0.2], [0.4, 0.6], [0.3, 0.7]]), np.array([[1, 0], [0, np.nan], [1, 1]])
    known = ~np.isnan(values)
    expected = sk.log_loss(values[known], p[known])
    assert log_loss(p, label_truth(values, ("x", "y"))) == pytest.approx(expected)
    certain = np.eye(3)[[0, 1, 2]]
    truth = class_truth(np.arange(3), ("a", "b", "c"))
    for loss in (log_loss(certain, truth), evaluator(certain, truth, np.arange(3)).point()["log_loss"]):
        assert f"{loss:.3f}" == "0.000"  # not "-0.000"


def test_golden_of_average_precision_and_auc():
    y = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 0])
    s = np.array([0.1, 0.2, 0.3, 0.35, 0.8, 0.3, 0.6, 0.7, 0.9, 0.05])
    point = evaluator(np.stack([1 - s, s], 1), class_truth(y, ("no", "yes")), np.arange(10)).point()
    assert point["auc"][1] == pytest.approx(0.8125)
    assert point["ap"][1] == pytest.approx(0.7470238, abs=1e-7)


@st.composite
def scored_rows(draw, classes=(2, 3, 4, 5)):
    c, n = draw(st.sampled_from(classes)), draw(st.integers(12, 60))
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    grid = draw(st.sampled_from([4, 100]))  # 4: many ties
    p = rng.integers(1, grid, (n, c)).astype(float)
    return p / p.sum(1, keepdims=True), np.concatenate([np.arange(c), rng.integers(0, c, n - c)]), seed


@settings(max_examples=60, deadline=None)
@given(scored_rows())
def test_metrics_equal_those_of_scikit_learn(case):
    p, y, _ = case
    truth = class_truth(y, tuple(map(str, range(p.shape[1]))), ordinal=True)
    point = evaluator(p, truth, np.arange(len(y))).point()
    called = p.argmax(1)
    onehot = truth.positive
    assert point["auc"] == pytest.approx([sk.roc_auc_score(onehot[:, j], p[:, j]) for j in range(p.shape[1])])
    assert point["ap"] == pytest.approx([sk.average_precision_score(onehot[:, j], p[:, j]) for j in range(p.shape[1])])
    assert point["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, called))
    assert point["f1_macro"] == pytest.approx(sk.f1_score(y, called, average="macro", zero_division=0))
    assert point["accuracy"] == pytest.approx(sk.accuracy_score(y, called))
    assert point["log_loss"] == pytest.approx(sk.log_loss(y, p, labels=range(p.shape[1])))
    assert point["brier"] == pytest.approx(((p - onehot) ** 2).sum(1).mean())
    if p.shape[1] > 2:
        assert point["auc_macro"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))
        assert point["auc_weighted"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr", average="weighted"))
    if len(np.unique(called)) > 1:
        assert point["kappa_quadratic"] == pytest.approx(sk.cohen_kappa_score(y, called, weights="quadratic"))
    assert (confusion(p, truth) == sk.confusion_matrix(y, called, labels=range(p.shape[1]))).all()


@settings(max_examples=40, deadline=None)
@given(scored_rows((3,)))
def test_weights_count_a_group_as_often_as_it_was_drawn(case):
    p, y, seed = case
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 6, len(y))
    groups[:6] = range(6)
    weights = rng.integers(0, 4, (1, 6))
    rows = np.repeat(np.arange(len(y)), weights[0][groups])
    truth = class_truth(y, ("a", "b", "c"))
    weighted = {k: v[0] for k, v in evaluator(p, truth, groups)(weights).items()}
    if not len(rows):
        return
    repeated = evaluator(p[rows], truth.take(rows), np.arange(len(rows))).point()
    del repeated["ece_debiased"]  # the noise taken off is that of the groups as they were first
    for name, value in repeated.items():
        assert weighted[name] == pytest.approx(value, nan_ok=True), name


def test_an_absent_class_is_nan_and_in_no_mean():
    truth = class_truth(np.array([0, 1, 0, 1]), ("a", "b", "never"))
    p = np.array([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1], [0.6, 0.2, 0.2], [0.5, 0.4, 0.1]])
    point = evaluator(p, truth, np.arange(4)).point()
    assert np.isnan(point["auc"][2])
    assert point["auc_macro"] == pytest.approx(point["auc"][:2].mean())
    assert point["balanced_accuracy"] == pytest.approx(0.75)


def test_all_equal_scores_have_an_auc_of_one_half():
    truth = class_truth(np.array([0, 1, 0, 1, 1]), ("a", "b"))
    assert macro_auc(np.full((5, 2), 0.5), truth) == 0.5


def test_unknown_labels_count_in_no_metric():
    nan = np.nan
    values = np.array([[1, nan], [0, 1], [1, 0], [0, nan], [nan, 1], [nan, 0]])
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.3], [0.7, 0.99], [0.0, 0.7], [1.0, 0.75]])
    point = evaluator(p, label_truth(values, ("x", "y")), np.arange(6)).point()
    assert point["auc"][0] == sk.roc_auc_score([1, 0, 1, 0], p[:4, 0])
    assert point["auc"][1] == sk.roc_auc_score([1, 0, 1, 0], p[[1, 2, 4, 5], 1])
    assert point["balanced_accuracy"] == pytest.approx((0.75 + 0.75) / 2)


def test_calibration_forms_agree_with_their_definitions():
    rng = np.random.default_rng(0)
    p = rng.dirichlet([1, 1, 1], 300)
    y = rng.integers(0, 3, 300)
    c = calibration(p, class_truth(y, ("a", "b", "c")), bins=15)
    confidence, correct = p.max(1), p.argmax(1) == y
    ece = 0.0
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            ece += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert c.ece == pytest.approx(ece)
    parts = np.array_split(np.argsort(confidence, kind="stable"), 15)
    adaptive = sum(len(i) / 300 * abs(correct[i].mean() - confidence[i].mean()) for i in parts)
    assert c.ece_adaptive == pytest.approx(adaptive)
    assert sum(b.rows for b in c.bins) == 300


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(8, 60))
def test_label_metrics_equal_those_of_scikit_learn_on_the_known_rows(seed, labels, n):
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 2, (n, labels)).astype(float)
    values[:2] = [[0] * labels, [1] * labels]  # both kinds of every label
    values[2:][rng.random((n - 2, labels)) < 0.3] = np.nan
    p = rng.integers(0, 20, (n, labels)) / 20
    truth = label_truth(values, tuple(map(str, range(labels))))
    point = evaluator(p, truth, np.arange(n)).point()
    found = {name: [] for name in ("auc", "ap", "balanced_accuracy", "f1_macro", "brier", "log_loss")}
    for j in range(labels):
        known = ~np.isnan(values[:, j])
        y, s = values[known, j], p[known, j]
        found["auc"].append(sk.roc_auc_score(y, s))
        found["ap"].append(sk.average_precision_score(y, s))
        found["balanced_accuracy"].append(sk.balanced_accuracy_score(y, s >= 0.5))
        found["f1_macro"].append(sk.f1_score(y, s >= 0.5))
        found["brier"].append(sk.brier_score_loss(y, s))
        found["log_loss"].append(sk.log_loss(y, np.clip(s, 1e-12, 1 - 1e-12), labels=[0, 1]))
    assert point["auc"] == pytest.approx(found["auc"])
    assert point["ap"] == pytest.approx(found["ap"])
    assert point["auc_macro"] == pytest.approx(np.mean(found["auc"]))
    for name in ("balanced_accuracy", "f1_macro", "brier", "log_loss"):
        assert point[name] == pytest.approx(np.mean(found[name])), name
