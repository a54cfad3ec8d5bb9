"""What is derived from a table's version is never used for another that got the same number."""

from __future__ import annotations

import shutil
from pathlib import Path

import lance
import numpy as np
import pytest

from indexer.ann.choose import Goal
from indexer.ann.manifest import read_manifest
from indexer.errors import IndexFileError, StoreError
from indexer.search.index_build import build_index, refresh_index
from indexer.search.searcher import Searcher, SearchOptions
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from tests.reborn import WAYS, before
from tests.tables import keys_of, make_table, nearest_keys, unit_rows

DIM, K = 8, 5
FIRST, OLD, NEW = unit_rows(60, DIM, 1), unit_rows(40, DIM, 2), unit_rows(40, DIM, 3)


def nearest(store: EmbeddingStore, queries: np.ndarray) -> list[list[str]]:
    """By numpy, from what Lance itself reads."""
    rows = lance.dataset(f"{store.uri}/{store.name}.lance").to_table(columns=["key", "vector"])
    flat = rows.column("vector").combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)
    return nearest_keys(queries, rows.column("key").to_pylist(), flat, K)


def test_each_table_has_an_identity_of_its_own_which_a_copy_keeps(tmp_path: Path) -> None:
    one, two = make_table(tmp_path, FIRST, name="one"), make_table(tmp_path, FIRST, name="two")
    assert len({one.state.identity, two.state.identity}) == 2
    assert all(len(bytes.fromhex(store.state.identity)) == 16 for store in (one, two))
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=shutil.ignore_patterns("copy"))
    assert EmbeddingStore.open(str(tmp_path / "copy"), "one").state == one.state


def test_a_version_keeps_its_names_through_labels_compaction_and_clean_up(tmp_path: Path) -> None:
    store = before(tmp_path / "db", FIRST, OLD)
    state = store.state
    store.tag("kept", state.version)
    with StoreWriter(store) as writer:
        writer.optimize()
    store.refresh()
    assert store.version > state.version
    assert store.at(state.version, identity=state.identity, commit=state.commit).state == state


@pytest.mark.parametrize("way", WAYS)
def test_a_version_that_came_back_is_told_from_the_one_that_was(tmp_path: Path, way: str) -> None:
    held = before(tmp_path / "db", FIRST, OLD)
    then = held.state
    WAYS[way](tmp_path / "db", FIRST, NEW)
    now = EmbeddingStore.open(str(tmp_path / "db"))
    assert now.version == then.version
    assert now.state.commit != then.commit
    assert (now.state.identity == then.identity) == (way != "dropped")
    for names in ({"commit": then.commit}, {"identity": then.identity, "commit": then.commit}):
        with pytest.raises(StoreError, match="another"):
            now.at(then.version, **names)
    with pytest.raises(StoreError, match="another"):
        now.delta(then.version, commit=then.commit)
    assert held.refresh() == then.version  # a handle that was open sees the other version too
    assert held.state == now.state
    assert np.array_equal(held.vectors().vectors, now.vectors().vectors)


@pytest.mark.parametrize("way", WAYS)
def test_an_index_of_a_version_that_came_back_is_refused_and_a_warm_searcher_finds_what_is_there(
    tmp_path: Path, way: str
) -> None:
    store = before(tmp_path / "db", FIRST, OLD)
    queries = NEW[:10].astype(np.float32)
    warm = Searcher(store, exact=True)
    options = SearchOptions(k=K)
    assert [keys_of(hits) for hits in warm.by_vector(queries, options)] == nearest(store, queries)
    build_index(store, Goal(kind="ivf-fp16", recall=1))
    WAYS[way](tmp_path / "db", FIRST, NEW)
    now = EmbeddingStore.open(str(tmp_path / "db"))
    assert now.version == store.version
    assert [keys_of(hits) for hits in warm.by_vector(queries, options)] == nearest(now, queries)
    with pytest.raises(IndexFileError, match="build-ann"):
        Searcher(now).by_vector(queries, options)
    build_index(now, Goal(kind="ivf-fp16", recall=1))
    assert [keys_of(hits) for hits in Searcher(now).by_vector(queries, options)] == nearest(now, queries)


def test_an_index_names_the_table_and_the_commit_and_a_refresh_renames_both(tmp_path: Path) -> None:
    store = make_table(tmp_path, FIRST)
    build_index(store, Goal(kind="ivf-fp16", recall=1))
    for _ in range(2):
        manifest = read_manifest(store.index_directory)
        assert manifest is not None
        assert (manifest.identity, manifest.version, manifest.commit) == (
            store.state.identity, store.version, store.state.commit,
        )  # fmt: skip
        with StoreWriter(store) as writer:
            writer.optimize()
        store.tag("other", store.version)
        refresh_index(store)
        store.refresh()
