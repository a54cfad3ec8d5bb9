"""The linear probe against its definition, and how its penalty is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn.exceptions import ConvergenceWarning

from indexer.errors import ProbeError
from probes.cohort.scaling import Vectors, features, fit_scaler
from probes.cohort.truth import class_truth, label_truth, probabilities
from probes.fitting.estimators import FINAL_TOL, Recipe, fit
from probes.fitting.models import Model
from probes.fitting.selection import choose_penalty
from probes.fitting.sweep import Candidate, choose, sweep_decades, sweep_values


def blobs(n=90, dim=5, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    return rng.standard_normal((n, dim)) + 0.8 * rng.standard_normal((classes, dim))[y], y


def own_minimum(x, y, c, weights=None):
    """D4's objective by a general minimiser: an independent truth."""
    n, dim = x.shape
    k = y.max() + 1
    weights = np.ones(n) if weights is None else weights

    def objective(flat):
        w, b = flat[: k * dim].reshape(k, dim), flat[k * dim :]
        z = x @ w.T + b
        loss = (weights * (logsumexp(z, axis=1) - z[np.arange(n), y])).sum() + (w**2).sum() / (2 * c)
        gradient = weights[:, None] * (np.exp(z - logsumexp(z, axis=1, keepdims=True)) - np.eye(k)[y])
        return loss, np.concatenate([(gradient.T @ x + w / c).ravel(), gradient.sum(0)])

    found = minimize(
        objective,
        np.zeros(k * dim + k),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-15, "gtol": 1e-9, "maxiter": 5000},
    )
    return found.x[: k * dim].reshape(k, dim), found.x[k * dim :]


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_the_final_fit_is_the_minimum_of_d4(class_weight):
    x, y = blobs()
    fitted = fit(Recipe("linear", class_weight), x, class_truth(y, ("a", "b", "c")), 0.5, tol=FINAL_TOL)
    weights = None if class_weight is None else (len(y) / (3 * np.bincount(y)))[y]
    w, b = own_minimum(x, y, 0.5, weights)
    ours = probabilities(fitted.model.logits(x), False)
    theirs = probabilities(x @ w.T + b, False)
    assert fitted.converged
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_warm_start_ends_at_the_same_minimum():
    x, y = blobs()
    truth = class_truth(y, ("a", "b", "c"))
    cold = fit(Recipe("linear"), x, truth, 1.0, tol=FINAL_TOL).model
    start = fit(Recipe("linear"), x.astype(np.float32), truth, 100.0).model
    warm = fit(Recipe("linear"), x, truth, 1.0, start=start, tol=FINAL_TOL).model
    assert warm.arrays["W"] == pytest.approx(cold.arrays["W"], abs=1e-5)
    two = class_truth((y > 0).astype(int), ("no", "yes"))
    start = fit(Recipe("linear"), x.astype(np.float32), two, 100.0).model
    warm, cold = (fit(Recipe("linear"), x, two, 1.0, start=s, tol=FINAL_TOL).model for s in (start, None))
    assert warm.logits(x) == pytest.approx(cold.logits(x), abs=1e-5)


def test_a_class_without_rows_gets_probability_zero():
    x, y = blobs(classes=2)
    model = fit(Recipe("linear"), x, class_truth(y * 2, ("a", "never", "c")), 1.0).model
    p = probabilities(model.logits(x), False)
    assert (p[:, 1] == 0).all()
    assert p.sum(1) == pytest.approx(np.ones(len(x)))


def test_labels_are_fitted_one_by_one_on_the_rows_that_know_them():
    x, y = blobs(classes=2)
    values = np.stack([y, 1 - y, np.ones(len(y))], axis=1).astype(float)
    values[:30, 1] = np.nan
    model = fit(Recipe("linear"), x, label_truth(values, ("x", "y", "constant")), 1.0, tol=FINAL_TOL).model
    alone = fit(Recipe("linear"), x[30:], class_truth(1 - y[30:], ("no", "yes")), 1.0, tol=FINAL_TOL).model
    assert model.logits(x)[:, 1] == pytest.approx(alone.logits(x)[:, 1], abs=1e-5)
    assert (model.arrays["W"][2] == 0).all()


