"""No group on two sides, whatever the split; and planted leaks are found."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.errors import ProbeError
from probes.cohort.splits import (
    Split,
    check_groups,
    column_split,
    hash_share,
    hash_split,
    split_sha256,
    stratified_split,
    without_duplicates,
)
from probes.cohort.truth import class_truth
from probes.evaluation.leakage import audit, near_duplicates


def sides(split, groups):
    return [set(groups[getattr(split, part)]) for part in ("train", "val", "test")]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1000), st.integers(30, 200))
def test_no_group_stands_on_two_sides_and_every_row_on_one(seed, n):
    rng = np.random.default_rng(seed)
    groups = np.unique(rng.integers(0, 30, n), return_inverse=True)[1]
    names = [f"p{i}" for i in range(groups.max() + 1)]
    for split in (hash_split(groups, names, str(seed)), stratified_split(rng.integers(0, 2, n), groups, seed)):
        train, val, test = sides(split, groups)
        assert not train & val
        assert not train & test
        assert not val & test
        assert len(split.train) + len(split.val) + len(split.test) == n


def test_the_hash_of_a_group_is_the_protocols():
    expected = int.from_bytes(hashlib.blake2b(b"saltpatient-1", digest_size=8).digest(), "big") / 2**64
    assert hash_share("patient-1", "salt") == expected


def test_new_patients_never_move_an_old_one():
    names = [f"patient {i}" for i in range(400)]
    parts = [hash_split(np.arange(n), names[:n], "").part_of(n) for n in (100, 400)]
    assert (parts[0] == parts[1][:100]).all()
    shares = {name: (parts[1] == name).mean() for name in ("train", "val", "test")}
    assert shares == pytest.approx({"train": 0.7, "val": 0.1, "test": 0.2}, abs=0.06)


def test_the_same_seed_splits_alike_in_another_process():
    code = (
        "import numpy as np, json; from probes.cohort.splits import stratified_split;"
        "r = np.random.default_rng(3); g = r.integers(0, 40, 300);"
        "print(json.dumps(stratified_split(r.integers(0, 3, 300), g, 11).test.tolist()))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    here = np.random.default_rng(3)
    groups = here.integers(0, 40, 300)
    mine = stratified_split(here.integers(0, 3, 300), groups, 11).test.tolist()
    assert json.loads(runs[0].stdout) == json.loads(runs[1].stdout) == mine


def test_a_split_column_that_leaks_a_patient_is_refused_by_name():
    split = column_split(["train", "Test", "test", "VAL", None])
    assert split.unassigned.tolist() == [4]
    with pytest.raises(ProbeError, match=r"1 groups are in both train and test \(e.g. ann\)"):
        check_groups(split, np.array([0, 0, 1, 2, 1]), ["ann", "bob", "cid"])
    with pytest.raises(ProbeError, match="holds maybe"):
        column_split(["train", "maybe"])
    with pytest.raises(ProbeError, match="the test split is empty"):
        check_groups(column_split(["train", "val"]), np.array([0, 1]), ["a", "b"])


def test_too_few_groups_are_an_error_in_words():
    with pytest.raises(ProbeError, match="1 group cannot be split into 5 folds"):
        stratified_split(np.array([0, 1, 0, 1, 0, 1]), np.zeros(6, np.int64), 0)


def test_rows_whose_bytes_stand_in_a_later_split_leave_the_fitted_rows():
    none = np.empty(0, np.int64)
    split = Split(np.array([0, 1, 2]), np.array([3, 4]), np.array([5, 6]), none, none)
    content = np.array([10, 11, 12, 11, 13, 10, 13])
    cleaned = without_duplicates(split, content)
    assert cleaned.train.tolist() == [2]
    assert cleaned.val.tolist() == [3]
    assert cleaned.test.tolist() == [5, 6]
    assert cleaned.duplicates.tolist() == [0, 1, 4]


def test_the_split_hash_does_not_depend_on_row_order():
    assert split_sha256(["b", "a"], ["test", "train"]) == split_sha256(["a", "b"], ["train", "test"])
    assert split_sha256(["b", "a"], ["train", "test"]) != split_sha256(["a", "b"], ["train", "test"])


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("spread", [1.0, 0.05])  # 0.05: all vectors nearly alike, so that hardly a pair is ruled out
def test_planted_copies_are_all_found_and_nothing_else(spread):
    rng = np.random.default_rng(0)
    centre = rng.standard_normal(160)
    base = unit(centre * (spread < 1) + spread * rng.standard_normal((3000, 160)))
    queries = unit(centre * (spread < 1) + spread * rng.standard_normal((700, 160)))
    planted = rng.choice(700, 60, replace=False)
    source = rng.choice(3000, 60, replace=False)
    queries[planted] = unit(base[source] + 1e-4 * rng.standard_normal((60, 160)))
    groups = np.arange(3000), np.arange(3000, 3700)
    cosine, nearest = near_duplicates(base, queries, base_groups=groups[0], query_groups=groups[1], tau=0.99)
    exact = queries.astype(np.float64) @ base.astype(np.float64).T
    best = exact.max(1)
    assert (nearest[planted] == source).all()
    assert cosine[planted].min() > 0.999
    found = np.isfinite(cosine)
    assert (found == (best >= 0.95)).all()
    assert cosine[found] == pytest.approx(best[found], abs=1e-5)


def test_a_copy_of_the_same_group_is_no_leak():
    rows = unit(np.random.default_rng(0).standard_normal((200, 16)))
    same, _ = near_duplicates(rows, rows, base_groups=np.arange(200), query_groups=np.arange(200), tau=0.99)
    other, found = near_duplicates(rows, rows, base_groups=np.arange(200), query_groups=np.arange(200) + 1000, tau=0.99)
    assert np.isneginf(same).all() or same[np.isfinite(same)].max() < 0.999
    assert (found == np.arange(200)).all()
    assert other.min() > 0.9999


def test_audit_counts_levels_and_label_agreement():
    fitted, test = class_truth(np.array([0, 0, 1]), ("a", "b")), class_truth(np.array([0, 1, 1, 0]), ("a", "b"))
    found = audit(np.array([0.9995, 0.992, -np.inf, 0.96], np.float32), np.array([0, 1, -1, 2]), test, fitted, 0.99)
    assert [level.rows for level in found.levels] == [1, 1, 2, 2, 3]
    assert found.levels[2].label_agreement == 0.5
    assert found.chance_agreement == 0.5
    assert found.flagged == 2
