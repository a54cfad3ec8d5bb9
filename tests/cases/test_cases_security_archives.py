"""Members, sidecars and servers out of all bounds are named, and the rest of the archive is read."""

from __future__ import annotations

import gzip
import http.server
import io
import json
import tarfile
import threading
import time
from contextlib import contextmanager

import pytest

from indexer.archive.reader import read_shard
from indexer.archive.samples import sidecar_fields
from indexer.archive.shards import find_shards
from indexer.archive.tar import LONGEST_NAME
from indexer.errors import CutShard, ReadError
from indexer.memory.budget import MAX_SIDECAR
from indexer.pack.run import PackOptions, pack
from indexer.pipeline.run import index
from indexer.store.table import EmbeddingStore
from indexer.types import Failure, Sample, Shard
from tests.archives import png, write_tar
from tests.fakes import FakeEncoder

DEEP = b'{"n": ' + b"[" * 980 + b"]" * 980 + b"}"


def indexed(tmp_path, path):
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", FakeEncoder().spec)
    index(find_shards([str(path)]).shards, store, FakeEncoder())
    store.refresh()
    return store


@pytest.mark.case("X6")
def test_one_bad_member_of_metadata_blocks_no_run(tmp_path):
    path = write_tar(tmp_path / "s.tar", [
        ("a.png", png(1)), ("a.cls", b"9" * 5000), ("b.png", png(2)), ("b.json", DEEP),
        ("c.png", png(3)), ("c.json", b'{"n": ' + b'{"a":' * 100_000), ("d.png", png(4)), ("d.cls", b"7"),
        ("e.png", png(5)), ("e.json", b'{"text": "' + b"[{" * 500 + b'"}'), ("f.png", png(6)), ("f.cls", b"9" * 19),
    ])  # fmt: skip
    store = indexed(tmp_path, path)
    assert store.count() == 4
    assert {f["key"]: f["reason"] for f in store.failures().to_pylist()} == {"b": "bad metadata", "c": "bad metadata"}
    assert "nested too deeply" in store.failures().to_pylist()[0]["detail"]
    assert indexed(tmp_path / "again", path).count() == 4


@pytest.mark.case("X6")
def test_json_of_a_sensible_depth_is_read_and_brackets_in_texts_count_for_nothing():
    deep = b"[" * 60 + b"]" * 60
    assert sidecar_fields(b'{"n": ' + deep + b"}")["n"]
    assert sidecar_fields(json.dumps({"text": '[{"\\' * 200, "rows": [{"a": [1]}] * 100}).encode())["rows"]


def packed_header(kind: bytes, nbytes: int) -> bytes:
    """A .tar.gz of two images, then a header that announces `nbytes` of itself, and holds them as zeros."""
    out = io.BytesIO()
    with gzip.open(out, "wb", compresslevel=9) as file:
        for name in ("a.png", "b.png"):
            first = tarfile.TarInfo(name)
            first.size = len(png(1))
            file.write(first.tobuf() + png(1) + bytes(-len(png(1)) % 512))
        header = tarfile.TarInfo("x")
        header.type, header.size = kind, nbytes
        file.write(header.tobuf(tarfile.USTAR_FORMAT))
        for _ in range(nbytes >> 20):
            file.write(bytes(1 << 20))
    return out.getvalue()


@pytest.mark.case("X7")
@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_that_announces_much_is_not_read_into_memory(tmp_path, kind):
    path = tmp_path / "s.tar.gz"
    path.write_bytes(packed_header(kind, 64 << 20))
    assert path.stat().st_size < 200_000
    found = []
    with pytest.raises(CutShard, match="a member's headers announce over"):
        found.extend(read_shard(Shard(str(path), str(path), "1")))
    assert [item.key for item in found] == ["a"]  # b may have lost its metadata


