"""The writer at any size: shards in parts, crashes between any two writes, merging, labels of replaced images."""

from __future__ import annotations

import json

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance.dataset import MergeInsertBuilder

from indexer.errors import StoreError
from indexer.store.holding.commits import TableLock
from indexer.store.labelling.join import add_columns
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.store.writing import compaction
from indexer.store.writing.side_tables import Ledger
from indexer.types import EmbeddingBatch, EmbeddingRow, Failure, Place, Shard, ShardResult
from tests.tables import spec_for

DIM = 8


def part(name, numbers, *, identity="1", broken=(), more=False, replaces=False, samples=None, metadata=None):
    """A part of a shard with one row for each number, and a failure for each broken one."""
    rows = tuple(
        EmbeddingRow(f"{name}-{n}", Place(name, f"{n}.png", 512 * n, 100, "png"), f"bytes{n}", {**(metadata or {})})
        for n in numbers
    )
    vectors = np.eye(DIM, dtype=np.float16)[[n % DIM for n in numbers]].reshape(-1, DIM)
    batches = (EmbeddingBatch(rows, vectors, np.ones(len(rows), np.float32)),) if rows else ()
    failures = tuple(
        Failure(name, f"{name}-{n}", "decode", "no image", "", 512 * n, 100, "png", f"{n}.png") for n in broken
    )
    count = len(numbers) + len(broken) if samples is None else samples
    return ShardResult(Shard(name, name, identity), batches, failures, count, replaces=replaces, more=more)


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore.create(str(tmp_path / "db"), "t", spec_for(DIM))


def keys(store):
    """Read by Lance alone."""
    return sorted(lance.dataset(str(store.path)).to_table(columns=["key"]).column("key").to_pylist())


def side(store, kind):
    return lance.dataset(str(store.path).replace(".lance", f".{kind}.lance")).to_table().to_pylist()


def ledger(store):
    return {r["shard"]: (r["status"], r["samples"], r["embedded"], r["failed"]) for r in side(store, "shards")}


def test_a_shard_in_parts_is_begun_until_its_last_part_and_then_counted_from_the_tables(store):
    with StoreWriter(store) as writer:
        writer.commit([part("a", range(3), broken=[3], more=True), part("b", range(2))])
        assert ledger(store) == {"a": ("begun", 0, 0, 0), "b": ("done", 2, 2, 0)}
        writer.commit([part("a", range(4, 6), more=True, samples=6)])
        writer.commit([part("a", [6], broken=[7], samples=8)])
    assert ledger(store)["a"] == ("done", 8, 6, 2)
    assert keys(store) == [f"a-{n}" for n in (0, 1, 2, 4, 5, 6)] + ["b-0", "b-1"]
    assert sorted(f["key"] for f in side(store, "failures")) == ["a-3", "a-7"]


def test_two_parts_of_a_shard_may_come_in_one_commit(store):
    with StoreWriter(store) as writer:
        writer.commit([part("a", range(3), more=True), part("a", range(3, 5), samples=5)])
    assert ledger(store) == {"a": ("done", 5, 5, 0)}
    assert keys(store) == [f"a-{n}" for n in range(5)]


def test_the_next_writer_keeps_a_begun_shard_and_says_which_samples_are_stored(store):
    with StoreWriter(store) as writer:
        writer.commit([part("a", range(3), broken=[3], more=True)])
    with StoreWriter(store) as writer:
        assert writer.recovered == 0
        assert side(store, "failures") == []  # it comes again
        stored = writer.stored("a")
        assert [n for n in range(8) if (f"{n}.png", 512 * n) in stored] == [0, 1, 2]
        assert ("0.png", 1) not in stored
        assert ("0.png", 0) not in writer.stored("b")
        writer.commit([part("a", [4], broken=[3], samples=5)])
    assert ledger(store) == {"a": ("done", 5, 4, 1)}
    assert keys(store) == ["a-0", "a-1", "a-2", "a-4"]


