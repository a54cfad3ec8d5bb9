"""D26: the two-sample tests hold their level with patients of several images, and see a shift."""

from __future__ import annotations

import numpy as np
import pytest

from probes.evaluation.external.shift import shift

PATIENTS = (20, 25)
SEEDED, ALL = 60, 1000


def drawn(seed, away=0.0, dim=8):
    """Two sets of patients with one to four images each; half of the variance is the patient's."""
    rng = np.random.default_rng([26, seed])

    def one(patients, mean):
        owner = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
        rows = rng.standard_normal((patients, dim))[owner] + rng.standard_normal((len(owner), dim)) + mean
        return rows.astype(np.float32), owner

    return one(PATIENTS[0], 0.0), one(PATIENTS[1], away)


def rejected(draws):
    found = [shift(*drawn(seed), seed, permutations=99) for seed in range(draws)]
    return [np.mean([p <= 0.05 for p in of]) for of in zip(*((f.p_classifier, f.p_mmd) for f in found), strict=True)]


def test_equal_sets_are_rarely_told_apart_and_images_of_a_patient_do_not_count_as_many():
    for share in rejected(SEEDED):
        assert share <= 0.15  # 0.05 + 3.5 standard errors


@pytest.mark.slow
def test_the_type_one_error_is_five_per_cent(record_property):
    shares = rejected(ALL)
    for name, share in zip(("classifier", "MMD"), shares, strict=True):
        record_property("measured", f"{name} two-sample test without a shift: p ≤ .05 in {share:.1%} of {ALL}")
        assert 0.035 <= share <= 0.065


def test_a_shift_is_seen_by_both():
    found = shift(*drawn(1, away=0.9), 0)
    assert (found.p_classifier, found.p_mmd) == (0.005, 0.005)  # the least of 199 permutations
    assert found.auc > 0.8
    assert found.groups == PATIENTS


def test_the_discrepancy_is_that_of_its_definition():
    (x, a), (y, b) = drawn(3, away=0.5)
    found = shift((x, a), (y, b), 0, permutations=1)
    both = np.concatenate([x, y]).astype(np.float64)
    squared = ((both[:, None] - both[None]) ** 2).sum(2)
    kernel = np.exp(-squared / np.median(squared[np.triu_indices(len(both), 1)]))
    n = len(x)
    expected = kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()
    assert found.mmd == pytest.approx(expected)


def test_the_classifier_is_ridge_regression_on_folds_of_patients():
    """With sets far apart every held-out score is right; with few groups there is no test."""
    (x, a), (y, b) = drawn(4)
    assert shift((x, a), (y + 50, b), 0, permutations=9).auc == 1.0
    few = a < 4
    assert shift((x[few], a[few]), (y, b), 0) is None
