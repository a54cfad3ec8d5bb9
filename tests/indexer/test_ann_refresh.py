"""A refreshed index answers as one built anew; any history of a table searches as plain Python says."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from indexer.ann.engines.kinds import CANDIDATES, EXACT
from indexer.ann.goal import Goal, GoalChange
from indexer.ann.index import load
from indexer.search.index_build import build_index, refresh_index
from indexer.search.options import SearchOptions
from indexer.search.searcher import Searcher
from indexer.store.labelling.join import add_columns
from indexer.store.table import EmbeddingStore
from tests.tables import add_shard, all_row_ids, cosines, keys_of, make_table, nearest_keys, unit_rows

KINDS = [EXACT.name, *(kind.name for kind in CANDIDATES)]
VECTORS = unit_rows(600, 16)
KEYS = [f"k{i}" for i in range(600)]


def delete(store: EmbeddingStore, where: str) -> None:
    lance.dataset(f"{store.uri}/{store.name}.lance").delete(where)
    store.refresh()


def update(store: EmbeddingStore, keys: list[str], vectors: np.ndarray) -> None:
    """Give stored rows other vectors, under their row ids."""
    dataset = lance.dataset(f"{store.uri}/{store.name}.lance")
    rows = dataset.to_table(filter=f"key IN ({', '.join(map(repr, keys))})")
    spot = {key: i for i, key in enumerate(keys)}
    flat = np.concatenate([vectors[spot[key]] for key in rows.column("key").to_pylist()])
    column = pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), vectors.shape[1])
    at = rows.schema.get_field_index("vector")
    changed = rows.set_column(at, rows.schema.field("vector"), column)
    dataset.merge_insert("key").when_matched_update_all().execute(changed)
    store.refresh()


@pytest.mark.parametrize("kind", KINDS)
def test_after_inserts_updates_and_deletes_a_refresh_equals_a_rebuild(tmp_path: Path, kind: str) -> None:
    store = make_table(tmp_path, VECTORS[:500])
    build_index(store, Goal(kind=kind, recall=1))
    add_shard(store, "second", KEYS[500:600], VECTORS[500:600])
    delete(store, "key IN ('k3', 'k44', 'k501')")
    moved = unit_rows(2, 16, seed=8)
    update(store, ["k7", "k510"], moved)
    report = refresh_index(store)
    assert (report.action, report.inserted, report.updated, report.deleted) == ("refreshed", 99, 1, 2)

    index = load(store.index_directory)
    assert index is not None
    assert sorted(index.rows.row_ids) == sorted(all_row_ids(store))
    truth = {key: VECTORS[i] for i, key in enumerate(KEYS) if key not in ("k3", "k44", "k501")}
    truth |= {"k7": moved[0], "k510": moved[1]}
    queries = np.concatenate([unit_rows(20, 16, seed=2), moved]).astype(np.float32)
    names, rows = list(truth), np.stack(list(truth.values()))
    expected = nearest_keys(queries, names, rows, 5)
    refreshed = [keys_of(h) for h in Searcher(store).by_vector(queries, SearchOptions(k=5))]
    build_index(store, Goal(kind=kind, recall=1))
    rebuilt = [keys_of(h) for h in Searcher(store).by_vector(queries, SearchOptions(k=5))]
    for got in (refreshed, rebuilt):
        right = sum(len(set(g) & set(e)) for g, e in zip(got, expected, strict=True))
        assert right >= 0.99 * 5 * len(queries)
    assert refreshed[-2][0] == "k7"
    assert refreshed[-1][0] == "k510"


def test_refreshing_an_unchanged_table_writes_nothing(tmp_path: Path) -> None:
    store = make_table(tmp_path, VECTORS[:300])
    build_index(store, Goal(kind="ivf-fp16"))
    stamps = {p.name: p.stat().st_mtime_ns for p in store.index_directory.iterdir() if p.name != "build.lock"}
    assert refresh_index(store).action == "unchanged"
    assert {p.name: p.stat().st_mtime_ns for p in store.index_directory.iterdir() if p.name != "build.lock"} == stamps


def test_a_label_import_rebinds_the_same_files_to_the_new_version(tmp_path: Path) -> None:
    store = make_table(tmp_path, VECTORS[:300])
    before = build_index(store, Goal(kind="ivf-fp16")).manifest
    add_columns(store, pa.table({"key": KEYS[:300], "grade": list(range(300))}))
    report = refresh_index(store)
    assert report.action == "rebound"
    assert report.manifest.version == store.version
    assert report.manifest.files == before.files
    assert store.tags() == {report.manifest.tag: store.version}
    assert len(Searcher(store).by_key(["k1"])[0]) == 10


def test_a_refresh_after_most_rows_changed_is_a_rebuild(tmp_path: Path) -> None:
    store = make_table(tmp_path, VECTORS[:200])
    build_index(store, Goal(kind="ivf-fp16"))
    add_shard(store, "second", KEYS[200:400], VECTORS[200:400])
    report = refresh_index(store)
    assert report.action == "rebuilt"
    assert report.manifest.rows_at_build == 400
    assert "100%" in report.why


def test_entries_that_cannot_be_removed_are_counted_and_never_found(tmp_path: Path) -> None:
    store = make_table(tmp_path, VECTORS[:500])
    build_index(store, Goal(kind="ivf-rabitq", recall=1))
    delete(store, "key IN ('k3', 'k44')")
    report = refresh_index(store)
    assert report.manifest.stale == 2
    (hits,) = Searcher(store).by_vector(VECTORS[3:4].astype(np.float32), SearchOptions(k=498))
    assert len(hits) == 498
    assert not {"k3", "k44"} & set(keys_of(hits))


class AnyHistory(RuleBasedStateMachine):
    """A table lives through appends, deletes, updates, compaction, builds and refreshes; a dict is the truth."""

    @initialize(kind=st.sampled_from(KINDS))
    def create(self, kind: str) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.store = make_table(self.folder, unit_rows(30, 8))
        self.kind, self.made, self.built = kind, 30, False
        self.truth = {f"k{i}": v for i, v in enumerate(unit_rows(30, 8))}
        self.warm = Searcher(EmbeddingStore.open(str(self.folder)))

    def teardown(self) -> None:
        shutil.rmtree(getattr(self, "folder", "/nonexistent"), ignore_errors=True)

    @rule(n=st.integers(1, 20))
    def append(self, n: int) -> None:
        keys = [f"k{self.made + i}" for i in range(n)]
        vectors = unit_rows(n, 8, seed=self.made)
        add_shard(self.store, f"s{self.made}", keys, vectors)
        self.made += n
        self.truth |= dict(zip(keys, vectors, strict=True))

    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        keys = data.draw(st.lists(st.sampled_from(sorted(self.truth) or ["none"]), max_size=8, unique=True))
        if keys:
            delete(self.store, f"key IN ({', '.join(map(repr, keys))})")
        for key in keys:
            self.truth.pop(key, None)

    @rule(data=st.data(), seed=st.integers(1000, 2000))
    def update(self, data: st.DataObject, seed: int) -> None:
        if not self.truth:
            return
        keys = data.draw(st.lists(st.sampled_from(sorted(self.truth)), min_size=1, max_size=5, unique=True))
        vectors = unit_rows(len(keys), 8, seed=seed)
        update(self.store, keys, vectors)
        self.truth |= dict(zip(keys, vectors, strict=True))

    @rule()
    def compact(self) -> None:
        lance.dataset(f"{self.store.uri}/t.lance").optimize.compact_files()
        self.store.refresh()

    @rule()
    def build(self) -> None:
        build_index(self.store, Goal(kind=self.kind, recall=1))
        self.built = True

    @rule()
    def refresh(self) -> None:
        report = refresh_index(self.store, GoalChange(kind=self.kind, recall=1))
        assert report.manifest.rows == len(self.truth)
        self.built = True

    @invariant()
    def every_searcher_finds_what_plain_python_finds(self) -> None:
        if not hasattr(self, "truth"):
            return
        queries = np.concatenate([unit_rows(2, 8, seed=7), [*self.truth.values()][-1:] or unit_rows(1, 8)])
        queries = queries.astype(np.float32)
        rows = np.stack(list(self.truth.values())) if self.truth else np.empty((0, 8), np.float16)
        scores = -np.sort(-cosines(queries, rows), axis=1)
        # Fewer rows than EXACT_SCAN_ROWS under a filter, k = all: both are answered exactly by every kind.
        for options in (SearchOptions(k=5, where="key <> ''"), SearchOptions(k=len(self.truth) + 3)):
            for searcher in (self.warm, Searcher(self.store), Searcher(self.store, exact=True)):
                for i, hits in enumerate(searcher.by_vector(queries, options)):
                    assert len(hits) == min(options.k, len(self.truth))
                    assert set(keys_of(hits)) <= set(self.truth)
                    assert len(set(keys_of(hits))) == len(hits)
                    np.testing.assert_allclose([h.score for h in hits], scores[i, : len(hits)], atol=1e-11)


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(
    max_examples=12, stateful_step_count=8, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)
