"""D4's minimiser against scikit-learn's own estimator, on features that are badly conditioned as embeddings are."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from probes.cohort.scaling import ScaledRows, Vectors, features, fit_scaler
from probes.fitting.softmax import Task, minimise


def embeddings(n=600, dim=24, classes=3, seed=0):
    """A common mean and a spread that falls off over three decades."""
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    spread = np.logspace(0, -3, dim)
    return 2 + (rng.standard_normal((n, dim)) + 0.7 * rng.standard_normal((classes, dim))[y]) * spread, y


def task(x, y, c, weights=None):
    return Task(x, y, int(y.max()) + 1, np.ones(len(y)) if weights is None else weights, c)


def scikit_learn(x, y, c, weights=None):
    """Newton's method with the exact Hessian: its answer is the same to 1e-6 whatever kernels BLAS runs.

    newton-cg is not: at a tolerance that makes it as exact, its line search ends in a warning with some kernels.
    """
    return LogisticRegression(C=c, tol=1e-10, max_iter=1000, solver="newton-cholesky").fit(x, y, sample_weight=weights)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("c", [1e-4, 1.0, 1e4])
def test_the_minimum_is_scikit_learns(classes, c):
    x, y = embeddings(classes=classes)
    ours, theirs = minimise(task(x, y, c), None, tol=1e-9, iterations=5000), scikit_learn(x, y, c)
    assert ours.converged
    largest = np.abs(theirs.coef_).max()
    assert ours.coef / largest == pytest.approx(theirs.coef_ / largest, abs=1e-5)
    logits = x @ (ours.coef - theirs.coef_).T + ours.intercept - theirs.intercept_
    assert logits == pytest.approx(np.zeros_like(logits), abs=3e-5)  # of values up to 20


def test_weights_count_a_row_as_often_as_they_say():
    x, y = embeddings(n=200)
    weights = np.random.default_rng(1).integers(0, 4, 200).astype(float)
    times = weights.astype(int)
    weighted = minimise(task(x, y, 0.3, weights), None, tol=1e-9, iterations=5000)
    repeated = minimise(task(np.repeat(x, times, 0), np.repeat(y, times), 0.3), None, tol=1e-9, iterations=5000)
    assert weighted.coef == pytest.approx(repeated.coef, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 4])
def test_fewer_rows_than_features_and_hardly_a_penalty_still_has_the_minimum(classes):
    x, y = embeddings(n=20, dim=60, classes=classes)
    ours, theirs = minimise(task(x, y, 100.0), None, tol=1e-8, iterations=5000), scikit_learn(x, y, 100.0)
    assert ours.converged
    assert x @ ours.coef.T + ours.intercept == pytest.approx(theirs.decision_function(x).reshape(20, -1), abs=1e-3)


def test_blocks_give_the_same_sums_as_the_whole(monkeypatch):
    x, y = embeddings(n=500)
    whole = minimise(task(x, y, 1.0), None, tol=1e-9, iterations=5000)
    monkeypatch.setattr("probes.fitting.softmax.BLOCK_BYTES", 8 * x.shape[1] * 7)  # 7 rows
    blocks = [minimise(task(x, y, 1.0), None, tol=1e-9, iterations=5000) for _ in range(2)]
    assert blocks[0].coef == pytest.approx(whole.coef, abs=1e-6)
    assert (blocks[0].coef == blocks[1].coef).all()  # whatever thread was quicker


def test_a_start_near_the_minimum_saves_most_of_the_passes():
    x, y = embeddings(n=2000, dim=60)
    cold = minimise(task(x, y, 1.0), None, tol=1e-8, iterations=5000)
    warm = minimise(task(x, y, 1.0), (cold.coef, cold.intercept), tol=1e-8, iterations=5000)
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
    fits = [minimise(task(r, y[rows], 1.0), None, tol=1e-9, iterations=5000).coef for r in (lazy, whole)]
    assert fits[0] == pytest.approx(fits[1], abs=1e-9)
