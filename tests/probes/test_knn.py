"""kNN: the protocol's golden, exact search against numpy, and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from probes.cohort.truth import class_truth, label_truth, probabilities
from probes.compute.exact_search import top_k
from probes.fitting.votes import Neighbours, Vote, as_logits, clipped_ks, nearest, votes

TRAIN = np.array([[1, 0], [0.8, 0.6], [0, 1], [-1, 0], [0.6, 0.8]], np.float32)
TRUTH = class_truth(np.array([0, 0, 1, 2, 1]), ("a", "b", "c"))
QUERY = np.array([[0.96, 0.28]], np.float32)


def look_up(k, *, groups=None, query_group=99):
    groups = np.arange(5) if groups is None else groups
    return nearest(TRAIN, QUERY, k, base_groups=groups, query_groups=np.array([query_group]))


def test_golden_of_d6():
    found = look_up(5)
    sims = np.empty(5)
    sims[found.rows[0]] = found.scores[0]
    assert sims == pytest.approx([0.96, 0.936, 0.28, -0.96, 0.8])
    assert votes(found, TRUTH, 3, Vote())[0] == pytest.approx([0.94385608, 0.05614392, 0], abs=1e-7)


def test_neighbours_of_the_same_group_never_vote():
    found = look_up(3, groups=np.array([7, 7, 0, 0, 0]), query_group=7)
    assert found.rows[0].tolist() == [4, 2, 3]
    alone = look_up(3, groups=np.full(5, 7), query_group=7)
    assert alone.rows[0].tolist() == [-1, -1, -1]
    assert votes(alone, TRUTH, 3, Vote())[0] == pytest.approx([1 / 3] * 3)


@pytest.mark.parametrize("n", [7, 900, 40_000])  # fewer than k, one block, several blocks
def test_blocked_search_equals_a_full_sort(n):
    rng = np.random.default_rng(n)
    base = rng.standard_normal((n, 6)).astype(np.float32)
    queries = rng.standard_normal((60, 6)).astype(np.float32)
    groups, own = rng.integers(0, 50, n), rng.integers(0, 50, 60)
    k = min(20, n)
    scores, rows = top_k(base, queries, k, base_groups=groups, query_groups=own)
    full = queries @ base.T
    full[own[:, None] == groups[None, :]] = -np.inf
    order = np.argsort(-full, axis=1, kind="stable")[:, :k]
    best = np.take_along_axis(full, order, 1)
    assert scores == pytest.approx(best, abs=1e-5)
    assert (np.where(np.isneginf(best), -1, order) == rows).mean() > 0.999


def test_uniform_euclidean_votes_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x, y = (3 * rng.standard_normal((300, 8)) + 5).astype(np.float32), rng.integers(0, 3, 300)
    queries = (3 * rng.standard_normal((50, 8)) + 5).astype(np.float32)
    reference = KNeighborsClassifier(11, algorithm="brute").fit(x, y)
    found = nearest(x, queries, 11, base_groups=np.arange(300), query_groups=np.arange(50) + 300, euclidean=True)
    p = votes(found, class_truth(y, ("a", "b", "c")), 11, Vote("uniform"))
    assert p == pytest.approx(reference.predict_proba(queries))
    assert (p.argmax(1) == reference.predict(queries)).all()  # ties → smallest label


def test_one_search_serves_every_smaller_k():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((100, 8)).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    truth = class_truth(rng.integers(0, 2, 100), ("a", "b"))
    groups = np.arange(100), np.arange(100, 110)
    wide = nearest(x, x[:10], 50, base_groups=groups[0], query_groups=groups[1])
    narrow = nearest(x, x[:10], 5, base_groups=groups[0], query_groups=groups[1])
    assert votes(wide, truth, 5, Vote()) == pytest.approx(votes(narrow, truth, 5, Vote()), abs=1e-6)
    assert clipped_ks(100) == (1, 5, 10, 20, 50, 100)


def test_a_label_that_a_neighbour_does_not_know_has_no_vote_of_it():
    truth = label_truth(np.array([[1, np.nan], [0, 1], [1, 0]]), ("x", "y"))
    found = Neighbours(np.zeros((1, 3), np.float32), np.array([[0, 1, 2]]))
    assert votes(found, truth, 3, Vote())[0] == pytest.approx([2 / 3, 1 / 2])


def test_logits_of_votes_give_the_votes_back():
    p = np.array([[0.2, 0.8, 0.0], [1.0, 0.0, 0.0]])
    assert probabilities(as_logits(p, multilabel=False), False) == pytest.approx(p, abs=1e-9)
    assert probabilities(as_logits(p, multilabel=True), True) == pytest.approx(p, abs=1e-9)
