"""`indexer list` writes a manifest, and a manifest is a source of the same shards as the archive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from indexer.archive.reader import read_shard
from indexer.archive.remote import manifest
from indexer.archive.shards import find_shards
from indexer.pipeline.run import index
from indexer.remote import objects
from indexer.remote.objects import Listed
from indexer.remote.stream import Facts
from indexer.store.table import EmbeddingStore
from tests.archives import png, shard
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.memory import least_peak
from tests.object_store import server

__all__ = ["server"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "a" / "shards").mkdir(parents=True)
    (tmp_path / "a" / "loose" / "x").mkdir(parents=True)
    for number in range(2):
        shard(tmp_path / "a" / "shards" / f"{number}.tar", list(range(number * 3, number * 3 + 3)))
    for seed in range(5):
        (tmp_path / "a" / "loose" / "x" / f"{seed}.png").write_bytes(png(seed))
    (tmp_path / "a" / "loose" / "x" / "1.json").write_text('{"n": 1}')
    (tmp_path / "a" / "loose" / "notes.txt").write_text("no image")
    return tmp_path / "a"


def shards_of(*sources: str) -> list[tuple[object, list[str]]]:
    found = [(replace(one, files=()), one.nbytes, list(one.files)) for one in find_shards(sources).shards]
    return sorted(found, key=lambda item: item[0].name)  # type: ignore[attr-defined]


@pytest.mark.parametrize("part", ["shards", "loose"])
@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_a_manifest_is_a_source_of_the_same_shards_as_what_it_lists(server, archive, tmp_path, part, where) -> None:
    source = str(archive / part)
    if where == "bucket":
        source = server.fresh()
        for path in (archive / part).rglob("*.*"):
            server.put(f"{source}/{path.relative_to(archive / part).as_posix()}", path.read_bytes())
    out = tmp_path / "m.parquet"
    done = call("indexer", "list", source, "--out", out, "--json")
    assert done.code == 0, done.err
    assert (done.json["shards"], done.json["images"]) == ((2, 0) if part == "shards" else (0, 5))
    assert ("notes.txt" in done.err) == (part == "loose")
    assert shards_of(str(out)) == shards_of(source)
    server.seen.clear()
    find_shards([str(out)])
    assert server.seen == []  # nothing is listed or asked again
    images = [sample.image for one in find_shards([str(out)]).shards for sample in read_shard(one)]  # type: ignore[union-attr]
    assert len(images) == (6 if part == "shards" else 5)


def test_a_run_over_a_manifest_goes_on_where_one_over_the_archive_stopped(archive, tmp_path) -> None:
    encoder = FakeEncoder()
    store = EmbeddingStore.create(str(tmp_path / "db"), "fake", encoder.spec)
    assert index(find_shards([str(archive / "shards")]).shards[:1], store, encoder).embedded == 3
    assert call("indexer", "list", archive / "shards", "--out", tmp_path / "m.parquet").code == 0
    report = index(find_shards([str(tmp_path / "m.parquet")]).shards, store, encoder)
    assert (report.embedded, report.shards_skipped) == (3, 1)


def test_listing_holds_a_batch_of_objects_whatever_their_number(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(manifest, "ROWS", 1000)

    def peak(count: int) -> int:
        def listed(_: object) -> Iterator[Listed]:
            return (Listed(f"{n:09}.png", Facts(f"tag{n}-100", 100)) for n in range(count))

        monkeypatch.setattr(objects, "listed", listed)
        used = least_peak(lambda: manifest.write_manifest(["s3://bucket/x/"], tmp_path / "m.parquet"))
        assert pq.ParquetFile(tmp_path / "m.parquet").metadata.num_rows == count
        return used

    assert peak(50_000) < 10e6  # of these rows in memory each would take 600 bytes


def test_nothing_to_list_and_a_wrong_name_are_one_line_and_no_file(archive, tmp_path) -> None:
    for arguments in (["nowhere"], [str(archive / "loose" / "notes.txt")]):
        done = call("indexer", "list", *arguments, "--out", tmp_path / "m.parquet")
        assert (done.code, done.err.count("\n")) == (1, 1), done.err
    assert call("indexer", "list", archive, "--out", tmp_path / "m.csv").code == 2
    assert not list(tmp_path.glob("*.parquet"))
