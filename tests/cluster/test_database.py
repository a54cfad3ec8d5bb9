"""A database in an object store: indexed, labelled, searched with a published index, checked and probed there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from indexer.ann.goal import Goal
from indexer.archive.shards import find_shards
from indexer.errors import IndexFileError, StoreError, StoreLocked
from indexer.groups.make import pool
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index
from indexer.remote import objects
from indexer.search.index_build import build_index, refresh_index
from indexer.search.indexes.place import index_place
from indexer.search.searcher import Searcher
from indexer.store.pooled import require_pooled
from indexer.store.table import EmbeddingStore
from indexer.store.text import read_text
from indexer.types import DELETED, RunReport
from tests.archives import shard
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.object_store import ObjectStore, server
from tests.tables import add_shard, spec_for, unit_rows

__all__ = ["server"]
ROWS, DIM = 600, 16


@pytest.fixture
def store(server: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddingStore:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = EmbeddingStore.create(server.fresh(), "t", spec_for(DIM))
    add_shard(made, "s", [f"k{n}" for n in range(ROWS)], unit_rows(ROWS, DIM), [{"n": n} for n in range(ROWS)])
    made.refresh()
    return made


def nearest(store: EmbeddingStore) -> list[list[str]]:
    return [[hit.key for hit in hits] for hits in Searcher(store).by_key(["k1", "k7", "k99"])]


def exact(store: EmbeddingStore) -> list[list[str]]:
    return [[hit.key for hit in hits] for hits in Searcher(store, exact=True).by_key(["k1", "k7", "k99"])]


def test_an_index_is_published_beside_the_table_and_found_from_another_machine(server, store, tmp_path, monkeypatch):
    assert build_index(store, Goal()).action == "built"
    names = [name for name in server.names() if f"{store.uri[5:]}/t.faiss/" in name]
    assert len(names) == 5
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))  # another machine: no copy yet
    there = EmbeddingStore.open(store.uri)
    assert Searcher(there).snapshot.index is not None
    assert nearest(there) == exact(there)
    server.seen.clear()
    assert nearest(there) == exact(there)
    assert not any("t.faiss/vectors" in path for _, path, _ in server.seen)  # the copy is used


def test_an_altered_copy_is_downloaded_again_and_an_altered_publication_refused(server, store) -> None:
    build_index(store, Goal())
    place = index_place(store)
    vectors = next(place.directory.glob("vectors-*"))
    whole = vectors.read_bytes()
    vectors.write_bytes(bytes(len(whole)))
    assert nearest(store) == exact(store)
    assert vectors.read_bytes() == whole
    shutil.rmtree(place.directory)
    (name,) = (name for name in server.names() if f"{store.uri[5:]}/t.faiss/vectors" in name)
    server.put(f"s3://{name}", bytes(len(whole)))
    with pytest.raises(IndexFileError, match="is not what its manifest says"):
        nearest(store)
    assert not any(path.name.startswith(".") for path in place.directory.iterdir())


def test_new_rows_are_found_and_a_refresh_leaves_one_generation(server, store) -> None:
    build_index(store, Goal())
    add_shard(store, "more", ["new"], unit_rows(1, DIM, seed=5))
    store.refresh()
    assert Searcher(store).by_vector(unit_rows(1, DIM, seed=5).astype(np.float32))[0][0].key == "new"
    report = refresh_index(store)
    assert (report.action, report.inserted) == ("refreshed", 1)
    names = [name for name in server.names() if f"{store.uri[5:]}/t.faiss/" in name]
    assert len(names) == 5
    assert call("indexer", "health", store.uri).code == 0


def test_of_two_machines_that_build_at_once_the_second_is_refused(server, store, tmp_path, monkeypatch) -> None:
    first = index_place(store)
    first.fetch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    other = build_index(store, Goal()).manifest
    shutil.copytree(store.index_directory, first.directory, dirs_exist_ok=True)
    with pytest.raises(StoreLocked, match="published by another machine"):
        first.publish(replace(other, build_seconds=1.0))
    assert nearest(store) == exact(store)


def test_an_index_of_images_that_were_deleted_while_it_was_built_is_not_published(
    server, store, tmp_path, monkeypatch
) -> None:
    first = index_place(store)
    first.begin()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    built = build_index(store, Goal()).manifest
    shutil.copytree(store.index_directory, first.directory, dirs_exist_ok=True)
    (tmp_path / "keys.txt").write_text("k5\n")
    assert call("indexer", "delete", store.uri, "--keys", tmp_path / "keys.txt", "--yes").code == 0
    with pytest.raises(StoreLocked, match="deleted meanwhile"):
        first.publish(built)
    assert [name for name in server.names() if f"{store.uri[5:]}/{store.name}.faiss" in name] == []


def test_labels_filters_failures_and_a_probe_work_in_the_bucket(server, store, tmp_path) -> None:
    lines = "".join(f"k{n},{'ab'[n % 2]}\n" for n in range(ROWS))
    (tmp_path / "labels.csv").write_text("key,grade\n" + lines)
    assert call("indexer", "labels", store.uri, tmp_path / "labels.csv").code == 0
    found = call("indexer", "search", store.uri, "--key", "k1", "--where", "grade = 'b'", "--json")
    assert found.code == 0, found.err
    for command in ("info", "failures", "optimize"):
        done = call("indexer", command, store.uri)
        assert done.code == 0, (command, done.err)
    probe = call("probes", "knn", store.uri, "--label", "grade", "--group", "n", "--out", tmp_path / "knn")
    assert probe.code == 0, probe.err


def test_a_purge_keeps_nothing_old_of_pooled_vectors_in_a_bucket(store) -> None:
    pool(store, "n")
    add_shard(store, "more", ["a"], unit_rows(1, DIM, 5), [{"n": 3}])
    pool(store, "n")
    add_shard(store, "still more", ["b"], unit_rows(1, DIM, 6), [{"n": 4}])
    assert call("indexer", "optimize", store.uri, "--purge").code == 0
    store.refresh()
    found = require_pooled(store, "n", "mean")
    assert (store.versions(), len(found.dataset.versions())) == (1, 1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shard(tmp_path_factory.mktemp("photos") / "a.tar", list(range(8)), {"patient": "p"})


def indexed(address: str, photos: Path) -> RunReport:
    encoder = FakeEncoder()
    store = EmbeddingStore.create(address, "fake", encoder.spec)
    return index(find_shards([str(photos)]).shards, store, encoder, RunOptions(changed="replace"))


def test_nothing_of_an_image_deleted_in_the_bucket_is_left_there_or_in_the_copies_of_machines(
    server, photos, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = server.fresh()
    indexed(address, photos)
    store = EmbeddingStore.open(address)
    found = store.vectors(columns=["key"])
    rows = dict(zip(found.columns.column("key").to_pylist(), found.vectors, strict=True))
    needles = [b"im3", rows["im3"].tobytes(), rows["im3"].astype("<f4").tobytes()]
    pool(store, "patient")
    build_index(store, Goal())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    Searcher(EmbeddingStore.open(address), exact=False)  # another machine has a copy
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "keys.txt").write_text("im3\n")
    done = call("indexer", "delete", address, "--keys", tmp_path / "keys.txt", "--yes", "--json")
    assert (done.code, done.json["rows"], done.json["index_removed"]) == (0, 1, True), done.err
    assert done.json["receipt"].removeprefix("s3://") in server.names()
    photos.touch()
    assert indexed(address, photos).reasons == {DELETED: 1}  # the shard changed, and still has the image
    assert call("indexer", "optimize", address, "--purge").code == 0
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another"))
    there = EmbeddingStore.open(address)
    assert "im3" not in [hit.key for hit in Searcher(there).by_key(["im2"])[0]]
    contents = {name: objects.read(f"s3://{name}") for name in server.names() if address[5:] in name}
    contents |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    contents.pop(str(tmp_path / "keys.txt"))
    assert [name for name, data in contents.items() if any(needle in data for needle in needles)] == []
    assert sorted(there.vectors(columns=["key"]).columns.column("key").to_pylist()) == sorted({*rows} - {"im3"})


def test_a_table_whose_making_was_killed_is_made_again(server, photos) -> None:
    address = server.fresh()
    server.put(f"{address}/fake.lance/_transactions/0-b0f3.txn", b"killed before the first version was there")
    read = call("indexer", "info", address, "--table", "fake")
    assert (read.code, read.err.count("\n"), "no table fake" in read.err) == (1, 1, True)
    assert indexed(address, photos).embedded == 8
    assert EmbeddingStore.open(address).count() == 8


def test_missing_text_vectors_are_named_with_the_way_out(store) -> None:
    with pytest.raises(StoreError, match=r"no text vectors for task 'x'.*indexer text"):
        read_text(store, "x")
