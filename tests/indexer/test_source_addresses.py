"""Tables that list addresses: fetched within bounds, read back by reference, each failure in its own row."""

from __future__ import annotations

import hashlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.archive.reader import read_place, read_shard
from indexer.archive.roots import remembered
from indexer.archive.shards import find_shards
from indexer.archive.tables import listed
from indexer.archive.tables.named import TableOptions
from indexer.errors import InputError, ReadError
from indexer.pipeline.retry import retry
from indexer.remote import stream, whole
from indexer.store.rows import PLACE_COLUMNS, place_of
from indexer.store.table import EmbeddingStore, identity_of
from indexer.types import Failure, Place, Sample
from tests.archives import png
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.object_store import server
from tests.source_doors import content, run
from tests.sources import as_folder, fields, pixels, ppm
from tests.web_files import SIGNATURE, web_server

__all__ = ["server"]
N = 20


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PAUSES", (0.01,) * 2)


def table(path, addresses, form=""):
    rows = [{"url": address, **facts} for address, facts in zip(addresses, fields(N), strict=False)]
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
    else:
        lines = [",".join(map(str, row.values())) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *lines]))
    return path


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
@pytest.mark.parametrize("where", ["http", "s3"])
def test_addresses_in_a_column_give_the_rows_of_the_files_in_order_and_are_read_back(tmp_path, server, name, where):
    folder = as_folder(tmp_path / "web", N)
    with web_server(folder, cut=where == "http") as (web, address):
        root = address if where == "http" else server.fresh()
        if where == "s3":
            for path in folder.glob("*.ppm"):
                server.put(f"{root}/{path.name}", path.read_bytes())
        source = table(tmp_path / name, [f"{root}/{i:02d}.ppm" for i in range(N)])
        (shard,) = find_shards([str(source)], tables=TableOptions("url")).shards
        assert [s.key for s in read_shard(shard)] == [f"{root}/{i:02d}.ppm" for i in range(N)]
        report = run(source, tmp_path / "db", tables={"image": "url"})
        assert (report.embedded, report.failed) == (N, 0)
        found = content(tmp_path / "db")
        for i, (pixel, facts) in enumerate(zip(pixels(N), fields(N), strict=True)):
            assert found[hashlib.sha256(ppm(pixel)).hexdigest()][2] == {"url": f"{root}/{i:02d}.ppm", **facts}
        asked = web.asked
        assert run(source, tmp_path / "db", tables={"image": "url"}).shards_skipped == 1
        assert web.asked == asked
        store = EmbeddingStore.open(str(tmp_path / "db"))
        roots = remembered(identity_of(store))
        assert set(roots) == {str(tmp_path), root if where == "http" else "s3://archive"}
        (batch,) = store.scan([*PLACE_COLUMNS, "content"])
        row = batch.to_pylist()[3]
        assert read_place(str(source), place_of(row), row["content"], roots=roots)
        with pytest.raises(ReadError, match="--pictures-from"):
            read_place(str(source), place_of(row), row["content"], roots=[str(tmp_path)])


@pytest.mark.parametrize("name", ["s.csv", "s.parquet"])
def test_signatures_and_logins_in_a_table_are_used_and_stored_nowhere(tmp_path, name):
    with web_server(as_folder(tmp_path / "web", N), signed=True) as (_, address):
        named = [f"{address.replace('//', '//me:hush@')}/{i:02d}.ppm{SIGNATURE}" for i in range(N)]
        source = table(tmp_path / name, named)
        assert run(source, tmp_path / "db", tables={"image": "url"}).embedded == N
        for path in (tmp_path / "db").rglob("*"):
            data = path.read_bytes() if path.is_file() else b""
            assert b"abcdef0123456789" not in data
            assert b"hush" not in data
        store = EmbeddingStore.open(str(tmp_path / "db"))
        (batch,) = store.scan(["key", *PLACE_COLUMNS, "content"])
        for row in batch.to_pylist()[:4]:  # the signature is taken from the table as it is now
            assert row["key"].startswith(f"{address}/")
            data = read_place(str(source), place_of(row), row["content"], roots=[str(tmp_path), address])
            assert hashlib.sha256(data).hexdigest() == row["content"]