def test_a_failed_part_of_an_image_whose_other_parts_are_stored_is_not_forgotten_by_a_resume(store):
    pages = part("a", [0], more=True)
    lost = Failure("a", "a-0", "decode", "third page is damaged", "", 0, 100, "png", "0.png")
    other = Failure("a", "a-9", "decode", "no image", "", 9, 100, "png", "9.png")
    with StoreWriter(store) as writer:
        writer.commit([ShardResult(pages.shard, pages.batches, (lost, other), 2, more=True)])
    with StoreWriter(store) as writer:
        assert ("0.png", 0) in writer.stored("a")  # so it is not read again
        assert [f["reason"] for f in side(store, "failures")] == ["third page is damaged"]
        writer.commit([ShardResult(pages.shard, (), (other,), 2)])
    assert ledger(store) == {"a": ("done", 2, 1, 2)}


def test_an_image_that_a_resumed_shard_gives_again_is_neither_doubled_nor_a_failure(store):
    with StoreWriter(store) as writer:
        writer.commit([part("a", range(3), more=True)])
    with StoreWriter(store) as writer:
        done = writer.commit([part("a", range(5), samples=5)])
    assert (done.embedded, done.failures) == (2, ())
    assert ledger(store) == {"a": ("done", 5, 5, 0)}


def test_a_begun_shard_whose_content_changed_starts_again(store):
    with StoreWriter(store) as writer:
        writer.commit([part("a", range(3), broken=[3], more=True)])
    with StoreWriter(store) as writer:
        writer.commit([part("a", range(10, 12), identity="2", replaces=True, more=True)])
        writer.commit([part("a", [12], identity="2", samples=3)])
        assert writer.entries["a"].identity == "2"
    assert keys(store) == ["a-10", "a-11", "a-12"]
    assert ledger(store) == {"a": ("done", 3, 3, 0)}
    assert side(store, "failures") == []


class Killed(BaseException):
    """Nothing of ours catches it, as nothing catches a kill."""


def dies(*_):
    raise Killed


def kill_at(patched, step, when):
    """Die before or after the step-th call that writes a table."""
    left = [step]

    def dying(call):
        def counted(*args, **how):
            left[0] -= 1
            if left[0] == 0 and when == "before":
                raise Killed
            done = call(*args, **how)
            if left[0] == 0:
                raise Killed
            return done

        return counted

    for name in ("delete", "add_columns"):
        patched.setattr(lance.LanceDataset, name, dying(getattr(lance.LanceDataset, name)))
    patched.setattr(MergeInsertBuilder, "execute", dying(MergeInsertBuilder.execute))
    patched.setattr(lance, "write_dataset", dying(lance.write_dataset))


LIVES = {
    "parts": [
        [part("a", range(3), broken=[3], more=True), part("b", range(2), broken=[5])],
        [part("a", range(4, 6), more=True, samples=6), part("c", range(2))],
        [part("a", [6], broken=[7], samples=8), part("d", [0], metadata={"site": "x"})],
    ],
    "replaced": [
        [part("old", range(1, 5), identity="2", broken=[9], replaces=True, more=True)],
        [part("old", [6], identity="2", samples=6), part("small", [1], identity="2", replaces=True)],
    ],
}


def made_before(folder):
    made = EmbeddingStore.create(str(folder), "t", spec_for(DIM))
    with StoreWriter(made) as writer:
        writer.commit([part("old", range(4), broken=[8]), part("small", [0], broken=[1]), part("stays", range(3))])
    add_columns(made, pa.table({"key": ["old-2", "old-0", "small-0", "stays-1"], "grade": [2, 1, 0, 3]}))
    return made


def live(made, life):
    """What the pipeline does: done shards are skipped, begun ones gone on with, without the samples stored."""
    with StoreWriter(made) as writer:
        identities = {name: (entry.identity, entry.status) for name, entry in writer.entries.items()}
        for results in LIVES[life]:
            kept = []
            for r in results:
                identity, status = identities.get(r.shard.name, ("", ""))
                resumes = identity == r.shard.identity and status == "begun"
                if identity == r.shard.identity and not resumes:
                    continue
                stored = writer.stored(r.shard.name) if resumes else ()
                rows = [x for b in r.batches for x in b.rows if (x.place.member, x.place.offset) not in stored]
                vectors = np.ones((len(rows), DIM), np.float16)
                batch = EmbeddingBatch(tuple(rows), vectors, np.ones(len(rows), np.float32))
                replaces = r.replaces and not resumes
                kept.append(ShardResult(r.shard, (batch,), r.failures, r.samples, replaces=replaces, more=r.more))
            writer.commit(kept)


