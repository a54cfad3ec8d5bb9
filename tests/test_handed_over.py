"""A database that somebody else made: no command of it runs, and it shows no file of this machine."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import stat
import threading
from pathlib import Path

import lance
import pytest

import indexer.encoders
from indexer.archive.reader import read_place
from indexer.archive.roots import is_below, remember, remembered, state_file
from indexer.archive.shards import find_shards
from indexer.errors import ReadError
from indexer.pipeline.run import index
from indexer.store.table import EmbeddingStore, identity_of
from indexer.types import Place
from tests.archives import png, write_tar
from tests.commands import call
from tests.fakes import FakeEncoder


@pytest.fixture(autouse=True)
def own_state(monkeypatch, tmp_path):
    """This user's state directory, in which no table is known at first."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(indexer.encoders, "load_spec", lambda _spec, **_options: FakeEncoder())


def indexed(tmp_path, source) -> EmbeddingStore:
    """A table of another user's: of its making this one knows nothing."""
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", FakeEncoder().spec)
    index(find_shards([str(source)]).shards, store, FakeEncoder())
    state_file().unlink(missing_ok=True)
    store.refresh()
    return store


def doctor(store: EmbeddingStore, url: str, **row: object) -> None:
    """Write what an attacker would: an address into the ledger, a place into every row."""
    ledger = lance.dataset(f"{store.uri}/t.shards.lance")
    ledger.update({"url": quoted(url)})
    if row:
        lance.dataset(f"{store.uri}/t.lance").update({k: quoted(str(v)) for k, v in row.items()})


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def drawn(store: EmbeddingStore, tmp_path: Path, *options: object) -> tuple[int, str]:
    """How many stored pictures a search's page shows, and the page."""
    page = tmp_path / "page.html"
    done = call("indexer", "search", store.uri, "--key", "a", "-k", 1, "--html", page, *options)
    assert done.code == 0, done.err
    return page.read_text().count("data:image/jpeg"), page.read_text()


