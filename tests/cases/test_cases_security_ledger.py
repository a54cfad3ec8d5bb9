"""Bytes that a disk or a person zeroed in a side table end no process: the file is named, and a run mends it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from indexer.archive.shards import find_shards
from indexer.errors import StoreError
from indexer.pipeline.run import index
from indexer.store.table import EmbeddingStore
from tests.archives import archive
from tests.fakes import FakeEncoder

pytestmark = pytest.mark.case("X6")
ROOT = Path(__file__).parents[2]
CHILD = """
import os, sys
from pathlib import Path
from indexer.errors import IndexerError
from indexer.store.table import EmbeddingStore
file, db = Path(sys.argv[1]), sys.argv[2]
data = file.read_bytes()
for at in range(0, len(data), int(sys.argv[3])):
    file.write_bytes(data[:at] + bytes(8) + data[at + 8:])
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        try:
            EmbeddingStore.open(db).ledger()
        except IndexerError as error:
            os._exit(1 if "indexer index" in str(error) else 2)
        except BaseException:
            os._exit(3)
        os._exit(0)
    print(os.waitpid(child, 0)[1])
file.write_bytes(data)
"""


def indexed(tmp_path):
    shards = tmp_path / "shards"
    if not shards.exists():
        archive(tmp_path, shards=2, images=3)
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", FakeEncoder().spec)
    index(find_shards([str(shards)]).shards, store, FakeEncoder())
    return store


def test_zeroed_bytes_anywhere_in_the_ledger_end_no_process(tmp_path):
    store = indexed(tmp_path)
    (file,) = list((tmp_path / "db" / "t.shards.lance" / "data").iterdir())[:1]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CHILD, str(file), store.uri, "72"], cwd=ROOT,
                          capture_output=True, text=True, check=True)  # fmt: skip
    endings = [int(line) for line in done.stdout.split()]
    assert len(endings) > 15
    assert set(endings) <= {0, 256}, endings  # read, or one line with the way out; 6 is SIGABRT
    assert 256 in endings


def test_the_damaged_file_is_named_and_the_next_run_mends_it(tmp_path):
    store = indexed(tmp_path)
    keys = sorted(key for batch in store.scan(["key"]) for key in batch.column("key").to_pylist())
    file = max((tmp_path / "db" / "t.shards.lance" / "data").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    data = file.read_bytes()
    at = data.index(b"/lance.encodings")
    file.write_bytes(data[:at] + bytes(8) + data[at + 8 :])
    with pytest.raises(StoreError, match=file.name):
        EmbeddingStore.open(store.uri).ledger()
    again = indexed(tmp_path)
    again.refresh()
    assert sorted(key for batch in again.scan(["key"]) for key in batch.column("key").to_pylist()) == keys
    assert len(again.ledger()) == 2