def left(made):
    table = lance.dataset(str(made.path)).to_table(columns=["key", "grade"]).to_pylist()
    failures = sorted(f["key"] for f in side(made, "failures"))
    return sorted((r["key"], r["grade"]) for r in table), failures, ledger(made)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("life", LIVES)
def test_killed_between_any_two_writes_the_next_writer_goes_on_and_every_row_is_there_once(
    tmp_path, monkeypatch, life, when
):
    truth = made_before(tmp_path / "undisturbed")
    live(truth, life)
    right = left(truth)
    for step in range(1, 40):
        made = made_before(tmp_path / f"{step}")
        killed = False
        with monkeypatch.context() as patched:
            kill_at(patched, step, when)
            try:
                live(made, life)
            except Killed:
                killed = True
        if killed:
            live(made, life)
        assert left(made) == right, f"killed {when} write {step}"
        if not killed:
            assert step > 6
            return
    pytest.fail("the life never came to its end")


@pytest.mark.case("T2")
def test_labels_follow_an_image_of_the_same_key_and_content_and_those_lost_are_counted(store):
    with StoreWriter(store) as writer:
        writer.commit([part("a", range(20), metadata={"age": 7}), part("b", range(20))])
    names = [f"{s}-{n}" for s in "ab" for n in range(20)]
    add_columns(store, pa.table({"key": names, "grade": list(range(40)), "site": [f"s{n}" for n in range(40)]}))
    add_columns(store, pa.table({"key": ["a-3"], "age": [70]}))  # a label over metadata
    changed = part("a", range(2, 25), identity="2", replaces=True, metadata={"age": 8})
    with StoreWriter(store) as writer:
        done = writer.commit([changed])
    assert (done.labels_kept, done.labels_lost) == (18, 2)
    rows = {r["key"]: r for r in lance.dataset(str(store.path)).to_table().to_pylist()}
    assert [(rows[f"a-{n}"]["grade"], rows[f"a-{n}"]["site"]) for n in range(2, 20)] == [
        (n, f"s{n}") for n in range(2, 20)
    ]
    assert [rows[f"a-{n}"]["grade"] for n in range(20, 25)] == [None] * 5
    assert [rows[f"b-{n}"]["grade"] for n in range(20)] == list(range(20, 40))
    assert {n: rows[f"a-{n}"]["age"] for n in range(2, 25)} == {n: 70 if n == 3 else 8 for n in range(2, 25)}
    assert json.loads(rows["a-3"]["meta"]) == {"age": 8}


@pytest.mark.case("T2")
def test_labels_of_another_content_under_the_same_key_do_not_follow(store):
    with StoreWriter(store) as writer:
        writer.commit([part("a", range(3))])
    add_columns(store, pa.table({"key": ["a-0", "a-1"], "grade": [1, 2]}))
    new = part("a", range(3), identity="2", replaces=True)
    rows = tuple(EmbeddingRow(r.key, r.place, f"other {r.key}", {}) for r in new.batches[0].rows)
    batch = EmbeddingBatch(rows, new.batches[0].vectors, new.batches[0].norms)
    with StoreWriter(store) as writer:
        done = writer.commit([ShardResult(new.shard, (batch,), (), 3, replaces=True)])
    assert (done.labels_kept, done.labels_lost) == (0, 2)
    assert lance.dataset(str(store.path)).count_rows(filter="grade IS NOT NULL") == 0


def looked_at(monkeypatch, store, action):
    """Rows that scans of the main table gave while the action ran."""
    rows = []
    scan = EmbeddingStore.scan

    def counting(self, *args, **how):
        for batch in scan(self, *args, **how):
            rows.append(batch.num_rows)
            yield batch

    with monkeypatch.context() as patched:
        patched.setattr(EmbeddingStore, "scan", counting)
        action()
    return sum(rows)


@pytest.mark.parametrize("shards", [10, 40])
def test_replacing_every_shard_looks_at_each_row_a_few_times_however_many_shards_there_are(store, monkeypatch, shards):
    with StoreWriter(store) as writer:
        writer.commit([part(f"s{i}", range(10)) for i in range(shards)])

    def replace_all():
        with StoreWriter(store) as writer:
            for i in range(shards):
                assert len(writer.vectors_by_content(f"s{i}")) == 10
                writer.commit([part(f"s{i}", range(10), identity="2", replaces=True)])

    total = shards * 10
    assert looked_at(monkeypatch, store, replace_all) <= 6 * total
    assert store.refresh()
    assert store.count() == total