def test_each_row_that_cannot_be_fetched_is_a_failure_with_its_reason_and_is_retried_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(listed, "MAX_FETCHED", 4000)
    folder = as_folder(tmp_path / "web", 3)
    (folder / "big.png").write_bytes(b"x" * 4001)
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("<html>")
    with web_server(folder) as (web, address):
        web.answers = {"/away.png": 302, "/busy.png": 503, "/01.ppm": 500}
        web.leads_to = "http://localhost:9/elsewhere.png"
        names = ["00.ppm", "01.ppm", "gone.png", "big.png", "empty.png", "text.png", "away.png", "busy.png", "02.ppm"]
        addresses = [f"{address}/{name}" for name in names]
        addresses += ["pipe:touch mark", "http://127.0.0.1:9/a.png", "http://bad host/", "file:///etc/hostname", ""]
        source = table(tmp_path / "s.csv", addresses)
        report = run(source, tmp_path / "db", tables={"image": "url"})
        assert (report.embedded, report.failed) == (2, 12)
        store = EmbeddingStore.open(str(tmp_path / "db"))
        failed = {f["key"].rpartition("/")[2]: (f["reason"], f["detail"]) for f in store.failures().to_pylist()}
        words = {"01.ppm": "500", "gone.png": "404", "big.png": "over 4,000 bytes", "away.png": "another host",
                 "busy.png": "503"}  # fmt: skip
        for name, part in words.items():
            assert failed[name][0] == "unreadable file"
            assert part in failed[name][1]
        assert failed["empty.png"][0] == "empty file"
        assert failed["hostname"][0] == "file outside the folder"
        assert [f["reason"] for f in store.failures("stage = 'decode'").to_pylist()] == ["not an image"]
        assert "an address that is not fetched" in {reason for reason, _ in failed.values()}
        web.answers.clear()
        web.asked = 0
        again = retry(store, FakeEncoder())
        assert (again.embedded, again.failed) == (1, 1)  # the text is no image still; the others stay as they are
        assert web.asked < 8 + 3  # none of those that are stored
    assert not (tmp_path / "mark").exists()


def test_a_server_that_does_not_answer_is_left_after_a_few_addresses(tmp_path):
    with web_server(tmp_path) as (web, address):
        web.answers = {f"/{i}.png": 503 for i in range(60)}
        source = table(tmp_path / "s.csv", [f"{address}/{i}.png" for i in range(N)] * 3)
        (shard,) = find_shards([str(source)], tables=TableOptions("url")).shards
        found = list(read_shard(shard))
        assert len(found) == len(source.read_text().splitlines()) - 1
        assert all(isinstance(item, Failure) for item in found)
        assert "did not answer" in found[-1].detail
        assert web.asked <= 3 * (whole.GIVE_UP + listed.READERS)


def test_relative_paths_are_read_below_the_address_that_the_user_named_and_nothing_else(tmp_path):
    (tmp_path / "web" / "in").mkdir(parents=True)
    for name in ("in/a.png", "b.png"):
        (tmp_path / "web" / name).write_bytes(png(1))
    with web_server(tmp_path / "web") as (_, address):
        paths = ["a.png", "../b.png", f"{address}/b.png", f"{address}/in/a.png?x=1", "a.png?x=2"]
        source = table(tmp_path / "s.csv", paths)
        (shard,) = find_shards([str(source)], tables=TableOptions("url", "", f"{address}/in")).shards
        items = list(read_shard(shard))
        assert [type(item) for item in items] == [Sample, Failure, Failure, Sample, Sample]
        assert items[0].key == f"{address}/in/a.png"
        for item in (items[0], *items[3:]):
            place = Place(shard.name, item.member, item.offset, item.nbytes, item.suffix)
            content = hashlib.sha256(png(1)).hexdigest()
            assert read_place(str(source), place, content, roots=[str(tmp_path), f"{address}/in"]) == png(1)
        forged = Place(shard.name, f"{address}/b.png", 0, 1, "png")
        with pytest.raises(ReadError, match="--pictures-from"):
            read_place(str(source), forged, hashlib.sha256(png(1)).hexdigest(), roots=[str(tmp_path), f"{address}/in"])
    with pytest.raises(InputError, match="leave the login"):
        find_shards([str(source)], tables=TableOptions("url", "", "https://me:pw@example.org/x"))


def test_the_command_reads_a_column_of_addresses_and_its_pages_show_them(tmp_path):
    with web_server(as_folder(tmp_path / "web", 5)) as (_, address):
        source = table(tmp_path / "s.csv", [f"{address}/{i:02d}.ppm" for i in range(5)])
        done = call("indexer", "index", source, tmp_path / "db", "--image-column", "url", "--json")
        assert done.json["embedded"] == 5, done.err
        assert "5 addresses on 1 server are fetched" in done.err
        page = tmp_path / "p.html"
        found = call("indexer", "search", tmp_path / "db", "--key", f"{address}/00.ppm", "--html", page)
        assert found.code == 0, found.err
        assert page.read_text().count("data:image") >= 5
