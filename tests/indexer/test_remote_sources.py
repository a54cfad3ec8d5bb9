"""Archives in object stores and on web servers give the samples that the same files give on a disk."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import time
from pathlib import Path

import pytest

from indexer.addresses import read_range
from indexer.archive.reader import read_place, read_shard
from indexer.archive.shards import find_shards
from indexer.errors import ReadError, ShardNotFound
from indexer.pipeline.run import index
from indexer.pipeline.run_record import runs
from indexer.remote import objects, stream
from indexer.store.table import EmbeddingStore
from indexer.types import Place, Sample
from tests.archives import png, shard
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.object_store import SECRET, ObjectStore, no_fault, server
from tests.web_files import SIGNATURE, web_server

__all__ = ["server"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "PAUSES", (0.01,) * 4)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two shards, one of them compressed too, and a folder of loose images with JSON beside some of them."""
    root = tmp_path_factory.mktemp("local")
    (root / "shards").mkdir()
    for number in range(2):
        shard(root / "shards" / f"{number:03d}.tar", list(range(number * 8, number * 8 + 8)))
    (root / "zipped.tar.gz").write_bytes(gzip.compress((root / "shards" / "000.tar").read_bytes()))
    for seed in range(12):
        path = root / "loose" / f"class{seed % 2}" / f"im {seed}é.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(seed))
        if seed % 3 == 0:
            path.with_suffix(".json").write_text(json.dumps({"n": seed}))
    (root / "loose" / "notes.txt").write_text("not an image")
    return root


def uploaded(server: ObjectStore, folder: Path) -> str:
    """Every file of a folder as an object; the prefix."""
    prefix = server.fresh()
    for path in folder.rglob("*"):
        if path.is_file():
            server.put(f"{prefix}/{path.relative_to(folder).as_posix()}", path.read_bytes())
    server.seen.clear()
    return prefix


def contents(*sources: str) -> list[tuple[object, ...]]:
    found = [item for one in find_shards(sources).shards for item in read_shard(one)]
    assert all(isinstance(item, Sample) for item in found), found
    return sorted((s.key, s.suffix, s.image, s.offset, json.dumps(s.metadata), s.member) for s in found)  # type: ignore[union-attr]


@pytest.mark.parametrize("source", ["{}/shards", "{}/shards/", "{}/shards/*.tar", "{}/**/00[01].tar",
                                    "{}/shards/{{000,001}}.tar"])  # fmt: skip
def test_prefixes_globs_and_braces_of_an_object_store_are_the_files_of_the_folder(server, local, source) -> None:
    prefix = uploaded(server, local)
    assert contents(source.format(prefix)) == contents(str(local / "shards"))


@pytest.mark.case("O4")
def test_a_compressed_object_is_read_as_the_file_is(server, local) -> None:
    assert contents(f"{uploaded(server, local)}/zipped.tar.gz") == contents(str(local / "zipped.tar.gz"))


def test_loose_images_below_a_prefix_are_those_of_the_folder_with_the_json_beside_them(server, local) -> None:
    prefix = uploaded(server, local / "loose")
    assert contents(prefix) == contents(str(local / "loose"))
    assert any("notes.txt" in note for note in find_shards([prefix]).notes)


def test_a_file_address_is_its_path(local) -> None:
    assert find_shards([(local / "shards").as_uri()]).shards == find_shards([str(local / "shards")]).shards


def test_an_object_that_changed_has_another_identity_and_one_that_did_not_the_same(server, local) -> None:
    prefix = uploaded(server, local / "shards")
    before = {one.name: one.identity for one in find_shards([prefix]).shards}
    assert {one.name: one.identity for one in find_shards([f"{prefix}/*.tar"]).shards} == before
    alone = find_shards([f"{prefix}/000.tar"]).shards[0]
    assert alone.identity == before[alone.name]  # asked for by name and found in a listing
    server.put(f"{prefix}/001.tar", (local / "shards" / "000.tar").read_bytes())
    after = {one.name: one.identity for one in find_shards([prefix]).shards}
    assert [name.rpartition("/")[2] for name in before if after[name] != before[name]] == ["001.tar"]


@pytest.mark.case("O4")
def test_six_pictures_of_a_remote_shard_read_little_more_than_their_own_bytes(server, local, tmp_path) -> None:
    shard(tmp_path / "big.tar", list(range(40)), {"text": "x" * 5000})
    prefix = uploaded(server, tmp_path)
    samples = [s for one in find_shards([prefix]).shards for s in read_shard(one)]
    server.seen.clear()
    for s in samples[:6]:
        place = Place(s.shard, s.member, s.offset, s.nbytes, s.suffix)
        assert read_place(s.shard, place, hashlib.sha256(s.image).hexdigest()) == s.image
    assert server.bytes_read("big.tar") <= sum(s.nbytes for s in samples[:6]) + 16
    assert len(server.seen) <= 7


@pytest.mark.parametrize("fault", ["429", "500 before", "500 after", "reset after", "cut"])
def test_an_object_is_read_whole_in_spite_of_broken_answers(server, local, fault) -> None:
    prefix, asked = uploaded(server, local / "shards"), []

    def rule(method: str, path: str, headers: object) -> str:
        asked.append(path)
        return fault if len(asked) % 3 == 2 else ""

    server.rule = rule
    assert contents(prefix) == contents(str(local / "shards"))
    assert len(asked) > 3