def test_one_class_is_an_error_in_words():
    with pytest.raises(ProbeError, match=r"one class only \(a\)"):
        fit(Recipe("linear"), np.eye(4), class_truth(np.zeros(4, int), ("a", "b")), 1.0)


@pytest.mark.parametrize("probe", ["svm", "svm-rbf", "mlp", "forest", "prototype"])
def test_stored_arrays_give_the_estimators_own_decisions(probe):
    x, y = blobs(n=150)
    truth = class_truth(y, ("a", "b", "c"))
    model = fit(Recipe(probe, seed=1), x, truth, 1.0 if probe != "mlp" else 1e-4).model
    if probe == "svm":
        from sklearn.svm import LinearSVC

        expected = np.stack(
            [LinearSVC(C=1.0, random_state=1, max_iter=5000).fit(x, y == j).decision_function(x) for j in range(3)], 1
        )
    elif probe == "svm-rbf":
        from sklearn.svm import SVC

        expected = np.stack(
            [SVC(C=1.0, gamma=1 / (5 * x.var())).fit(x, y == j).decision_function(x) for j in range(3)], 1
        )
    elif probe == "mlp":
        from sklearn.neural_network import MLPClassifier

        net = MLPClassifier((256,), alpha=1e-4, random_state=1, max_iter=200)
        with pytest.warns(ConvergenceWarning):  # ours is recorded instead
            net.fit(x, y)
        assert probabilities(model.logits(x), False) == pytest.approx(net.predict_proba(x), abs=1e-9)
        return
    elif probe == "forest":
        from sklearn.ensemble import RandomForestClassifier

        forest = RandomForestClassifier(100, random_state=1).fit(x, y)
        fresh = np.random.default_rng(3).standard_normal((500, 5))
        assert probabilities(model.logits(fresh), False) == pytest.approx(forest.predict_proba(fresh), abs=1e-6)
        return
    else:
        expected = -np.stack([((x - x[y == j].mean(0)) ** 2).sum(1) for j in range(3)], 1)
    assert model.logits(x) == pytest.approx(expected, abs=1e-9)


def peak_at(best):
    tried = []

    def evaluate(values):
        tried.extend(values)
        return [Candidate(c, 1 - (np.log10(c) - best) ** 2 / 1000) for c in values]

    return tried, evaluate


def test_the_sweep_refines_around_the_best_decade_in_twelve_fits():
    tried, evaluate = peak_at(-1.6)
    found = sweep_decades("C", "val split", evaluate)
    assert found.value == pytest.approx(10**-1.5)
    assert len(tried) == 12
    assert not found.at_edge
    assert tried[:6] == pytest.approx([1e-6, 1e-4, 1e-2, 1, 1e2, 1e4])


def test_a_best_at_the_edge_is_followed_two_decades_and_then_flagged():
    found = sweep_decades("C", "val split", peak_at(50)[1])
    assert found.at_edge
    assert found.value == pytest.approx(1e7)  # 4, +1 by refining, +2 by extending
    inside = sweep_decades("C", "val split", peak_at(5.9)[1])
    assert (inside.value, inside.at_edge) == (pytest.approx(1e6), False)


def test_equal_candidates_go_to_the_smaller_value_and_undefined_ones_never_win():
    assert choose([Candidate(1.0, 0.9), Candidate(0.1, 0.9), Candidate(10, float("nan"))]).value == 0.1
    assert (
        sweep_values("k", "val split", (3, 1, 2), lambda values: [Candidate(v, -abs(v - 2)) for v in values]).value == 2
    )


