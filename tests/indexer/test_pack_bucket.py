"""`indexer pack` into a bucket: the same shards as in a folder, whole or not at all, and resumed as there."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from indexer.archive.shards import find_shards
from indexer.errors import InputError
from indexer.pack.destination import Prefix
from indexer.pack.run import PackOptions, pack
from indexer.remote import objects
from tests.archives import png
from tests.commands import call
from tests.object_store import server

__all__ = ["server"]
STATE = (".pack/pack.lease", ".pack/lock")  # of the lock, in a bucket and in a folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("in")
    for number in range(9):
        (folder / f"{number}.png").write_bytes(png(number))
    (folder / "large.png").write_bytes(png(10) + random.Random(1).randbytes(7 << 20))  # uploaded in several parts
    (folder / "no.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def truth(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("truth")
    pack(options(source, folder))
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if name not in STATE}


def options(source: Path, destination: Path | str, **more) -> PackOptions:
    return PackOptions(str(source), destination, shard_files=3, **more)


def stored(server, address: str) -> dict[str, bytes]:
    below = f"{address.removeprefix('s3://')}/"
    names = [name.removeprefix(below) for name in server.names() if name.startswith(below)]
    return {name: objects.read(f"{address}/{name}") for name in names if name not in STATE}


def test_a_bucket_gets_the_shards_records_and_list_of_a_folder_byte_for_byte(server, source, truth) -> None:
    address = server.fresh()
    done = call("indexer", "pack", source, address, "--shard-files", "3", "--json")
    assert (done.code, done.json["packed"], done.json["shards"], done.json["destination"]) == (0, 10, 4, address)
    assert done.json["list_of_files"] == f"{address}/.pack/files.csv"
    assert stored(server, address) == truth
    found = find_shards([f"{address}/"])
    assert [shard.url.rpartition("/")[2] for shard in found.shards] == sorted(n for n in truth if n.endswith(".tar"))
    assert not any("not read" in note for note in found.notes)
    again = pack(options(source, address))
    assert again.shards_kept == again.shards


def test_whatever_request_is_the_last_the_next_run_goes_on_and_none_is_cut(server, source, truth, monkeypatch) -> None:
    monkeypatch.setattr("indexer.remote.objects.RETRIES", {"max_retries": 0})
    objects._kept.cache_clear()
    address, kept, at = server.fresh(), [], 1
    while True:
        sent: list[str] = []

        def rule(method: str, path: str, headers: object, sent: list[str] = sent, at: int = at) -> str:
            if method in ("PUT", "POST") and ".pack/pack.lease" not in path:
                sent.append(path)
                return "reset after" if len(sent) == at else "500 before" if len(sent) > at else ""
            return ""

        server.rule = rule
        try:
            report = pack(options(source, address))
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - one line, and the way out
            whole = {name: data for name, data in stored(server, address).items() if name.endswith(".tar")}
            assert whole.items() <= truth.items()
            kept.append(len(whole))
            at += 3  # each run gets a little farther
            continue
        break
    objects._kept.cache_clear()
    assert kept == sorted(kept)
    assert report.shards_kept > 0
    assert stored(server, address) == truth


def test_another_run_in_the_bucket_and_shards_of_another_plan_are_refused_in_one_line(server, source) -> None:
    address = server.fresh()
    with Prefix(address).alone():
        held = call("indexer", "pack", source, address)
    assert (held.code, held.err.count("\n"), "is being written by process" in held.err) == (1, 1, True)
    pack(options(source, address))
    other = call("indexer", "pack", source, address, "--shard-files", "5")
    assert (other.code, "Overwrite them with --replace" in other.err) == (1, True), other.err
    assert pack(PackOptions(str(source), address, shard_files=5, replace=True)).shards == 2
    assert [name for name in stored(server, address) if name.endswith(".tar.json")] == [
        ".pack/shard-000000.tar.json",
        ".pack/shard-000001.tar.json",
    ]


@pytest.mark.parametrize("address", ["https://host/x", "s3://"])
def test_what_is_no_bucket_is_refused_before_any_work(source, address) -> None:
    done = call("indexer", "pack", source, address)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "Name one" in done.err
