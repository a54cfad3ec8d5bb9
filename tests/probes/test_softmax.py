"""D4's minimiser against scikit-learn's own estimator, on features that are badly conditioned as embeddings are."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from probes.cohort.scaling import ScaledRows, Vectors, features, fit_scaler
from probes.fitting.objective import Task
from probes.fitting.softmax import minimise_all


def embeddings(n=600, dim=24, classes=3, seed=0):
    """A common mean and a spread that falls off over three decades."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    spread = np.logspace(0, -3, dim)
    return 2 + (rng.standard_normal((n, dim)) + 0.7 * rng.standard_normal((classes, dim))[y]) * spread, y


def task(x, y, c, weights=None):
    return Task(x, y, int(y.max()) + 1, np.ones(len(y)) if weights is None else weights, c)


def minimise(one, start, **how):
    return minimise_all([one], [start], **how)[0]


def scikit_learn(x, y, c, weights=None):
    """Newton's method with the exact Hessian: its answer is the same to 1e-6 whatever kernels BLAS runs.

    newton-cg is not: at a tolerance that makes it as exact, its line search ends in a warning with some kernels.
    """
    return LogisticRegression(C=c, tol=1e-10, max_iter=1000, solver="newton-cholesky").fit(x, y, sample_weight=weights)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("c", [1e-4, 1.0, 1e4])
def test_the_minimum_is_scikit_learns(classes, c):
    x, y = embeddings(classes=classes)
    ours, theirs = minimise(task(x, y, c), None, tol=1e-7, iterations=5000), scikit_learn(x, y, c)
    assert ours.converged
    largest = np.abs(theirs.coef_).max()
    assert ours.coef / largest == pytest.approx(theirs.coef_ / largest, abs=1e-5)
    logits = x @ (ours.coef - theirs.coef_).T + ours.intercept - theirs.intercept_
    assert logits == pytest.approx(np.zeros_like(logits), abs=3e-5)  # of values up to 20


