"""Near duplicates against every pair scored in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.duplicates import pairs as ann_pairs
from indexer.duplicates.find import find_near_duplicates
from indexer.duplicates.options import NearOptions
from indexer.duplicates.pairs import close_pairs
from indexer.errors import InputError
from indexer.store.table import EmbeddingStore
from tests.commands import call
from tests.tables import add_shard, cosines, make_table, unit_rows


def every_pair(vectors: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    products = np.round(cosines(vectors, vectors), 12)
    a, b = np.nonzero(np.triu(products >= threshold, 1))
    return set(zip(a.tolist(), b.tolist(), strict=True))


def heap(shape: tuple[int, int]) -> np.ndarray:
    return np.empty(shape, np.float32)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2, 300),
    dim=st.sampled_from([4, 12, 24, 64]),
    clusters=st.integers(1, 30),
    spread=st.sampled_from([0.0, 0.05, 0.2, 1.0]),
    threshold=st.sampled_from([0.5, 0.9, 0.99]),
    left=st.sampled_from([8, 64]),
)
def test_every_pair_over_the_threshold_is_found_and_no_other(n, dim, clusters, spread, threshold, left) -> None:
    vectors = unit_rows(n, dim, seed=n, clusters=clusters, spread=spread)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ann_pairs, "LEFT", left)
        patch.setattr(ann_pairs, "RIGHT", 2 * left)
        found = close_pairs(vectors, threshold, max_pairs=10**6, scratch=heap)
    got = set(zip(found.a.tolist(), found.b.tolist(), strict=True))
    assert len(got) == len(found.a)
    assert got == every_pair(vectors, threshold)
    np.testing.assert_allclose(found.scores, cosines(vectors, vectors)[found.a, found.b], atol=1e-11)


def test_vectors_of_low_rank_need_few_axes_and_few_full_scores() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 12)) @ rng.standard_normal((12, 256)) + 0.05 * rng.standard_normal((2000, 256))
    vectors = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    found = close_pairs(vectors, 0.9, max_pairs=10**6, scratch=heap)
    assert found.axes < 64
    assert found.candidates < 0.01 * 2000 * 2000
    assert set(zip(found.a.tolist(), found.b.tolist(), strict=True)) == every_pair(vectors, 0.9)


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    """200 rows; k200 … k203 are copies of k0, k1, k0 and k2 with some noise, of other patients and splits."""
    vectors = unit_rows(200, 32, spread=1.0)
    owners = [{"patient": f"P{i}", "split": "train" if i < 150 else "test"} for i in range(200)]
    store = make_table(tmp_path, vectors, owners)
    noise = 0.01 * np.random.default_rng(1).standard_normal((4, 32))
    copies = (vectors[[0, 1, 0, 2]].astype(np.float32) + noise).astype(np.float16)
    more = [
        {"patient": "P0", "split": "train"},
        {"patient": "P900", "split": "test"},
        {"patient": "P901", "split": "test"},
        {"split": "test"},
    ]
    add_shard(store, "copies", ["k200", "k201", "k202", "k203"], copies, more)
    return store


def test_clusters_and_leakage_are_counted_across_patients_and_splits(store: EmbeddingStore) -> None:
    report, pairs = find_near_duplicates(store, NearOptions(0.97, group="patient", split="split"))
    rows = {(r["key_a"], r["key_b"]): r for r in pairs.to_pylist()}
    assert set(rows) == {("k0", "k200"), ("k0", "k202"), ("k200", "k202"), ("k1", "k201"), ("k2", "k203")}
    assert rows["k0", "k200"]["cluster"] == rows["k0", "k202"]["cluster"] == 0
    assert (report.rows, report.pairs, report.clusters, report.rows_in_clusters) == (204, 5, 3, 7)
    assert report.largest_cluster == 3
    assert (report.within_group, report.across_groups, report.group_unknown) == (1, 3, 1)
    assert report.across_splits == 4
    assert report.split_pairs == {"test / train": 4}
    assert report.leaked_rows == {"test": 3, "train": 4}


def test_a_filter_leaves_rows_out(store: EmbeddingStore) -> None:
    report, _ = find_near_duplicates(store, NearOptions(0.97, where="split = 'train'"))
    assert (report.rows, report.pairs) == (151, 1)


def test_arrays_beyond_the_memory_given_are_mapped_with_the_same_result(store: EmbeddingStore) -> None:
    _, held = find_near_duplicates(store, NearOptions(0.97))
    _, mapped = find_near_duplicates(store, NearOptions(0.97, memory_bytes=0))
    assert mapped.equals(held)


@pytest.mark.parametrize("n", [0, 1])
def test_a_table_without_a_pair_has_an_empty_report(tmp_path: Path, n: int) -> None:
    report, pairs = find_near_duplicates(make_table(tmp_path, unit_rows(n, 8)), NearOptions())
    assert (report.rows, report.pairs, report.clusters, pairs.num_rows) == (n, 0, 0, 0)


def test_a_threshold_that_most_pairs_reach_stops_early(tmp_path: Path) -> None:
    store = make_table(tmp_path, unit_rows(300, 8, clusters=1, spread=0.01))
    with pytest.raises(InputError, match=r"more than 100 pairs.*--threshold"):
        find_near_duplicates(store, NearOptions(0.9, max_pairs=100))


@pytest.mark.parametrize(("options", "words"), [({"threshold": 1.5}, "cosine"), ({"group": "nosuch"}, "nosuch")])
def test_what_makes_no_sense_is_refused(store: EmbeddingStore, options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        find_near_duplicates(store, NearOptions(**options))


def test_the_command_writes_the_pairs_and_prints_the_summary(store: EmbeddingStore, tmp_path: Path) -> None:
    out = tmp_path / "pairs.parquet"
    done = call(
        "indexer", "near-duplicates", store.uri, "--threshold", 0.97, "--group", "patient", "--out", out, "--json"
    )
    assert done.code == 0, done.err
    assert done.json["pairs"] == 5
    table = pq.read_table(out)
    assert table.column_names == ["key_a", "key_b", "score", "cluster", "same_bytes", "patient_a", "patient_b"]
    assert table.num_rows == 5
