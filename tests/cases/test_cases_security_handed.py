"""Handed-over tables, indexes, folders, lists and servers that are made to harm: one line, and the process goes on."""

from __future__ import annotations

import hashlib
import http.server
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import faiss
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.ann.goal import Goal
from indexer.ann.index import load
from indexer.archive.reader import read_shard
from indexer.archive.shards import find_shards
from indexer.errors import IndexFileError, InputError, ReadError, ShardNotFound
from indexer.pipeline.run import index
from indexer.search.index_build import build_index
from indexer.store.labelling.file import Choice, read_labels
from indexer.store.table import EmbeddingStore
from indexer.types import Failure, Sample
from tests.archives import png, write_tar
from tests.cases.test_cases_security_ledger import CHILD, ROOT
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.tables import make_table, unit_rows

READ = "s = EmbeddingStore.open(db); s.vectors(columns=['key', 'content']); list(s.scan(['shard', 'meta']))"


@pytest.mark.case("X6")
def test_zeroed_bytes_of_the_main_table_end_no_reader(tmp_path):
    store = make_table(tmp_path / "db", unit_rows(20, 8))
    (file,) = (tmp_path / "db" / "t.lance" / "data").iterdir()
    child = CHILD.replace("EmbeddingStore.open(db).ledger()", READ)
    child = child.replace("range(0, len(data)", "range(len(data) * 3 // 4, len(data)")  # where the encodings are
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", child, str(file), store.uri, "40"], cwd=ROOT,
                          capture_output=True, text=True, check=True)  # fmt: skip
    endings = [int(line) for line in done.stdout.split()]
    assert len(endings) > 15
    assert set(endings) <= {0, 256}, endings  # 6 is SIGABRT
    assert 256 in endings


@pytest.mark.case("X6")
def test_a_file_is_checked_once_and_a_new_one_by_the_next_read(tmp_path):
    store = make_table(tmp_path / "db", unit_rows(20, 8))
    (file,) = (tmp_path / "db" / "t.lance" / "data").iterdir()
    assert store.require_readable().whole >= {file.name, store.state.commit}


def forged(directory: Path, change, role: str = "index") -> None:
    """A file of the index changed, with the hash that its manifest then needs."""
    path = directory / "manifest.json"
    manifest = json.loads(path.read_text())
    fact = manifest["files"][role]
    change(directory / fact["name"])
    data = (directory / fact["name"]).read_bytes()
    fact |= {"nbytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    path.write_text(json.dumps(manifest))


def other_kind(path: Path) -> None:
    found = faiss.IndexFlatIP(8)
    found.add(np.zeros((300, 8), np.float32))
    faiss.write_index(found, str(path))


def fewer(path: Path) -> None:
    found = faiss.read_index(str(path))
    found.remove_ids(np.arange(10))
    faiss.write_index(found, str(path))


def huge(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[8:16] = b"\xff" * 7 + b"\x0f"
    path.write_bytes(data)


@pytest.mark.case("X6")
@pytest.mark.parametrize(("change", "words"), [
    (other_kind, "not the index that its manifest describes"),
    (fewer, "290 entries, not 300"),
    (huge, "cannot be loaded|manifest describes"),
    (lambda path: path.write_bytes(path.read_bytes()[:100]), "cannot be loaded"),
])  # fmt: skip
def test_an_index_with_a_right_hash_and_another_content_is_refused(tmp_path, change, words):
    store = make_table(tmp_path / "db", unit_rows(300, 8))
    build_index(store, Goal(kind="ivf-fp16"))
    assert load(store.index_directory) is not None
    forged(store.index_directory, change)
    with pytest.raises(IndexFileError, match=words) as error:
        load(store.index_directory)
    assert "\n" not in str(error.value)


@pytest.mark.case("X6")
@pytest.mark.parametrize("change", [{"dim": -3}, {"dim": 1 << 40}, {"pixels": []}, {"name": 5, "dim": "x"}, {"zzz": 1}])
def test_a_table_whose_metadata_are_not_of_its_vectors_is_one_line_for_every_reader(tmp_path, change):
    store = make_table(tmp_path / "db", unit_rows(10, 8))
    dataset = lance.dataset(f"{store.uri}/{store.name}.lance")
    facts = json.loads(dataset.schema.metadata[b"embedding-indexer"])
    facts["encoder"] |= change
    dataset.update_schema_metadata({"embedding-indexer": json.dumps(facts)})
    for command in (("info",), ("search", "--key", "k0"), ("health",), ("export", tmp_path / "v.npy")):
        done = call("indexer", command[0], store.uri, *command[1:])
        assert (done.code, done.err.count("\n")) == (1, 1), done.err


@pytest.mark.case("X6")
@pytest.mark.parametrize("shape", ["(1125899906842624, 1280)", "(" * 60_000, "(3,)"])
def test_a_header_of_query_vectors_that_promises_too_much_is_one_line(tmp_path, shape):
    store = make_table(tmp_path / "db", unit_rows(10, 8))
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    (tmp_path / "q.npy").write_bytes(b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header)
    done = call("indexer", "search", store.uri, "--vectors", tmp_path / "q.npy")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), done.err


@pytest.mark.case("X7")
@pytest.mark.parametrize("number", [-1, 1 << 62, (1 << 63) - 1])
def test_an_index_whose_row_ids_would_need_terabytes_is_refused(tmp_path, number):
    store = make_table(tmp_path / "db", unit_rows(300, 8), [{"n": i} for i in range(300)])
    build_index(store, Goal(kind="ivf-fp16"))

    def change(path: Path) -> None:
        ids = np.fromfile(path, np.int64)
        ids[7] = number
        ids.tofile(path)

    forged(store.index_directory, change, "row_ids")
    done = call("indexer", "search", store.uri, "--key", "k0", "--where", "n > 5")
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert "build-ann" in done.err


@pytest.mark.case("X5")
def test_a_sidecar_that_links_out_of_the_folder_carries_nothing_off(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.json").write_text('{"token": "CANARY"}')
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.png").write_bytes(png(ord(name)))
    (folder / "a.json").symlink_to(tmp_path / "other" / "mine.json")
    (folder / "b.json").write_text('{"site": 1}')
    (folder / "c.json").symlink_to("b.json")
    found = {item.key: item for shard in find_shards([str(folder)]).shards for item in read_shard(shard)}
    assert (type(found["a.png"]), found["a.png"].reason) == (Failure, "bad metadata")
    assert "a.json: a link that leads out of the folder" in found["a.png"].detail
    assert [found[key].metadata["site"] for key in ("b.png", "c.png")] == [1, 1]


@pytest.mark.case("X7")
def test_names_of_metadata_without_number_are_summarised(tmp_path):
    fields = {f"field_{i}": i for i in range(3000)} | {"x" * 500: 1}
    (tmp_path / "s").mkdir()
    write_tar(tmp_path / "s" / "s.tar", [("a.png", png(1)), ("a.json", json.dumps(fields).encode())])
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", FakeEncoder().spec)
    report = index(find_shards([str(tmp_path / "s")]).shards, store, FakeEncoder())
    assert report.embedded == 1
    assert len(report.columns_skipped) == 101
    assert sum(report.columns_skipped.values()) == 3001 - 256
    assert "2,645 other fields" in report.columns_skipped


@pytest.mark.case("X7")
def test_labels_that_unpack_without_end_are_refused(tmp_path, monkeypatch):
    once = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["x" * 10_000]))
    pq.write_table(pa.table({"key": pa.array([f"k{i}" for i in range(4000)]), "a": once}), tmp_path / "l.parquet")
    assert (tmp_path / "l.parquet").stat().st_size < 100_000
    monkeypatch.setattr("indexer.store.labelling.file.MAX_UNPACKED", 10 << 20)
    with pytest.raises(InputError, match=r"more than 10,485,760 bytes once read"):
        read_labels(tmp_path / "l.parquet", Choice("key"), {})


