"""Tables of one encoder from several sites are joined: each shard once, with columns, labels and failures."""

from __future__ import annotations

import pytest

from indexer.archive.shards import find_shards
from indexer.errors import EncoderMismatch, InputError
from indexer.pipeline.run import index
from indexer.progress.silent import SILENT
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.upkeep.merge import MergeReport, merge
from tests.archives import png, shard, write_tar
from tests.cluster.truth import contents
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.killed import killed_after


def indexed(database, *archives, encoder: FakeEncoder | None = None) -> str:
    encoder = encoder or FakeEncoder()
    store = EmbeddingStore.create(str(database), "fake", encoder.spec)
    index(find_shards([str(archive) for archive in archives]).shards, store, encoder)
    return str(database)


def merged(database: str, *others: str, keep: bool = False) -> MergeReport:
    with StoreWriter(EmbeddingStore.open(database)) as writer:
        return merge(writer, [EmbeddingStore.open(other) for other in others], SILENT, keep=keep)


@pytest.fixture
def sites(tmp_path):
    """Archives: one of each of three sites, and one that the first two share."""
    own = [shard(tmp_path / f"{n}.tar", list(range(10 * n, 10 * n + 7)), {f"only{n}": n}) for n in range(3)]
    bad = write_tar(tmp_path / "bad.tar", [("x.png", b"\x89PNG no"), ("y.png", png(900))])
    return own, bad


def test_a_merge_of_sites_equals_the_table_of_all_their_archives(tmp_path, sites) -> None:
    (first, second, third), shared = sites
    a = indexed(tmp_path / "a", first, shared)
    b, c = indexed(tmp_path / "b", second, shared), indexed(tmp_path / "c", third)
    truth = contents(indexed(tmp_path / "all", first, shared, second, third))
    report = merged(a, b, c)
    assert (report.shards, report.rows, report.same, report.columns) == (2, 14, 1, ["only1", "only2"])
    assert contents(a) == truth
    again = merged(a, b, c)
    assert (again.shards, again.rows, again.same) == (0, 0, 3)
    assert contents(a) == truth


def test_labels_come_along_and_those_of_the_table_stay(tmp_path, sites) -> None:
    (first, second, _), _ = sites
    a, b = indexed(tmp_path / "a", first), indexed(tmp_path / "b", second)
    for database, rows in ((a, "im0,1,\nim1,2,\n"), (b, "im10,3,x\nim12,,y\n")):
        (tmp_path / "labels.csv").write_text("key,grade,note\n" + rows)
        assert call("indexer", "labels", database, str(tmp_path / "labels.csv")).code == 0
    done = call("indexer", "merge", a, b, "--json")
    assert (done.code, done.json["labelled"]) == (0, 2)
    rows = contents(a)["rows"]
    found = {key: (row["grade"], row.get("note")) for key, row in rows.items() if row["grade"] or row.get("note")}
    assert {key: (float(grade) if grade is not None else None, note) for key, (grade, note) in found.items()} == {
        "im0": (1, None), "im1": (2, None), "im10": (3, "x"), "im12": (None, "y"),
    }  # fmt: skip


@pytest.mark.parametrize("step", range(1, 6))
def test_a_merge_that_was_killed_goes_on(tmp_path, sites, step) -> None:
    (first, second, _), shared = sites
    a, b = indexed(tmp_path / "a", first), indexed(tmp_path / "b", second, shared)
    truth = contents(indexed(tmp_path / "all", first, second, shared))
    with killed_after(step):
        merged(a, b)
        raise RuntimeError("killed")  # it has fewer steps
    merged(a, b)
    assert contents(a) == truth


def test_a_shard_with_other_images_stops_a_merge_before_anything_is_written(tmp_path, sites) -> None:
    (first, second, _), _ = sites
    a = indexed(tmp_path / "a", first)
    shard(first, [50, 51])
    b = indexed(tmp_path / "b", second, first)
    before = contents(a)
    with pytest.raises(InputError, match="other content") as refused:
        merged(a, b)
    assert str(first) in str(refused.value)
    assert contents(a) == before
    report = merged(a, b, keep=True)
    assert (report.shards, report.kept) == (1, [str(first)])
    assert {key: row for key, row in contents(a)["rows"].items() if key in before["rows"]}.keys() == before[
        "rows"
    ].keys()


def test_sites_that_differ_among_themselves_stop_a_merge_before_anything_is_written(tmp_path, sites) -> None:
    (first, second, _), _ = sites
    a, b = indexed(tmp_path / "a", first), indexed(tmp_path / "b", second)
    shard(second, [50, 51])
    c, before = indexed(tmp_path / "c", second), contents(a)
    with pytest.raises(InputError, match=f"other content in {c} than in {b}"):
        merged(a, b, c)
    assert contents(a) == before
    report = merged(a, b, c, keep=True)
    assert (report.shards, report.kept) == (1, [str(second)])
    assert "im50" not in contents(a)["rows"]


def test_labels_of_two_types_among_the_sites_are_refused_and_not_left_out(tmp_path, sites) -> None:
    (first, second, third), _ = sites
    a, b, c = indexed(tmp_path / "a", first), indexed(tmp_path / "b", second), indexed(tmp_path / "c", third)
    for database, rows in ((b, "im10,3\n"), (c, "im20,poor\n")):
        (tmp_path / "labels.csv").write_text("key,grade\n" + rows)
        assert call("indexer", "labels", database, str(tmp_path / "labels.csv")).code == 0
    before = contents(a)
    with pytest.raises(InputError, match="labels in columns of two types: grade"):
        merged(a, b, c)
    assert contents(a) == before


def test_a_shard_that_was_only_copied_counts_once(tmp_path, sites) -> None:
    (first, _, _), _ = sites
    a = indexed(tmp_path / "a", first)
    first.touch()  # another time of change, the same images
    b = indexed(tmp_path / "b", first)
    assert (merged(a, b).same, merged(a, b).shards) == (1, 0)


def test_other_encoders_and_the_table_itself_are_refused(tmp_path, sites) -> None:
    (first, second, _), _ = sites
    a, b = indexed(tmp_path / "a", first), indexed(tmp_path / "b", second, encoder=FakeEncoder(seed=1))
    with pytest.raises(EncoderMismatch):
        merged(a, b)
    with pytest.raises(InputError, match="itself"):
        merged(a, a)