@pytest.mark.case("X7")
def test_a_large_sidecar_makes_its_own_image_a_failure_and_is_not_read(tmp_path):
    members = [("a.png", png(1)), ("a.json", b'{"n": "' + b"x" * MAX_SIDECAR + b'"}'), ("b.png", png(2))]
    path = write_tar(tmp_path / "s.tar.gz", members, "w:gz")
    found = list(read_shard(Shard(str(path), str(path), "1")))
    assert [(type(item), item.key) for item in found] == [(Failure, "a"), (Sample, "b")]
    assert (found[0].reason, "over 16,777,216 bytes" in found[0].detail) == ("bad metadata", True)


@pytest.mark.case("X7")
def test_a_name_longer_than_a_path_is_a_failure(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("x" * (LONGEST_NAME + 1) + ".png", png(1)), ("b.png", png(2))])
    first, second = read_shard(Shard(str(path), str(path), "1"))
    assert (first.reason, second.key) == ("name too long", "b")
    assert len(first.key) < 100


class Server(http.server.BaseHTTPRequestHandler):
    """`answer(path)` gives what a request gets: bytes at once, an iterator of bytes, or a place to go."""

    answer, asked = staticmethod(lambda _path: b""), list[str]()

    def do_GET(self):
        self.asked.append(self.path)
        found = type(self).answer(self.path)
        self.send_response(302 if isinstance(found, str) else 200)
        if isinstance(found, str):
            self.send_header("Location", found)
        self.send_header("Content-Type", "application/dicom+json")
        nbytes = len(found) if isinstance(found, bytes) else 0 if isinstance(found, str) else 1_000_000
        self.send_header("Content-Length", str(nbytes))
        self.end_headers()
        try:
            for block in [found] if isinstance(found, bytes) else () if isinstance(found, str) else found:
                self.wfile.write(block)
                self.wfile.flush()
        except OSError:
            pass

    def log_message(self, *_):
        pass


@contextmanager
def serving(answer):
    kind = type("Own", (Server,), {"answer": staticmethod(answer), "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", kind
    finally:
        server.shutdown()
        server.server_close()


def packing(url, tmp_path):
    return pack(PackOptions(f"dicomweb+{url}", tmp_path / "out", tmp_path / "secret", new_secret=True))


@pytest.mark.case("X5")
def test_a_dicomweb_server_that_redirects_to_another_host_is_not_followed(tmp_path):
    with serving(lambda _path: b"[]") as (other, asked), serving(lambda path: other + path) as (url, _):
        with pytest.raises(ReadError, match=r"redirects to .*, which is not followed"):
            packing(url, tmp_path)
        assert asked.asked == []


@pytest.mark.case("X5")
def test_a_dicomweb_server_may_redirect_within_itself(tmp_path):
    def answer(path):
        return b"[]" if path.startswith("/moved") else f"/moved{path}"

    with serving(answer) as (url, own):
        assert packing(url, tmp_path).files == 0
        assert any(path.startswith("/moved") for path in own.asked)


@pytest.mark.case("X7")
def test_a_server_that_ignores_offset_and_shuffles_its_page_is_left(tmp_path):
    turn = iter(range(1, 1000))

    def answer(path):
        if "/instances" in path:
            return b"[]"
        shift = next(turn) % 7
        series = [{"0020000D": {"Value": ["1.2"]}, "0020000E": {"Value": [f"1.{n}"]}} for n in range(500)]
        return json.dumps(series[shift:] + series[:shift]).encode()

    with serving(answer) as (url, own):
        with pytest.raises(ReadError, match="ignores offset"):
            packing(url, tmp_path)
        assert sum(path.startswith("/series") for path in own.asked) <= 2


@pytest.mark.case("X7")
def test_a_server_that_sends_a_byte_now_and_then_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("indexer.pack.dicomweb.SLOW_SECONDS", 0.5)

    def drip(_path):
        while True:
            yield b" "
            time.sleep(0.05)

    with serving(drip) as (url, _):
        began = time.monotonic()
        with pytest.raises(ReadError, match="too slow"):
            packing(url, tmp_path)
        assert time.monotonic() - began < 60