def test_weights_count_a_row_as_often_as_they_say():
    x, y = embeddings(n=200)
    weights = np.random.default_rng(1).integers(0, 4, 200).astype(float)
    times = weights.astype(int)
    weighted = minimise(task(x, y, 0.3, weights), None, tol=1e-7, iterations=5000)
    repeated = minimise(task(np.repeat(x, times, 0), np.repeat(y, times), 0.3), None, tol=1e-7, iterations=5000)
    assert weighted.coef == pytest.approx(repeated.coef, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
def test_fewer_rows_than_features_and_hardly_a_penalty_still_has_the_minimum(classes):
    x, y = embeddings(n=20, dim=60, classes=classes)
    ours, theirs = minimise(task(x, y, 100.0), None, tol=1e-7, iterations=5000), scikit_learn(x, y, 100.0)
    assert ours.converged
    assert x @ ours.coef.T + ours.intercept == pytest.approx(theirs.decision_function(x).reshape(20, -1), abs=1e-3)


def test_blocks_give_the_same_sums_as_the_whole(monkeypatch):
    x, y = embeddings(n=500)
    whole = minimise(task(x, y, 1.0), None, tol=1e-7, iterations=5000)
    monkeypatch.setattr("probes.fitting.objective.BLOCK_BYTES", 8 * x.shape[1] * 7)  # 7 rows
    blocks = [minimise(task(x, y, 1.0), None, tol=1e-7, iterations=5000) for _ in range(2)]
    assert blocks[0].coef == pytest.approx(whole.coef, abs=1e-6)
    assert (blocks[0].coef == blocks[1].coef).all()  # whatever thread was quicker


def test_a_start_near_the_minimum_saves_most_of_the_passes():
    x, y = embeddings(n=2000, dim=60)
    cold = minimise(task(x, y, 1.0), None, tol=1e-7, iterations=5000)
    warm = minimise(task(x, y, 1.0), (cold.coef, cold.intercept), tol=1e-7, iterations=5000)
    assert warm.passes <= 3 < cold.passes
    assert warm.coef == pytest.approx(cold.coef, abs=1e-6)


@pytest.mark.parametrize("scaling", ["l2", "zscore", "center_l2", "none", "raw"])
def test_rows_scaled_when_asked_for_are_the_rows_scaled_at_once(scaling):
    x, y = embeddings(n=90)
    norms = np.linalg.norm(x, axis=1)
    vectors = Vectors((x / norms[:, None]).astype(np.float16), norms.astype(np.float32))
    rows = np.random.default_rng(0).permutation(90)[:70]
    scaler = fit_scaler(scaling, vectors, rows)
    lazy = ScaledRows(vectors, rows, scaler)
    whole = features(vectors, rows, scaler, np.float64)
    assert (lazy.whole() == whole).all()
    assert (lazy.take(np.arange(5, 20))[2:9] == whole[7:14]).all()
    fits = [minimise(task(r, y[rows], 1.0), None, tol=1e-7, iterations=5000).coef for r in (lazy, whole)]
    assert fits[0] == pytest.approx(fits[1], abs=1e-9)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_penalties_and_folds_fitted_together_are_those_fitted_alone(kind):
    """Rows of weight 0 are none of a task's own, also where they would be a class of their own."""
    x, y = embeddings(n=400, classes=3)
    x = unit_times_root_of_dim(x).astype(kind)
    fold = np.arange(400) % 4
    tasks, alone = [], []
    for held in (0, 1):
        own = fold != held
        for c in (1e-4, 1.0, 1e3):
            tasks.append(task(x, y, c, own.astype(float)))
            alone.append(minimise(task(x[own], y[own], c), None, tol=1e-4, iterations=2000))
    binary = Task(x, (y == 2).astype(np.int64), 2, np.ones(400), 0.5)
    alone.append(minimise(binary, None, tol=1e-4, iterations=2000))
    together = minimise_all([*tasks, binary], [None] * 7, tol=1e-4, iterations=2000)
    for one, other in zip(together, alone, strict=True):
        assert one.converged
        assert np.linalg.norm(one.coef - other.coef) <= 0.01 * np.linalg.norm(other.coef)


def log_loss(x, y, coef, intercept):
    z = x @ coef.T + intercept
    z = np.hstack([np.zeros_like(z), z]) if z.shape[1] == 1 else z
    return float((logsumexp(z, axis=1) - z[np.arange(len(y)), y]).mean())


def objective(x, y, c, coef, intercept):
    return log_loss(x, y, coef, intercept) * len(y) + (coef**2).sum() / (2 * c)


def repeated_images(rng):
    return np.repeat(rng.standard_normal((40, 64)), 10, 0), rng.integers(0, 2, 400)


def pictures_stored_twice(rng):
    y = np.repeat(rng.integers(0, 2, 100), 2)
    return np.repeat(rng.standard_normal((100, 96)), 2, 0), np.where(rng.random(200) < 0.3, 1 - y, y)


def identical_blanks(rng):
    x = rng.standard_normal((400, 512))
    x[:80] = x[0]
    return x, rng.integers(0, 2, 400)


def blanks_of_three_classes(rng):
    x = rng.standard_normal((300, 128))
    x[:60] = x[0]
    return x, rng.integers(0, 3, 300)


def more_features_than_rows(rng):
    return rng.standard_normal((120, 640)), rng.integers(0, 2, 120)


def a_constant_feature(rng):
    x = rng.standard_normal((200, 24))
    x[:, 5] = 1
    return x, rng.integers(0, 2, 200)


def unit_times_root_of_dim(x):
    """The default scaling, l2, in the sweep's precision."""
    return (x / np.linalg.norm(x, axis=1, keepdims=True) * np.sqrt(x.shape[1])).astype(np.float32)


@pytest.mark.case("N1")
@pytest.mark.parametrize("c", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize(
    "degenerate",
    [
        repeated_images, pictures_stored_twice, identical_blanks, blanks_of_three_classes, more_features_than_rows,
        a_constant_feature,
    ],
)  # fmt: skip
def test_duplicated_blank_and_constant_rows_have_scikit_learns_minimum_too(degenerate, c):
    x, y = degenerate(np.random.default_rng(3))
    x = unit_times_root_of_dim(x)
    exact = x.astype(np.float64)
    theirs = scikit_learn(exact, y, c)
    lowest = objective(exact, y, c, theirs.coef_, theirs.intercept_)
    for rows, tol, room in ((x, 1e-3, 5e-5), (exact, 1e-7, 1e-9)):
        ours = minimise(task(rows, y, c), None, tol=tol, iterations=5000)
        assert ours.converged
        assert objective(exact, y, c, ours.coef, ours.intercept) <= lowest * (1 + room)


@pytest.mark.case("M3")
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("scale", [1.0, 0.1])
def test_every_step_of_a_warm_started_sweep_is_scikit_learns_fit_at_that_penalty(classes, scale):
    """A warm start that is near enough for an absolute tolerance must not be handed on as the next fit."""
    x, y = embeddings(n=500, classes=classes)
    x = (scale * unit_times_root_of_dim(x)).astype(np.float32)
    fresh, truth = embeddings(n=500, classes=classes, seed=1)
    fresh = scale * unit_times_root_of_dim(fresh).astype(np.float64)
    start, losses = None, []
    for c in 10.0 ** np.array([-7, -6, -4, -2, 0, 2, 4, 4.25, 5, 6]):
        ours = minimise(task(x, y, c), start, tol=1e-3, iterations=1000)
        theirs = scikit_learn(x.astype(np.float64), y, c)
        assert ours.converged
        assert np.linalg.norm(ours.coef - theirs.coef_) <= 0.03 * np.linalg.norm(theirs.coef_), c
        losses.append(log_loss(fresh, truth, ours.coef, ours.intercept))
        assert losses[-1] == pytest.approx(log_loss(fresh, truth, theirs.coef_, theirs.intercept_), rel=2e-3), c
        start = ours.coef, ours.intercept
    assert len(set(np.round(losses, 9))) == len(losses)  # no two candidates are one fit


@pytest.mark.case("M3")
def test_features_and_penalty_scaled_against_each_other_are_the_same_problem():
    x, y = embeddings(n=300)
    one = minimise(task(x, y, 0.5), None, tol=1e-3, iterations=1000)
    other = minimise(task(x / 30, y, 0.5 * 900), None, tol=1e-3, iterations=1000)
    assert other.coef / 30 == pytest.approx(one.coef, abs=1e-3 * np.abs(one.coef).max())


@pytest.mark.parametrize("classes", [2, 3])
def test_where_the_descent_stops_short_scikit_learns_solver_takes_over(monkeypatch, classes):
    x, y = embeddings(n=200, dim=8, classes=classes)
    whole = minimise(task(x, y, 0.1), None, tol=1e-5, iterations=5000)
    monkeypatch.setattr("probes.fitting.lbfgs.PATIENCE", 1)  # no descent goes further than its first steps
    monkeypatch.setattr("probes.fitting.softmax.ATTEMPTS", 1)
    rescued = minimise(task(x, y, 0.1), None, tol=1e-5, iterations=5000)
    assert rescued.coef == pytest.approx(whole.coef, abs=1e-3 * np.abs(whole.coef).max())
    monkeypatch.setattr("probes.fitting.softmax.WHOLE_NUMBERS", 0)
    assert not minimise(task(x, y, 0.1), None, tol=1e-5, iterations=5000).converged


@pytest.mark.case("N1")
def test_a_matrix_that_no_floor_makes_positive_definite_still_gives_coordinates(monkeypatch):
    x, y = embeddings(n=200)
    plain = minimise(task(x, y, 1.0), None, tol=1e-7, iterations=5000)
    monkeypatch.setattr("probes.fitting.coordinates.FLOORS", (float("nan"), 1e-2))
    floored = minimise(task(x, y, 1.0), None, tol=1e-6, iterations=5000)
    assert floored.coef == pytest.approx(plain.coef, abs=1e-4 * np.abs(plain.coef).max())


@pytest.mark.case("N4")
def test_a_thousand_classes_converge():
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(1000), 4)
    x = unit_times_root_of_dim(rng.standard_normal((1000, 48))[y] + 0.7 * rng.standard_normal((4000, 48)))
    found = minimise(task(x, y, 1.0), None, tol=1e-3, iterations=1000)
    assert found.converged
    exact = x.astype(np.float64)  # at the minimum the penalty balances the data: W = C · Σ (1[y = k] - p)·x
    p = np.exp(exact @ found.coef.T + found.intercept)
    p /= p.sum(1, keepdims=True)
    balanced = (np.eye(1000)[y] - p).T @ exact
    assert np.linalg.norm(balanced - found.coef) < 0.05 * np.linalg.norm(found.coef)


def test_a_label_known_from_the_middle_of_the_table_only_is_fitted_on_its_rows():
    x, y = embeddings(n=32_768, dim=64, classes=2)
    weights = np.where(np.arange(len(y)) < 8_192, 0.0, 1.0)
    ours = minimise(task(x, y, 1.0, weights), None, tol=1e-7, iterations=5000)
    theirs = scikit_learn(x[8_192:], y[8_192:], 1.0)
    assert ours.converged
    np.testing.assert_allclose(ours.coef, theirs.coef_, atol=1e-4 * np.abs(theirs.coef_).max())