@pytest.mark.parametrize("changes", [False, True])
@pytest.mark.parametrize("tagged", [False, True])
def test_an_object_whose_connection_breaks_is_read_on_or_told_to_have_changed(server, monkeypatch, tagged, changes):
    monkeypatch.setattr("indexer.remote.stream.PAUSES", (0, 0, 0, 0))
    address, content = f"{server.fresh()}/a.bin", bytes(range(256)) * 8000
    server.put(address, content)
    asked = []

    def rule(method, path, headers):
        asked.append(method)
        if changes and len(asked) == 2:  # as long as before: only its tag, or its time, tells
            time.sleep(0 if tagged else 1.1)  # a time of modification is of whole seconds
            server.put(address, content[::-1])
        words = ["cut"] if len(asked) == 1 else []
        return ", ".join([*words, *([] if tagged else ["untagged"])])

    server.rule = rule
    if changes:
        with pytest.raises(OSError, match="changed while it was read"):
            objects.read(address)
    else:
        assert objects.read(address) == content
    assert len(asked) >= 2
    server.rule = no_fault


def test_a_database_is_built_from_a_bucket_into_the_bucket_and_resumes_there(server, local) -> None:
    prefix, encoder = uploaded(server, local / "shards"), FakeEncoder()
    store = EmbeddingStore.create(f"{prefix}-db", "fake", encoder.spec)
    shards = find_shards([prefix]).shards
    assert index(shards[:1], store, encoder).embedded == 8
    report = index(shards, store, encoder)
    assert (report.embedded, report.shards_skipped) == (8, 1)
    records = runs(EmbeddingStore.open(f"{prefix}-db"))
    assert [(facts["status"], facts["report"]["embedded"]) for facts in records] == [("done", 8), ("done", 8)]
    assert SECRET not in json.dumps(records)
    assert SECRET not in json.dumps(store.ledger().to_pylist(), default=str)


@pytest.mark.case("O4")
def test_what_cannot_be_found_or_reached_is_one_line_without_secrets(server, monkeypatch) -> None:
    for address in (f"{server.fresh()}/none.tar", "s3://no-such-bucket/x/*.tar", "s3://no-such-bucket/x.tar"):
        with pytest.raises(ShardNotFound) as error:
            find_shards([address])
        assert "\n" not in str(error.value)
        assert SECRET not in str(error.value)
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    for arguments in (["info", "s3://archive/db"], ["failures", "s3://archive/db"]):
        done = call("indexer", *arguments)
        assert (done.code, done.err.count("\n")) == (1, 1), done.err
        assert SECRET not in done.err


@pytest.mark.case("O3")
def test_packing_into_an_object_store_is_done_there_and_never_in_a_local_folder(server, local, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = call("indexer", "pack", local / "loose", "s3://archive/x")
    assert done.code == 0, done.err
    assert "archive/x/shard-000000.tar" in server.names()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["shards/000.tar", "zipped.tar.gz"])
@pytest.mark.parametrize("settings", [{}, {"ranges": False}, {"cut": True}, {"cut": True, "ranges": False}])
def test_a_web_server_gives_what_the_file_gives_with_and_without_ranges_and_broken_connections(
    local, name, settings
) -> None:
    with web_server(local, **settings) as (_, address):
        assert contents(f"{address}/{name}") == contents(str(local / name))
        assert read_range(f"{address}/{name}", 512, 100) == read_range(str(local / name), 512, 100)


@pytest.mark.case("O4")
def test_a_presigned_address_is_read_by_get_alone_its_pictures_too_and_its_signature_stays_nowhere(local) -> None:
    with web_server(local, signed=True) as (web, address):
        url = f"{address}/shards/000.tar{SIGNATURE}"
        (found,) = find_shards([url]).shards
        assert "abcdef" not in found.name
        samples = [s for s in read_shard(found) if isinstance(s, Sample)]
        assert len(samples) == 8
        first = samples[0]
        place, content = Place(found.name, first.member, first.offset, first.nbytes, "png"), first.image
        digest = hashlib.sha256(content).hexdigest()
        web.sent = 0
        assert read_place(found.name, place, digest, roots=[url]) == content
        assert web.sent <= first.nbytes + 64  # a few bytes more where a connection was lost
        with pytest.raises(ReadError):
            read_place(found.name, place, digest, roots=[address])


def test_a_file_that_changes_while_it_is_read_is_an_error_not_a_mixture(local, tmp_path) -> None:
    shutil.copy(local / "shards" / "000.tar", tmp_path / "a.tar")
    with web_server(tmp_path, cut=True) as (web, address):
        (found,) = find_shards([f"{address}/a.tar"]).shards
        web.asked = 2  # the next answer is cut
        web.after_cut = lambda: shutil.copy(local / "shards" / "001.tar", tmp_path / "a.tar")  # type: ignore[method-assign]
        with pytest.raises(ReadError, match="changed while it was read"):
            list(read_shard(found))
