"""Object stores that are not moto: Azure's blobs by Azurite, and s3rver, which overwrites where it was told not to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from indexer.ann.goal import Goal
from indexer.archive.shards import find_shards
from indexer.doctor.stores import try_store
from indexer.pipeline.run import index
from indexer.search.index_build import build_index
from indexer.search.searcher import Searcher
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from tests.archives import archive as small_archive
from tests.archives import png
from tests.cluster import node
from tests.cluster.truth import contents, odd_archive
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.object_store import BUCKET

IGNORED = "a store that ignores conditional puts (s3rver): a second writer"


def indexed(database: str, archive: Path) -> list[str]:
    encoder = FakeEncoder()
    store = EmbeddingStore.create(database, "fake", encoder.spec)
    return index(find_shards([str(archive)]).shards, store, encoder).warnings


@pytest.mark.slow
@pytest.mark.skipif(bool(node.missing("azurite-blob")), reason=node.missing("azurite-blob") or "-")
def test_a_database_lives_in_azure_as_in_a_folder(tmp_path, monkeypatch, fault) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    archive, database = odd_archive(tmp_path), f"az://{BUCKET}/db"
    indexed(str(tmp_path / "db"), archive)
    with node.azurite() as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert try_store(database).conditional_puts
        indexed(database, archive)
        fault("a database in Azure (Azurite): none", contents(database), contents(str(tmp_path / "db")), faults=0)
        store = EmbeddingStore.open(database)
        build_index(store, Goal())
        assert Searcher(store).snapshot.index is not None
        (tmp_path / "labels.csv").write_text("key,grade\nim1,a\n")
        (tmp_path / "keys.txt").write_text("im2\n")
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "a.png").write_bytes(png(1))
        for words in (
            ("labels", database, tmp_path / "labels.csv"),
            ("search", database, "--key", "im1", "--where", "grade = 'a'"),
            ("delete", database, "--keys", tmp_path / "keys.txt", "--yes"),
            ("optimize", database, "--purge"),
            ("pack", tmp_path / "photos", f"az://{BUCKET}/packed"),
            ("list", f"az://{BUCKET}/packed/", "--out", tmp_path / "manifest.parquet"),
        ):
            done = call("indexer", *words)
            assert done.code == 0, (words, done.err)
        assert "im2" not in contents(database)["rows"]


@pytest.mark.slow
@pytest.mark.skipif(bool(node.missing("s3rver")), reason=node.missing("s3rver") or "-")
def test_a_store_that_ignores_conditional_puts_is_not_believed(tmp_path, monkeypatch, fault) -> None:
    archive = small_archive(tmp_path, 3, 4)
    indexed(str(tmp_path / "db"), archive)
    truth = contents(str(tmp_path / "db"))
    (tmp_path / "s3").mkdir()
    with node.s3rver(tmp_path / "s3") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        tried = try_store(f"s3://{BUCKET}/db0")
        assert (tried.reachable, tried.conditional_puts) == (True, False)
        for trial in range(3):
            database = f"s3://{BUCKET}/db{trial}"
            with StoreWriter(EmbeddingStore.create(database, "fake", FakeEncoder().spec)):
                words = [sys.executable, "-m", "tests.cluster.writer", database, str(archive)]
                done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=240)
                assert "being written by" in done.stdout, done
            assert any("only one writer" in warning for warning in indexed(database, archive))
            fault(IGNORED, contents(database, "fake"), truth)