@pytest.mark.case("X7")
@pytest.mark.parametrize("command", [("delete", "--yes", "--keys"), ("text", "--prompts")])
def test_a_list_without_end_is_one_line(tmp_path, monkeypatch, command):
    store = make_table(tmp_path / "db", unit_rows(4, 8))
    monkeypatch.setattr("indexer.commands.upkeep.delete.MOST_BYTES", 1000)
    monkeypatch.setattr("indexer.encoders.prompts.MOST_BYTES", 1000)
    endless = tmp_path / "list.json"
    endless.write_bytes(b"[" * 5000)
    done = call("indexer", command[0], store.uri, *command[1:], endless)
    assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert "over 1,000 bytes" in done.err
    store.refresh()
    assert store.count() == 4


@contextmanager
def serving(data: bytes, pause: float = 0.0, *, slow_head: bool = False):
    """A web server that knows no ranges; with a pause, it sends byte by byte."""

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            head = f'HTTP/1.0 200 OK\r\nETag: "x"\r\nContent-Length: {len(data)}\r\n\r\n'.encode()
            try:
                for part, slow in ((head, slow_head), (data, bool(pause) and not slow_head)):
                    for block in (part[i : i + 1] for i in range(len(part))) if slow else [part]:
                        self.wfile.write(block)
                        self.wfile.flush()
                        time.sleep(pause if slow else 0)
            except OSError:
                pass

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.case("X6")
def test_an_address_with_blanks_and_umlauts_is_read(tmp_path):
    data = write_tar(tmp_path / "s.tar", [("a.png", png(1))]).read_bytes()
    with serving(data) as url:
        (shard,) = find_shards([f"{url}/a b/ä.tar"]).shards
        assert [type(item) for item in read_shard(shard)] == [Sample]


@pytest.mark.case("X7")
def test_a_web_server_that_drips_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("indexer.remote.pace.SLOW_SECONDS", 0.5)
    with serving(bytes(5000), 0.02) as url:
        (shard,) = find_shards([f"{url}/s.tar"]).shards
        began = time.monotonic()
        with pytest.raises(ReadError, match="too slow"):
            list(read_shard(shard))
        assert time.monotonic() - began < 30


@pytest.mark.case("X7")
def test_a_web_server_that_drips_its_headers_is_left(monkeypatch):
    monkeypatch.setattr("indexer.remote.web.FACTS_SECONDS", 0.3)
    with serving(b"", 0.1, slow_head=True) as url, pytest.raises(ShardNotFound, match="no whole answer in 0 seconds"):
        find_shards([f"{url}/s.tar"])