def test_opening_a_writer_with_nothing_to_do_reads_no_row(store, monkeypatch):
    with StoreWriter(store) as writer:
        writer.commit([part("a", range(500), broken=[600]), part("b", range(500))])

    def nothing():
        with StoreWriter(store) as writer:
            assert writer.recovered == 0

    assert looked_at(monkeypatch, store, nothing) == 0


def test_rows_of_a_shard_without_a_ledger_row_are_found_by_their_version(store, monkeypatch):
    with StoreWriter(store) as writer:
        writer.commit([part("a", range(100))])
    with StoreWriter(store) as writer, monkeypatch.context() as patched:
        patched.setattr(Ledger, "put", dies)
        with pytest.raises(Killed):
            writer.commit([part("b", range(7))])
    store.refresh()
    assert store.count() == 107

    def again():
        with StoreWriter(store) as writer:
            assert writer.recovered == 7

    assert looked_at(monkeypatch, store, again) == 7
    assert keys(store) == sorted(f"a-{n}" for n in range(100))


def test_after_a_commit_that_failed_the_same_writer_takes_no_other(store, monkeypatch):
    with StoreWriter(store) as writer:
        with monkeypatch.context() as patched:
            patched.setattr(Ledger, "put", dies)
            with pytest.raises(Killed):
                writer.commit([part("a", range(3))])
        with pytest.raises(StoreError, match="same command again"):
            writer.commit([part("b", range(3))])  # its ledger row would hide a's rows from the recovery


@pytest.fixture
def locked(tmp_path):
    with TableLock(str(tmp_path), "t") as lock:
        yield lock


@pytest.mark.parametrize(("rows", "commits", "most"), [(8, 400, 3.0), (1, 600, 5.0), (90, 60, 3.0)])
def test_merging_rewrites_each_row_a_few_times_and_full_fragments_never(
    tmp_path, locked, monkeypatch, rows, commits, most
):
    """Constants scaled down by 1000, as many small commits as give several full fragments."""
    monkeypatch.setattr(compaction, "FULL_ROWS", 1048)
    path = str(tmp_path / "t.lance")
    fragments, written, rewritten = {}, 0, 0
    dataset = lance.write_dataset(pa.table({"n": range(rows)}), path, enable_stable_row_ids=True)
    for commit in range(1, commits):
        dataset = lance.write_dataset(
            pa.table({"n": range(rows * commit, rows * (commit + 1))}), dataset, mode="append"
        )
        before = {f.fragment_id: f.count_rows() for f in dataset.get_fragments()}
        if compaction.compact_newest(dataset, 8 if commit % 50 == 0 else 64):
            fragments = {f.fragment_id: f.count_rows() for f in dataset.get_fragments()}
            gone = [before[number] for number in before.keys() - fragments.keys()]
            assert all(n < 524 for n in gone)
            rewritten += sum(gone)
        small = [f.fragment_id for f in dataset.get_fragments() if f.count_rows() < 524]
        assert len(small) <= 65
    written = rows * commits
    assert rewritten <= most * written
    assert dataset.to_table().column("n").to_pylist() == list(range(written))  # nothing lost, in the table's order
    assert fragments  # merges did happen


def test_optimize_merges_every_run_of_small_fragments_and_drops_deleted_rows(tmp_path, locked, monkeypatch):
    monkeypatch.setattr(compaction, "FULL_ROWS", 100)
    path = str(tmp_path / "t.lance")
    dataset = lance.write_dataset(pa.table({"n": range(200)}), path, max_rows_per_file=100, enable_stable_row_ids=True)
    for start in (200, 210, 220):
        dataset = lance.write_dataset(pa.table({"n": range(start, start + 10)}), dataset, mode="append")
    dataset.delete("n < 30")
    ids = dict(zip(*dataset.to_table(with_row_id=True).to_pydict().values(), strict=True))
    assert compaction.compact_all(dataset)
    found = sorted((f.count_rows(), f.metadata.num_deletions) for f in dataset.get_fragments())
    assert found == [(30, 0), (70, 0), (100, 0)]
    assert dict(zip(*dataset.to_table(with_row_id=True).to_pydict().values(), strict=True)) == ids
    assert not compaction.compact_all(dataset)