def test_equal_areas_are_told_apart_by_log_loss_to_two_decimals_before_the_smaller_value_wins():
    sharp, blunt = Candidate(1.0, 0.9, log_loss=0.101), Candidate(0.1, 0.9 + 1e-12, log_loss=0.31)
    assert choose([sharp, blunt]) is sharp
    assert choose([sharp, blunt, Candidate(10.0, 0.9, log_loss=0.099)]) is sharp  # both 0.10
    assert choose([sharp, Candidate(0.1, 0.91, log_loss=9.0)]).value == 0.1  # the area comes first
    assert choose([sharp, Candidate(0.1, 0.9)]) is sharp  # an unmeasured log-loss is never the lower


def falling_until(floor):
    """Areas all alike; the log-loss falls with C, or with 1 / C, down to a floor."""
    return lambda values: [Candidate(c, 1.0, log_loss=max(0.0, abs(np.log10(c) - floor) / 10 - 0.5)) for c in values]


def test_a_flat_edge_is_not_followed_and_a_better_one_only_while_it_is_better():
    flat = sweep_decades("C", "val split", lambda values: [Candidate(c, 1.0, log_loss=1.1) for c in values])
    assert (flat.value, flat.at_edge) == (pytest.approx(1e-7), False)  # -6, -1 by refining; -8 is no better
    assert min(c.value for c in flat.candidates) == pytest.approx(1e-8)
    upwards = sweep_decades("C", "val split", falling_until(11))
    assert (upwards.value, upwards.at_edge) == (pytest.approx(1e6), False)  # 1e7 has the same log-loss
    beyond = sweep_decades("C", "val split", falling_until(20))
    assert (beyond.value, beyond.at_edge) == (pytest.approx(1e7), True)


def test_inner_rows_are_scored_by_models_that_did_not_see_them():
    x, y = blobs(n=120)
    truth = class_truth(y, ("a", "b", "c"))
    folds = [(np.arange(60, 120), np.arange(60)), (np.arange(60), np.arange(60, 120))]
    inner = choose_penalty(Recipe("linear"), x, truth, folds, value=1.0)
    assert inner.rows.tolist() == list(range(120))
    alone = fit(Recipe("linear"), x[60:], truth.take(np.arange(60, 120)), 1.0).model
    assert inner.logits[:60] == pytest.approx(alone.logits(x[:60]), abs=0.02)  # tol 1e-3; with them: off by 1.4


def test_scalings_are_those_of_d3_and_look_at_train_rows_alone():
    rng = np.random.default_rng(0)
    unit = rng.standard_normal((40, 8))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    stored = Vectors(unit.astype(np.float16), np.full(40, 3.0, np.float32))
    exact = stored.unit.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    train, rows = np.arange(30), np.arange(40)
    made = {
        k: features(stored, rows, fit_scaler(k, stored, train), np.float64)
        for k in ("l2", "zscore", "center_l2", "none", "raw")
    }
    mean, sd = exact[:30].mean(0), exact[:30].std(0)
    assert made["l2"] == pytest.approx(exact * np.sqrt(8))
    assert made["zscore"] == pytest.approx((exact - mean) / sd)
    assert np.linalg.norm(made["center_l2"], axis=1) == pytest.approx(np.ones(40))
    assert made["center_l2"] * np.linalg.norm(exact - mean, axis=1, keepdims=True) == pytest.approx(exact - mean)
    assert made["none"] == pytest.approx(exact)
    assert made["raw"] == pytest.approx(3 * exact)
    with pytest.raises(ProbeError, match="no scaling 'sphere'"):
        fit_scaler("sphere", stored, train)


def test_text_logits_are_those_of_d14():
    v, t = np.array([[0.6, 0.8]]), np.array([[1.0, 0.0], [0.0, 1.0]])
    clip = Model("text", {"text": t}, {"logit_scale": 100.0})
    assert probabilities(clip.logits(v), False)[0, 1] == pytest.approx(1 / (1 + np.exp(-20)))
    siglip = Model("text", {"text": t}, {"logit_scale": 10.0, "logit_bias": -5.0})
    assert np.exp(siglip.logits(v)[0]) == pytest.approx(1 / (1 + np.exp(-(10 * v[0] - 5))))
