"""The index on disk: bound to its table, refused when altered, switched at once, built by one at a time."""

from __future__ import annotations

import json
import os
import tarfile
import threading
from pathlib import Path

import faiss
import numpy as np
import pytest

from indexer.ann import files
from indexer.ann.engines.kinds import ENGINES
from indexer.ann.goal import Goal
from indexer.ann.index import load
from indexer.ann.manifest import read_manifest
from indexer.errors import IndexFileError, StoreLocked
from indexer.search import index_build as maintain
from indexer.search import searcher as searcher_module
from indexer.search.index_build import build_index, refresh_index
from indexer.search.indexes import place as place_module
from indexer.search.searcher import Searcher
from indexer.store.lock import WriterLock
from indexer.store.table import EmbeddingStore
from tests.tables import add_shard, cosines, keys_of, make_table, unit_rows

VECTORS = unit_rows(400, 16)
KEYS = [f"k{i}" for i in range(400)]


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    store = make_table(tmp_path, VECTORS)
    build_index(store, Goal(kind="ivf-fp16"))
    return store


def test_another_program_reads_the_file_and_its_ids_are_the_tables_row_ids(store: EmbeddingStore) -> None:
    index = faiss.read_index(str(store.index_directory / "index.faiss"))
    index.nprobe = index.nlist
    _, ids = index.search(VECTORS[:5].astype(np.float32), 1)
    found, rows = store.take(ids[:, 0], ["key"])
    assert found.all()
    assert rows.column("key").to_pylist() == KEYS[:5]


def test_the_manifest_says_where_the_index_comes_from(store: EmbeddingStore) -> None:
    facts = json.loads((store.index_directory / "manifest.json").read_text())
    assert facts["version"] == store.version
    assert store.tags()[facts["tag"]] == store.version
    assert facts["fingerprint"] == store.spec.fingerprint
    assert facts["rows"] == 400
    assert facts["ids"] == "Lance stable row ids"
    assert set(facts["files"]) == {"index", "vectors", "row_ids", "keys"}


@pytest.mark.parametrize("role", ["index", "vectors", "row_ids", "keys"])
@pytest.mark.parametrize("where", [0.0, 0.3, 0.9])
def test_one_altered_byte_anywhere_is_refused(store: EmbeddingStore, role: str, where: float) -> None:
    manifest = read_manifest(store.index_directory)
    assert manifest is not None
    path = store.index_directory / manifest.files[role].name
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1
    path.write_bytes(data)
    with pytest.raises(IndexFileError, match=r"altered.*build-ann"):
        Searcher(store).by_key(["k1"])
    assert len(Searcher(store, exact=True).by_key(["k1"])[0]) == 10  # the way out that the message names


@pytest.mark.parametrize("role", ["index", "vectors", "row_ids", "keys"])
def test_a_truncated_or_missing_file_is_refused(store: EmbeddingStore, role: str) -> None:
    manifest = read_manifest(store.index_directory)
    assert manifest is not None
    path = store.index_directory / manifest.files[role].name
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(IndexFileError, match="bytes, its manifest says"):
        Searcher(store).by_key(["k1"])
    path.unlink()
    with pytest.raises(IndexFileError, match="is missing"):
        Searcher(store).by_key(["k1"])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 99}', '{"format": 1}'])
def test_a_manifest_that_cannot_be_understood_is_refused(store: EmbeddingStore, text: str) -> None:
    (store.index_directory / "manifest.json").write_text(text)
    with pytest.raises(IndexFileError, match=r"manifest\.json"):
        Searcher(store).by_key(["k1"])


def test_an_index_of_another_table_is_refused(store: EmbeddingStore, tmp_path: Path) -> None:
    other = make_table(tmp_path, VECTORS[::-1], name="other")
    store.index_directory.rename(other.index_directory)
    with pytest.raises(IndexFileError, match="was built for t"):
        Searcher(other).by_key(["k1"])


def test_an_index_whose_version_the_table_lost_is_refused(store: EmbeddingStore) -> None:
    manifest = read_manifest(store.index_directory)
    assert manifest is not None
    store.untag(manifest.tag)
    with pytest.raises(IndexFileError, match="no longer has"):
        Searcher(store).by_key(["k1"])


def test_a_second_builder_is_told_who_is_building(store: EmbeddingStore) -> None:
    lock = WriterLock(store.index_directory / "build.lock", what="the index of table t")
    with lock, pytest.raises(StoreLocked, match="the index of table t"):
        build_index(store, Goal())