def archive(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return write_tar(tmp_path / "in" / "s.tar", [("a.png", png(1)), ("b.png", png(2)), ("c.png", b"damaged")])


@pytest.mark.case("X1")
def test_a_stored_command_runs_neither_for_a_page_nor_for_a_retry(tmp_path):
    path, mark = archive(tmp_path), tmp_path / "MARK"
    store = indexed(tmp_path, path)
    command = f"pipe:touch {mark}; cat {path}"
    doctor(store, command)
    remember(identity_of(store), [str(path), command])
    count, page = drawn(
        store, tmp_path, "--png", tmp_path / "s.png", "--pictures-from", "/", "--pictures-from", "pipe:"
    )
    assert count == 0
    assert "is a command, and a command that a table names is never run" in page
    assert str(mark) not in page
    done = call("indexer", "failures", store.uri, "--retry", "--pictures-from", "/", "--pictures-from", command)
    assert done.code == 0, done.err
    assert "SHARDS... --retry" in done.out
    assert not mark.exists()


@pytest.mark.case("X1")
def test_pictures_come_from_where_this_user_indexed_the_table_from_or_from_where_he_says(tmp_path):
    path = archive(tmp_path)
    store = indexed(tmp_path, path)
    count, page = drawn(store, tmp_path)
    assert count == 0
    assert "name it with --pictures-from" in page
    assert drawn(store, tmp_path, "--pictures-from", tmp_path / "elsewhere")[0] == 0
    assert drawn(store, tmp_path, "--pictures-from", tmp_path / "in")[0] == 2
    index(find_shards([str(path)]).shards, store, FakeEncoder())
    assert drawn(store, tmp_path)[0] == 2


@pytest.mark.case("X1")
@pytest.mark.parametrize("how", ["absolute", "dots", "link", "shard"])
def test_a_crafted_row_shows_no_image_outside_the_roots(tmp_path, how):
    folder, secret = tmp_path / "in", tmp_path / "private" / "x.png"
    folder.mkdir()
    secret.parent.mkdir()
    secret.write_bytes(png(5))
    (folder / "a.png").write_bytes(png(1))
    store = indexed(tmp_path, folder)
    (folder / "link.png").symlink_to(secret)
    member = {"absolute": str(secret), "dots": "../private/x.png", "link": "link.png", "shard": "x.png"}[how]
    url = str(secret.parent if how == "shard" else folder)
    content = hashlib.sha256(secret.read_bytes()).hexdigest()
    doctor(store, url, key="a", member=member, content=content)
    remember(identity_of(store), [str(folder)])
    count, page = drawn(store, tmp_path)
    assert count == 0
    assert "leads out of the folder" in page or "--pictures-from" in page
    with pytest.raises(ReadError):
        read_place(url, Place("s", member, 0, 0, "png"), content, roots=[str(folder)])


@pytest.mark.case("X1")
def test_a_retry_reads_no_folder_that_a_table_names_by_itself(tmp_path):
    path = archive(tmp_path)
    store = indexed(tmp_path, path)
    write_tar(path, [("a.png", png(1)), ("b.png", png(2)), ("c.png", b"DAMAGED")])
    told = call("indexer", "failures", store.uri, "--retry", "--json").json
    assert told["images"] == 0
    assert "--pictures-from" in told["warnings"][0]


def test_the_roots_are_the_users_own_file_and_a_damaged_one_is_none(tmp_path):
    old = os.umask(0)
    try:
        assert remember("table", [str(tmp_path), f"{tmp_path}/no.tar", "https://ann:pw@h/a/b.tar", "pipe:cat x"])
    finally:
        os.umask(old)
    file = state_file()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert json.loads(file.read_text()) == {"table": sorted([str(tmp_path), "https://h/a"])}
    assert remember("other", ["/data"])
    assert set(json.loads(file.read_text())) == {"table", "other"}
    for damaged in ("[", "[]", '{"table": 3}', "", "[" * 100_000):
        file.write_text(damaged)
        assert remembered("table") == ()
        assert remember("table", [str(tmp_path)])
        assert remembered("table") == (str(tmp_path),)


@pytest.mark.parametrize(
    ("address", "root", "below"),
    [
        ("https://h/a/b.tar", "https://h/a", True),
        ("https://h/ab/b.tar", "https://h/a", False),
        ("https://h/a/../c/b.tar", "https://h/a", False),
        ("https://h/a/%2e%2e/c/b.tar", "https://h/a", False),
        ("https://h.evil/a/b.tar", "https://h", False),
        ("pipe:cat /a/b.tar", "pipe:cat /a", False),
        ("/a/../b/c.tar", "/a", False),
        ("/a/b/c.tar", "/a/b", True),
        ("/a/bc.tar", "/a/b", False),
        ("file:///etc/x.tar", "/etc", False),
    ],
)
def test_below_a_root_is_what_lies_in_it(address, root, below):
    assert is_below(address, [root]) is below


class Redirecting(http.server.BaseHTTPRequestHandler):
    """/here is a tar, /moved leads to it on this host, /away to another host's."""

    data, other, asked = b"", "", list[str]()

    def do_GET(self):
        self.asked.append(self.path)
        target = {"/moved": "/here", "/away": f"{self.other}/here"}.get(self.path)
        self.send_response(302 if target else 200)
        if target:
            self.send_header("Location", target)
        self.send_header("Content-Length", "0" if target else str(len(self.data)))
        self.end_headers()
        self.wfile.write(b"" if target else self.data)

    def log_message(self, *_):
        pass


@pytest.mark.case("X1", "X5")
def test_a_stored_url_is_not_followed_to_another_host(tmp_path):
    image = png(1)
    Redirecting.data = write_tar(tmp_path / "s.tar", [("a.png", image)]).read_bytes()
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) for _ in range(2)]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    here, Redirecting.other = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    place = Place("s", "a.png", Redirecting.data.index(image), len(image), "png")
    content = hashlib.sha256(image).hexdigest()
    try:
        assert read_place(f"{here}/here", place, content) == image
        assert read_place(f"{here}/moved", place, content, roots=[here]) == image
        Redirecting.asked.clear()
        with pytest.raises(ReadError, match="redirects to another host, which is not followed"):
            read_place(f"{here}/away", place, content, roots=[here])
        assert Redirecting.asked == ["/away"]
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
