"""What a power failure or a full disk leaves of a table, made by hand; tests/power makes all of it from a record."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from indexer.errors import StoreError, StoreLocked, StoreNotFound
from indexer.store.create import table_lock
from indexer.store.durable import DiskSync, damage, mend
from indexer.store.labels import add_columns
from indexer.store.store import EmbeddingStore, table_names
from indexer.store.writer import StoreWriter
from tests.tables import add_shard, spec_for, unit_rows


@pytest.fixture
def store(tmp_path):
    made = EmbeddingStore.create(str(tmp_path / "db"), "t", spec_for(8))
    for name in "ab":
        add_shard(made, name, [f"{name}{i}" for i in range(5)], unit_rows(5, 8))
    return made


def newest(folder, pattern):
    return max(folder.glob(pattern), key=lambda path: path.stat().st_mtime_ns)


def newest_manifest(store):
    return min(store.path.glob("_versions/*.manifest"))  # Lance counts names down


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def emptied(path):
    path.write_bytes(b"")


def zeroed(path):
    path.write_bytes(bytes(path.stat().st_size))


def removed(path):
    path.unlink()


@pytest.mark.parametrize(
    ("what", "spoil"),
    [*(("data", spoil) for spoil in (cut, emptied, zeroed, removed)), ("manifest", cut), ("manifest", zeroed)],
)
def test_a_version_with_a_broken_file_is_taken_back_and_its_shard_done_again(store, what, spoil):
    spoil(newest(store.path, "data/*.lance") if what == "data" else newest_manifest(store))
    again = EmbeddingStore.create(store.uri, "t", store.spec)
    assert again.count() == 5
    with StoreWriter(again) as writer:
        assert set(writer.entries) == {"a"}  # b's rows are gone: its ledger row may not say that it is done
    add_shard(again, "b", [f"b{i}" for i in range(5)], unit_rows(5, 8))
    assert sorted(again.vectors(columns=["key"]).columns.column("key").to_pylist()) == [
        f"{n}{i}" for n in "ab" for i in range(5)
    ]


@pytest.mark.parametrize("spoil", [cut, emptied, zeroed])
def test_a_reader_of_a_broken_table_is_told_so_in_one_line(store, spoil):
    spoil(newest(store.path, "data/*.lance"))
    with pytest.raises(StoreError, match="indexer index"):
        EmbeddingStore.open(store.uri).vectors()


def test_a_broken_manifest_below_a_whole_one_does_not_stop_a_clean_up(store):
    zeroed(sorted(store.path.glob("_versions/*.manifest"))[1])
    with StoreWriter(store) as writer:
        writer.optimize()
    assert store.count() == 10


def test_a_whole_table_is_left_alone(store):
    files = sorted(store.path.rglob("*"))
    assert mend(store.path) == 0
    assert sorted(store.path.rglob("*")) == files


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_table_that_may_not_be_read_is_not_taken_back(store):
    file = newest(store.path, "data/*.lance")
    file.chmod(0)
    try:
        with pytest.raises(StoreError, match="denied"):
            mend(store.path)
    finally:
        file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert damage(store.path, store.version) is None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_a_table_whose_files_cannot_be_opened_just_now_is_not_taken_back(store, monkeypatch, number):
    whole = Path.open

    def refused(self, *arguments, **options):
        if self.suffix == ".lance":
            raise OSError(number, os.strerror(number), str(self))
        return whole(self, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refused)
        with pytest.raises(StoreError, match=os.strerror(number)):
            mend(store.path)
    assert mend(store.path) == 0
    assert store.count() == 10


def test_a_table_whose_making_was_cut_short_is_no_table_and_is_made_anew(tmp_path):
    (tmp_path / "db" / "t.lance" / "_transactions").mkdir(parents=True)
    assert table_names(str(tmp_path / "db")) == []
    with pytest.raises(StoreNotFound):
        EmbeddingStore.open(str(tmp_path / "db"))
    assert EmbeddingStore.create(str(tmp_path / "db"), "t", spec_for(8)).count() == 0


def test_a_broken_tag_is_no_tag_and_goes_with_the_next_writer(store):
    store.tag("kept", store.version)
    broken = store.path / "_refs" / "tags" / "broken.json"
    broken.write_bytes(b"")
    assert store.tags() == {"kept": store.version}
    store.tag("new", store.version)
    assert not broken.exists()
    assert set(store.tags()) == {"kept", "new"}


def test_every_new_file_and_its_directory_is_synced_once_manifests_after_what_they_name(store, monkeypatch):
    synced = []
    monkeypatch.setattr("indexer.store.durable.fsync", synced.append)
    disk = DiskSync()
    disk.sync(store.path)
    files = {p for p in store.path.rglob("*")} | {store.path, store.path.parent}
    assert set(synced) == files
    order = [p.relative_to(store.path).parts[0] for p in synced[1:-1]]
    assert order.index("_versions") > max(i for i, part in enumerate(order) if part == "data")
    synced.clear()
    disk.sync(store.path)
    assert synced == []
    store.tag("one", store.version)
    synced.clear()
    disk.sync(store.path)
    assert {p.name for p in synced if p.suffix} >= {"one.json"}


def test_labels_come_whole_or_not_at_all(store, monkeypatch):
    add_columns(store, pa.table({"key": ["a1", "b1"], "grade": [1, 2], "site": ["x", "y"]}))
    held = EmbeddingStore.open(store.uri)
    before, version = held.vectors(columns=["key", "grade", "site"]).columns, store.version

    def full(*args, **kwargs):
        raise OSError("No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr("lance.LanceOperation.Merge", full)
        with pytest.raises(StoreError, match="no space left"):
            add_columns(store, pa.table({"key": ["a2"], "site": ["z"], "grade": ["high"]}))
    assert EmbeddingStore.open(store.uri).vectors(columns=["key", "grade", "site"]).columns == before
    assert add_columns(store, pa.table({"key": ["a2", "b1"], "site": ["z", "w"], "grade": ["high", "low"]})) == 2
    assert store.version == version + 1  # one commit, and readers of the former one are not disturbed
    assert held.vectors(columns=["key", "grade", "site"]).columns == before
    rows = {r["key"]: (r["site"], r["grade"]) for b in store.scan(["key", "site", "grade"]) for r in b.to_pylist()}
    assert rows["a1"] == ("x", None)  # another type: the column is replaced whole
    assert (rows["a2"], rows["b1"], rows["b2"]) == (("z", "high"), ("w", "low"), (None, None))


@pytest.mark.parametrize("order", [["c", "a", "b"], ["b", "a"], ["a", "z", "c"], ["z", "y", "a", "b", "c"], ["c"]])
def test_label_columns_can_be_replaced_in_any_order_beside_new_ones(store, order):
    first = {"key": [f"a{i}" for i in range(5)], "a": [1] * 5, "b": ["x"] * 5, "c": [0.5] * 5}
    add_columns(store, pa.table(first))
    add_columns(store, pa.table({"key": first["key"], **{name: [f"{name}{i}" for i in range(5)] for name in order}}))
    rows = store.vectors("shard = 'a'", ["key", *store.columns()]).columns.to_pylist()
    for row in rows:
        for name in order:
            assert row[name] == f"{name}{row['key'][1]}"
        for name in {"a", "b", "c"} - set(order):
            assert row[name] == first[name][0]
    np.testing.assert_array_equal(store.vectors("shard = 'b'").vectors, unit_rows(5, 8))


def test_labels_wait_for_the_writer_s_lock(store):
    with table_lock(store.uri, "t"), pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
        add_columns(store, pa.table({"key": ["a1"], "grade": [1]}))


def test_labels_of_a_table_without_rows_become_columns(tmp_path):
    empty = EmbeddingStore.create(str(tmp_path / "db"), "t", spec_for(8))
    labels = pa.table({"key": ["a"], "grade": [1]})
    assert add_columns(empty, labels) == 0
    assert add_columns(empty, labels.set_column(1, "grade", pa.array(["x"]))) == 0
    assert empty.columns() == {"grade": pa.string()}


def test_a_writer_after_one_that_ended_in_order_syncs_nothing_again(store, monkeypatch):
    synced = []
    with StoreWriter(store):
        pass
    monkeypatch.setattr("indexer.store.durable.CLOCK_SECONDS", -60.0)  # the files of this test are seconds old
    monkeypatch.setattr("indexer.store.durable.fsync", synced.append)
    with StoreWriter(store):
        pass
    assert [path for path in synced if path.is_file()] == []
    with pytest.raises(RuntimeError), StoreWriter(store):
        raise RuntimeError("it did not end in order")
    with StoreWriter(store):
        pass
    assert {path.suffix for path in synced} >= {".manifest", ".lance", ".txn"}


def test_merging_fragments_changes_no_row_no_row_id_and_no_null(store):
    rng = np.random.default_rng(0)
    for number in range(12):  # columns come late, values are missing, rows go: not all fragments are alike
        names = [f"{number}-{i}\u00e9" for i in range(int(rng.integers(1, 40)))]
        facts = [{"n": i} if i % 3 else {f"late{number % 4}": "x" * i, "n": None} for i in range(len(names))]
        add_shard(store, f"s{number}", names, unit_rows(len(names), 8, number), facts)
        if number % 5 == 4:
            add_shard(store, f"s{number - 1}", [f"{number} again"], unit_rows(1, 8, number), replaces=True)
    add_columns(store, pa.table({"key": ["3-0\u00e9"], "grade": [7]}))
    asked = ["key", "meta", "norm", *store.columns()]
    before, ids = store.vectors(columns=asked), store.vectors().row_ids
    with StoreWriter(store) as writer:
        writer.optimize()
    after = store.vectors(columns=asked)
    assert store.fragments() == 1
    assert after.columns == before.columns
    np.testing.assert_array_equal(after.vectors, before.vectors)
    np.testing.assert_array_equal(after.row_ids, ids)
    import lancedb

    rows = lancedb.connect(store.uri).open_table("t").to_arrow()  # another Lance reads it too
    assert rows.column("key").to_pylist() == before.columns.column("key").to_pylist()
