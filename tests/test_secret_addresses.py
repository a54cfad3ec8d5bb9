"""What is written and shown of shards whose addresses hold passwords, and how such a table is used later."""

from __future__ import annotations

import http.server
import json
import threading
from dataclasses import replace

import pytest

from indexer.archive.shards import find_shards
from indexer.pipeline.retry import retry
from indexer.pipeline.run import index
from indexer.redact import former_name
from indexer.store.table import EmbeddingStore
from tests.archives import png, write_tar
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.secret_forms import FORMS, SECRETS, running

ENCODER = ("--encoder", "timm:test_efficientnet", "--weights", "random", "--device", "cpu", "--table", "t")
PARTS = 4  # so that two processes share the forms


class TarServer(http.server.BaseHTTPRequestHandler):
    """Gives one tar under each address."""

    data = b""

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(self.data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    served = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TarServer)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()


def no_secret(tmp_path, *shown):
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 10
    for secret in SECRETS:
        assert [text for text in shown if secret in text] == []
        assert [path for path in written if secret.encode() in path.read_bytes() or secret in str(path)] == []


@pytest.mark.case("X9")
@pytest.mark.parametrize("part", range(PARTS))
def test_no_byte_of_a_database_and_no_output_holds_a_secret_of_an_address(tmp_path, server, part):
    mixed = write_tar(tmp_path / "mixed.tar", [("good.png", png(part)), ("bad.png", b"no image")])
    cut = write_tar(tmp_path / "cut.tar", [("good.png", png(9)), ("more.png", png(part))])
    cut.write_bytes(cut.read_bytes()[:1500])
    TarServer.data = mixed.read_bytes()
    numbers = range(part, len(FORMS), PARTS)
    sources = []
    for n in numbers:
        path = tmp_path / f"{n}.tar"  # of its own, since addresses that differ in a known secret alone are one shard
        path.hardlink_to(cut if n % 8 < PARTS else mixed)
        sources.append(running(n, path))
    sources.append(f"pipe:cat {mixed}; echo {SECRETS[0]} >/dev/null; exit 3")
    sources += [f"{server}/{n}.tar?{name}={SECRETS[n % 2]}" for n, name in enumerate(("pass", "jwt", "session", "id"))]
    db = tmp_path / "db"
    done = call("indexer", "index", *sources, db, *ENCODER, "--max-failures", "1")
    store = EmbeddingStore.open(str(db))
    assert store.count() >= 1
    assert store.failures().num_rows >= len(sources)
    assert store.ledger().num_rows == len(sources)
    commands = (("info",), ("failures",), ("failures", "--summary"), ("health",), ("failures", "--retry"))
    later = [call("indexer", name, db, *options) for name, *options in commands]
    page = tmp_path / "page.html"
    later.append(call("indexer", "search", db, "--key", "good", "--html", page))
    no_secret(tmp_path, *(text for each in (done, *later) for text in (each.out, each.err)))


def test_errors_about_such_addresses_hold_no_secret(tmp_path):
    for source in (
        f"https://u:{SECRETS[0]}@127.0.0.1:9/a.tar?pass={SECRETS[1]}",
        f"nowhere/{{a,https://x:{SECRETS[0]}@h",
    ):
        done = call("indexer", "index", source, tmp_path / "db", *ENCODER)
        assert done.code == 1
        assert not any(secret in done.out + done.err for secret in SECRETS)


def failing(tmp_path, *, mend: bool = False):
    """A tar with an image that cannot be decoded, or, mended under the same size, can."""
    path = tmp_path / "s.tar"
    image = png(2)
    write_tar(path, [("a.png", png(1)), ("b.png", image if mend else b"x" * len(image))])
    return path


def test_failures_are_read_again_from_addresses_that_are_not_stored_when_they_are_named(tmp_path):
    path = failing(tmp_path)
    address = f"pipe:cat {path} # {SECRETS[0]}"
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", FakeEncoder().spec)
    index(find_shards([address]).shards, store, FakeEncoder())
    failing(tmp_path, mend=True)
    told = retry(store, FakeEncoder())
    assert (told.images, "SHARDS... --retry" in told.warnings[0]) == (0, True)
    assert retry(store, FakeEncoder(), sources=[address]).embedded == 1
    store.refresh()
    assert (store.count(), store.failures().num_rows) == (2, 0)


@pytest.mark.parametrize("address", ["pipe:cat {} # --pass {}", "pipe:cat {} | env X={} cat"])
def test_a_shard_that_the_version_before_named_in_its_own_way_is_recognised(tmp_path, address):
    path = failing(tmp_path)
    (shard,) = find_shards([address.format(path, "opensesame")]).shards
    old = replace(shard, name=former_name(shard.url))
    assert old.name != shard.name
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", FakeEncoder().spec)
    index([old], store, FakeEncoder())
    report = index([shard], store, FakeEncoder())
    assert (report.shards_skipped, report.images) == (1, 0)
    assert store.ledger().column("shard").to_pylist() == [old.name]
    failing(tmp_path, mend=True)
    assert retry(store, FakeEncoder(), sources=[shard.url]).embedded == 1
    store.refresh()
    assert set(store.scan(["shard"]).__next__().column("shard").to_pylist()) == {old.name}


def test_a_record_of_a_run_names_programs_and_not_their_commands(tmp_path):
    path = failing(tmp_path)
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", FakeEncoder().spec)
    call("indexer", "index", f"pipe:A=1 cat {path}", tmp_path / "cli", *ENCODER)
    assert store.count() == 0
    (manifest,) = (tmp_path / "cli").glob("t.runs/*/manifest.json")
    command = json.loads(manifest.read_text())["command"]
    assert [word.partition("#")[0] for word in command if word.startswith("pipe:")] == ["pipe:cat"]
