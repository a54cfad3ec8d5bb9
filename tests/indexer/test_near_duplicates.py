"""Near duplicates against every pair scored in numpy."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.duplicates import clusters, find, listing, tally
from indexer.duplicates import pairs as ann_pairs
from indexer.duplicates.find import find_near_duplicates, stream_near_duplicates
from indexer.duplicates.options import NearOptions
from indexer.duplicates.pairs import PairSearch
from indexer.errors import InputError
from indexer.store.table import EmbeddingStore
from tests.commands import call
from tests.memory import peak_memory
from tests.progress import Recorder
from tests.tables import add_shard, cosines, make_table, unit_rows


def every_pair(vectors: np.ndarray, threshold: float) -> set[tuple[int, int]]:
    products = np.round(cosines(vectors, vectors), 12)
    a, b = np.nonzero(np.triu(products >= threshold, 1))
    return set(zip(a.tolist(), b.tolist(), strict=True))


def heap(shape: tuple[int, ...], kind: type) -> np.ndarray:
    return np.zeros(shape, kind)


def close_pairs(vectors: np.ndarray, threshold: float) -> tuple[PairSearch, np.ndarray, np.ndarray, np.ndarray]:
    """The search, whose preparation was counted whole, and all pairs that its blocks gave: a, b, score."""
    recorder = Recorder()
    with recorder.stage("putting near rows together", ann_pairs.ordered_rows(*vectors.shape)):
        search = PairSearch(vectors, threshold, scratch=heap, progress=recorder)
    assert recorder.stages[0].done == recorder.stages[0].total
    blocks = [found for found, _ in search.blocks(lambda scored: scored)]
    return search, *(np.concatenate(column) for column in zip(*blocks, strict=True))


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
        _, a, b, scores = close_pairs(vectors, threshold)
    got = set(zip(a.tolist(), b.tolist(), strict=True))
    assert len(got) == len(a)
    assert got == every_pair(vectors, threshold)
    np.testing.assert_allclose(scores, cosines(vectors, vectors)[a, b], atol=1e-11)


def test_vectors_of_low_rank_need_few_axes_and_few_full_scores() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, 12)) @ rng.standard_normal((12, 256)) + 0.05 * rng.standard_normal((2000, 256))
    vectors = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
    search, a, b, _ = close_pairs(vectors, 0.9)
    assert search.axes < 64
    assert search.candidates < 0.01 * 2000 * 2000
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == every_pair(vectors, 0.9)


def test_clusters_out_of_reach_of_each_other_are_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann_pairs, "LEFT", 64)
    monkeypatch.setattr(ann_pairs, "RIGHT", 128)
    vectors = unit_rows(3000, 32, clusters=30, spread=0.05)
    search, a, b, _ = close_pairs(vectors, 0.97)
    assert search.size < 0.4 * 3000 * 3000 / 2
    assert set(zip(a.tolist(), b.tolist(), strict=True)) == every_pair(vectors, 0.97)


def test_a_threshold_that_every_pair_reaches_gives_every_pair_of_many_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ann_pairs, "LEFT", 64)
    monkeypatch.setattr(ann_pairs, "RIGHT", 128)
    vectors = unit_rows(1000, 32, clusters=30, spread=0.05)
    search, a, b, _ = close_pairs(vectors, -1.0)
    assert search.size >= 1000 * 999 // 2
    assert len(set(zip(a.tolist(), b.tolist(), strict=True))) == len(a) == 1000 * 999 // 2


@dataclass(frozen=True)
class Archive:
    """Rows with copies by vector and by bytes, near rows, patients and splits, some unknown."""

    vectors: np.ndarray
    contents: list[str]
    facts: list[dict[str, str]]

    def stored(self, folder: Path) -> EmbeddingStore:
        store = make_table(folder, self.vectors[:0])
        keys = [f"k{i}" for i in range(len(self.vectors))]
        add_shard(store, "s", keys, self.vectors, self.facts, contents=self.contents)
        return store

    def pairs(self, threshold: float) -> dict[tuple[str, str], float]:
        """Every pair in plain Python: equal bytes have the vector of the first of them."""
        first = [self.contents.index(content) for content in self.contents]
        scores = np.round(cosines(self.vectors, self.vectors), 12)
        n = range(len(self.vectors))
        return {
            (f"k{i}", f"k{j}"): 1.0 if first[i] == first[j] else scores[first[i], first[j]]
            for i in n
            for j in n
            if i < j and (first[i] == first[j] or scores[first[i], first[j]] >= threshold)
        }


def archive_of(n: int, seed: int, copies: int) -> Archive:
    rng = np.random.default_rng(seed)
    vectors = unit_rows(n, 12, seed=seed, clusters=max(2, n // 6), spread=0.1)
    for _ in range(copies):
        vectors[rng.integers(0, n)] = vectors[rng.integers(0, n)]
    contents = [f"c{i}" for i in range(n)]
    for _ in range(copies):
        contents[rng.integers(0, n)] = contents[rng.integers(0, n)]
    facts = []
    for _ in range(n):
        own = {"patient": f"P{rng.integers(0, 6)}", "split": ("train", "val", "test")[rng.integers(0, 3)]}
        facts.append({name: value for name, value in own.items() if rng.random() > 0.15})
    return Archive(vectors, contents, facts)


def components_of(pairs: set[tuple[str, str]]) -> list[set[str]]:
    out: list[set[str]] = []
    for a, b in pairs:
        joined = {a, b}.union(*(c for c in out if c & {a, b}))
        out = [c for c in out if not c & joined] + [joined]
    return out


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("most", [1_000, 4])
def test_counts_clusters_and_listed_pairs_are_those_of_every_pair_scored(tmp_path, monkeypatch, seed, most) -> None:
    """With blocks, products and rounds of a few rows each."""
    monkeypatch.setattr(ann_pairs, "LEFT", 8)
    monkeypatch.setattr(ann_pairs, "RIGHT", 16)
    monkeypatch.setattr(listing, "TOGETHER", 7)
    monkeypatch.setattr(tally, "HELD_ENTRIES", 9)
    monkeypatch.setattr(clusters, "HELD_LINKS", 5)
    monkeypatch.setattr(find, "BLOCK_PAIRS", 3)
    archive = archive_of(70, seed, copies=(0, 3, 15, 40)[seed % 4])
    facts = {f"k{i}": own for i, own in enumerate(archive.facts)}
    contents = {f"k{i}": content for i, content in enumerate(archive.contents)}
    true = archive.pairs(0.9)
    members: list[pa.Table] = []
    blocks: list[pa.Table] = []
    options = NearOptions(0.9, group="patient", split="split", pairs_per_cluster=most)
    report = stream_near_duplicates(archive.stored(tmp_path), options, blocks.append, members=members.append)
    rows = pa.concat_tables(blocks).to_pylist()

    groups = [(facts[a].get("patient"), facts[b].get("patient")) for a, b in true]
    splits = [(facts[a].get("split"), facts[b].get("split")) for a, b in true]
    across = [{a, b} for (a, b), (s, t) in zip(true, splits, strict=True) if s and t and s != t]
    leaked = Counter(facts[key]["split"] for key in set().union(*across))
    assert report.pairs == len(true)
    assert report.same_bytes == sum(contents[a] == contents[b] for a, b in true)
    assert report.group_unknown == sum(None in pair for pair in groups)
    assert report.within_group == sum(a == b and a is not None for a, b in groups)
    assert report.across_groups == report.pairs - report.group_unknown - report.within_group
    named = Counter(" / ".join(sorted(pair)) for pair in splits if None not in pair and pair[0] != pair[1])
    assert report.split_pairs == dict(sorted(named.items()))
    assert report.leaked_rows == dict(sorted(leaked.items()))

    parts = sorted(components_of(set(true)), key=len, reverse=True)
    assert (report.clusters, report.rows_in_clusters) == (len(parts), sum(map(len, parts)))
    assert report.largest_cluster == (len(parts[0]) if parts else 0)
    of = {row["key"]: row["cluster"] for row in pa.concat_tables(members).to_pylist()}
    assert sorted(map(sorted, parts)) == sorted(sorted(k for k in of if of[k] == c) for c in set(of.values()))
    assert [len([k for k in of if of[k] == c]) for c in range(len(parts))] == [len(part) for part in parts]

    listed = {(row["key_a"], row["key_b"]): row for row in rows}
    assert len(listed) == len(rows) == report.listed_pairs
    for pair, row in listed.items():
        assert row["score"] == pytest.approx(true[pair], abs=1e-11)
        assert row["cluster"] == of[pair[0]] == of[pair[1]]
        assert row["same_bytes"] == (contents[pair[0]] == contents[pair[1]])
        assert (row["patient_a"], row["split_b"]) == (facts[pair[0]].get("patient"), facts[pair[1]].get("split"))
    for part in parts:
        own = {pair for pair in true if pair[0] in part}
        shown = {pair for pair in listed if pair[0] in part}
        assert {listed[pair]["cluster_pairs"] for pair in shown} == {len(own)}
        if len(own) <= most:
            assert shown == own
            continue
        assert set().union(*map(set, shown)) == part  # each image is listed
        assert len(shown) <= len(part)
        for key in part:
            best = max(score for pair, score in true.items() if key in pair)
            assert max(listed[pair]["score"] for pair in shown if key in pair) == pytest.approx(best, abs=1e-11)
    assert report.clusters_listed_in_part == sum(len({p for p in true if p[0] in part}) > most for part in parts)


@pytest.mark.case("T9")
def test_thousands_of_copies_of_one_image_are_one_cluster_in_little_memory(tmp_path: Path) -> None:
    """20,000 copies are 200 million pairs."""
    blank, others = unit_rows(1, 16), unit_rows(50, 16, seed=2, clusters=1, spread=9)
    vectors = np.concatenate([np.repeat(blank, 20_000, axis=0), others])
    facts = [{"split": ("train", "test")[i % 2]} for i in range(len(vectors))]
    store = make_table(tmp_path, vectors, facts)
    assert find_near_duplicates(store, NearOptions(1, where="key < 'k1001'"))[0].pairs > 0  # and all is imported
    with peak_memory() as peak:
        report, pairs = find_near_duplicates(store, NearOptions(1, split="split"))
        assert peak() < 20e6
    assert (report.pairs, report.clusters, report.largest_cluster) == (199_990_000, 1, 20_000)
    assert (report.distinct, report.listed_pairs, report.clusters_listed_in_part) == (51, 19_999, 1)
    assert report.split_pairs == {"test / train": 10_000**2}
    assert report.leaked_rows == {"test": 10_000, "train": 10_000}
    assert set(pairs.column("key_a").to_pylist()) == {"k0"}
    assert set(pairs.column("cluster_pairs").to_pylist()) == {199_990_000}


def test_thousands_of_images_that_are_nearly_one_are_counted_and_listed_by_their_nearest(tmp_path: Path) -> None:
    vectors = unit_rows(1_500, 16, clusters=1, spread=0.1)
    report, pairs = find_near_duplicates(make_table(tmp_path, vectors), NearOptions(0.9))
    scores = np.round(cosines(vectors, vectors), 12)
    np.fill_diagonal(scores, -1)
    assert report.pairs == int((scores >= 0.9).sum()) // 2 > 1_000_000
    a, b = ([int(key[1:]) for key in pairs.column(side).to_pylist()] for side in ("key_a", "key_b"))
    assert report.listed_pairs == len(a) < 1_500
    assert set(a) | set(b) == set(range(1_500))
    for i in range(1_500):
        partners = [b[j] for j in range(len(a)) if a[j] == i] + [a[j] for j in range(len(b)) if b[j] == i]
        assert scores[i, partners].max() == scores[i].max()


def test_a_cluster_of_thousands_in_a_row_is_listed_in_little_memory(tmp_path: Path) -> None:
    """Each row is near the next few only, as frames of a slow film are: few pairs, of which none is left out."""
    rng, rows = np.random.default_rng(0), [unit_rows(1, 48)[0].astype(np.float64)]
    for _ in range(3_999):
        moved = rows[-1] + 0.05 * rng.standard_normal(48)
        rows.append(moved / np.linalg.norm(moved))
    vectors = np.array(rows, np.float16)
    store = make_table(tmp_path, vectors)
    assert find_near_duplicates(store, NearOptions(1, where="key < 'k1001'"))[0].pairs == 0  # and all is imported
    with peak_memory() as peak:
        report, pairs = find_near_duplicates(store, NearOptions(0.9, pairs_per_cluster=10**9))
        assert peak() < 40e6  # the products of all rows are 128 MB
    a, b = ([int(key[1:]) for key in pairs.column(side).to_pylist()] for side in ("key_a", "key_b"))
    assert set(zip(a, b, strict=True)) == every_pair(vectors, 0.9)
    assert report.largest_cluster > 3_000


def test_it_runs_where_the_system_cannot_reserve_a_file(store: EmbeddingStore, monkeypatch) -> None:
    wanted = find_near_duplicates(store, NearOptions(0.9))[1]
    monkeypatch.delattr("os.posix_fallocate")  # as on macOS
    assert find_near_duplicates(store, NearOptions(0.9))[1].equals(wanted)


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


@pytest.mark.parametrize("n", [0, 1])
def test_a_table_without_a_pair_has_an_empty_report(tmp_path: Path, n: int) -> None:
    report, pairs = find_near_duplicates(make_table(tmp_path, unit_rows(n, 8)), NearOptions())
    assert (report.rows, report.pairs, report.clusters, pairs.num_rows) == (n, 0, 0, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"threshold": 1.5}, "cosine"), ({"pairs_per_cluster": -1}, "below 0"), ({"group": "nosuch"}, "nosuch")],
)
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
    names = ["key_a", "key_b", "score", "cluster", "cluster_pairs", "same_bytes", "patient_a", "patient_b"]
    assert table.column_names == names
    assert table.num_rows == 5


@pytest.mark.parametrize("name", ["members.csv", "members.parquet"])
def test_the_command_writes_the_images_of_each_cluster(store: EmbeddingStore, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    done = call("indexer", "near-duplicates", store.uri, "--threshold", 0.97, "--split", "split", "--members", out)
    assert done.code == 0, done.err
    assert f"wrote 7 images to {out}" in done.err
    table = pv.read_csv(out) if name.endswith("csv") else pq.read_table(out)
    rows = table.to_pylist()
    assert [(row["key"], row["cluster"], row["cluster_rows"]) for row in rows] == [
        ("k0", 0, 3), ("k200", 0, 3), ("k202", 0, 3), ("k1", 1, 2), ("k201", 1, 2), ("k2", 2, 2), ("k203", 2, 2)
    ]  # fmt: skip
    assert rows[2]["split"] == "test"


def test_a_filter_that_no_row_fulfils_is_said(store: EmbeddingStore) -> None:
    none = call("indexer", "near-duplicates", store.uri, "--where", "split = 'nowhere'", "--json")
    assert (none.code, none.json["rows"], none.json["pairs"]) == (0, 0, 0)
    assert "no row of table t fulfils --where" in none.err
    assert "note:" not in call("indexer", "near-duplicates", store.uri, "--where", "split = 'train'", "--json").err


def test_a_disk_without_room_for_the_vectors_is_one_line(store: EmbeddingStore, monkeypatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    done = call("indexer", "near-duplicates", store.uri)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: no space left on the disk")