def test_a_build_that_fails_leaves_the_former_index_and_no_litter(store: EmbeddingStore, monkeypatch) -> None:
    before = sorted(p.name for p in store.index_directory.iterdir())
    tags = store.tags()
    add_shard(store, "second", ["new"], unit_rows(1, 16, seed=3))

    def full_disk(*_args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(ENGINES["ivf-fp16"]), "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        build_index(store, Goal(kind="ivf-fp16"))
    assert sorted(p.name for p in store.index_directory.iterdir()) == before
    assert store.tags() == tags
    assert load(store.index_directory) is not None


def test_a_builder_killed_before_the_switch_leaves_the_former_index_in_force(
    store: EmbeddingStore, monkeypatch
) -> None:
    before = read_manifest(store.index_directory)

    class Killed(BaseException):
        pass

    def dies(self: Path, target: Path) -> Path:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", dies)
        patch.setattr(maintain.EmbeddingStore, "untag", lambda *_: None)  # a killed process cleans nothing up
        patch.setattr(Path, "unlink", lambda *_args, **_kwargs: None)
        with pytest.raises(Killed):
            build_index(store, Goal(kind="ivf-fp16"))
    assert read_manifest(store.index_directory) == before
    assert keys_of(Searcher(store).by_key(["k1"])[0])
    build_index(store, Goal(kind="ivf-fp16"))  # and the next build sweeps what was left
    manifest = read_manifest(store.index_directory)
    assert manifest is not None
    assert [t for t in store.tags() if t.startswith("faiss-")] == [manifest.tag]
    names = {f.name for f in manifest.files.values()}
    assert {p.name for p in store.index_directory.iterdir()} == names | {"manifest.json", "index.faiss", "build.lock"}


def test_a_reader_overtaken_by_a_builder_takes_the_new_index(store: EmbeddingStore, monkeypatch) -> None:
    """The builder replaces everything between the reader's manifest and its files."""
    real, rebuilt = files.verify, []

    def overtaken(directory: Path, manifest: object, *, whole: bool) -> None:
        if not rebuilt:
            rebuilt.append(build_index(store, Goal(kind="ivf-sq8")))
        real(directory, manifest, whole=whole)

    monkeypatch.setattr("indexer.ann.index.verify", overtaken)
    index = load(store.index_directory)
    assert index is not None
    assert index.manifest.kind == "ivf-sq8"


@pytest.mark.parametrize("moment", ["before the index is read", "after the index is read"])
def test_a_searcher_overtaken_by_new_rows_and_their_index_answers_from_these(
    store: EmbeddingStore, monkeypatch, moment: str
) -> None:
    """The table grows, and a builder drops the former index and its tag, between two steps of one look-up."""
    before = moment.startswith("before")
    module, name = (place_module, "load") if before else (searcher_module, "first_snapshot")
    real, done = getattr(module, name), []

    def overtaken(*arguments: object, **named: object) -> object:
        if not done:
            done.append(True)
            add_shard(store, "second", ["new"], unit_rows(1, 16, seed=3))
            build_index(store, Goal(kind="ivf-sq8"))
        return real(*arguments, **named)

    monkeypatch.setattr(module, name, overtaken)
    searcher = Searcher(EmbeddingStore.open(store.uri))
    assert searcher.by_vector(unit_rows(1, 16, seed=3).astype(np.float32))[0][0].key == "new"
    assert searcher.snapshot.version == store.version
    assert searcher.snapshot.index is not None
    assert searcher.snapshot.index.manifest.kind == "ivf-sq8"


def test_tags_are_listed_while_another_process_drops_them(store: EmbeddingStore) -> None:
    other, stop, wrong = EmbeddingStore.open(store.uri), threading.Event(), list[BaseException]()

    def come_and_go() -> None:
        try:
            for i in range(60):
                other.tag(f"t{i % 3}", other.version)
                other.untag(f"t{i % 3}")
        finally:
            stop.set()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    while not stop.is_set():
        try:
            assert any(tag.startswith("faiss-") for tag in store.tags())
        except Exception as error:  # noqa: BLE001 - collected, and asserted empty below
            wrong.append(error)
    thread.join()
    assert wrong == []


def test_versions_under_the_index_survive_clean_up(store: EmbeddingStore) -> None:
    import datetime

    import lance

    add_shard(store, "second", ["new"], unit_rows(1, 16, seed=3))
    dataset = lance.dataset(f"{store.uri}/t.lance")
    dataset.cleanup_old_versions(older_than=datetime.timedelta(0), error_if_tagged_old_versions=False)
    query = unit_rows(1, 16, seed=3).astype(np.float32)
    assert Searcher(store).by_vector(query)[0][0].key == "new"
    assert refresh_index(store).inserted == 1


def test_an_index_of_format_1_is_searched_and_refreshed(tmp_path: Path) -> None:
    """Made by the version before; it names neither the goal's kind nor the lengths of its rows."""
    with tarfile.open(Path(__file__).parents[1] / "formats" / "format-1.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    store = EmbeddingStore.open(str(tmp_path / "db"))
    rows = store.vectors(None, ["key"])
    keys = rows.columns.column("key").to_pylist()
    searcher = Searcher(store)
    assert searcher.snapshot.index is not None
    scores = np.round(cosines(rows.vectors, rows.vectors), 12)
    for own, hits in zip(scores, searcher.by_vector(rows.vectors.astype(np.float32)), strict=True):
        assert keys_of(hits) == [keys[i] for i in np.lexsort((rows.row_ids, -own))[:10]]
    assert refresh_index(store).action == "rebound"
    assert refresh_index(store).action == "unchanged"
    assert keys_of(Searcher(store).by_vector(rows.vectors[:1].astype(np.float32))[0])[0] == keys[0]
