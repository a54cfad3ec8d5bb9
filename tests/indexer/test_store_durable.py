"""What a power failure or a full disk leaves of a table, made by hand; tests/power makes all of it from a record."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexer.disk import DiskSync
from indexer.errors import InputError, StoreError, StoreLocked, StoreNotFound
from indexer.store.holding.commits import TableLock
from indexer.store.labelling.join import add_columns
from indexer.store.mend import damage, mend
from indexer.store.names import table_names
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from tests.commands import call
from tests.privileges import obeying_permissions
from tests.tables import add_shard, make_table, spec_for, unit_rows


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
def test_a_version_with_a_broken_file_is_rolled_back_and_its_shard_done_again(store, what, spoil):
    spoil(newest(store.path, "data/*.lance") if what == "data" else newest_manifest(store))
    again = EmbeddingStore.create(store.uri, "t", store.spec)
    assert again.count() == 5
    with StoreWriter(again) as writer:
        assert set(writer.entries) == {"a"}  # b's rows are gone: its ledger row may not say that it is done
    add_shard(again, "b", [f"b{i}" for i in range(5)], unit_rows(5, 8))
    assert sorted(again.vectors(columns=["key"]).columns.column("key").to_pylist()) == [
        f"{n}{i}" for n in "ab" for i in range(5)
    ]


@pytest.mark.parametrize("what", ["data", "manifest"])
def test_labels_that_a_rollback_takes_with_it_are_named(store, tmp_path, what):
    """No archive holds them: `index` cannot bring them back."""
    (tmp_path / "labels.csv").write_text("key,finding\n" + "".join(f"a{i},{i % 2}\n" for i in range(5)))
    assert call("indexer", "labels", store.uri, tmp_path / "labels.csv").code == 0
    joined = EmbeddingStore.open(store.uri, "t")
    assert "finding" in joined.columns()
    cut(newest(store.path, "data/*.lance") if what == "data" else newest_manifest(store))
    with StoreWriter(EmbeddingStore.create(store.uri, "t", store.spec)) as writer:
        told = " ".join(writer.notes)
    left = EmbeddingStore.open(store.uri, "t")
    assert (left.count(), "finding" in left.columns()) == (10, False)
    if what == "data":  # a damaged manifest names no columns
        assert f"rolled back from version {joined.version} to {left.version}" in told
        assert "no columns finding: join them again" in told
    with StoreWriter(left) as writer:
        assert writer.notes == ()


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


def test_a_table_that_may_not_be_read_is_not_rolled_back(store):
    file = newest(store.path, "data/*.lance")
    file.chmod(0)
    try:
        with obeying_permissions(), pytest.raises(StoreError, match="denied"):
            mend(store.path)
    finally:
        file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    assert damage(store.path, store.version) is None


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO])
def test_a_table_whose_files_cannot_be_opened_just_now_is_not_rolled_back(store, monkeypatch, number):
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


def test_ctrl_c_that_lance_tells_as_an_error_of_its_own_is_no_damage(store, monkeypatch):
    lance.dataset(str(store.path)).delete("key = 'a0'")  # the mending reads which rows are gone

    def interrupted(*_, **__):
        raise pa.ArrowInvalid("External error: KeyboardInterrupt: ")

    with monkeypatch.context() as patched:
        patched.setattr("lance.LanceFragment.to_table", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mend(store.path)
    assert mend(store.path) == 0
    assert EmbeddingStore.open(store.uri, store.name).count() == 9


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
    monkeypatch.setattr("indexer.disk.fsync", synced.append)
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


def test_after_a_commit_only_the_names_that_came_are_looked_at_and_all_of_them_are_synced(store, monkeypatch):
    disk = DiskSync()
    disk.sync(store.path)
    before = set(store.path.rglob("*"))
    dataset = lance.dataset(str(store.path))
    dataset.delete("key = 'a0'")
    dataset.create_scalar_index("shard", "BTREE")
    add_shard(store, "c", [f"c{i}" for i in range(5)], unit_rows(5, 8))
    came = {path for path in store.path.rglob("*") if path not in before and path.is_file()}
    assert {path.parent.name for path in came} >= {"data", "_deletions", "_transactions", "_versions"}
    assert any("_indices" in path.parts for path in came)
    synced, looked = [], []
    stat = Path.stat
    monkeypatch.setattr("indexer.disk.fsync", synced.append)
    monkeypatch.setattr(Path, "stat", lambda path, **how: looked.append(path) or stat(path, **how))
    disk.sync(store.path)
    assert set(synced) >= came
    hint = {store.path / "_versions" / "latest_version_hint.json"}  # which each commit replaces
    assert {path for path in synced if path.is_file()} - hint == came
    assert not set(looked) & {path for path in before if path.parent.name in ("data", "_transactions")}


def test_a_table_is_checked_for_whole_files_once_a_file(store, monkeypatch):
    whole = set()
    assert damage(store.path, store.version, whole) is None
    opened = []
    monkeypatch.setattr("indexer.store.mend._file_damage", lambda path, _: opened.append(path))
    add_shard(store, "c", ["c0"], unit_rows(1, 8))
    opened.clear()
    assert damage(store.path, store.version, whole) is None
    assert len(opened) == 1


@pytest.mark.case("X5")
@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_file_that_is_no_regular_file_is_refused_and_its_target_left_alone(store, tmp_path, kind):
    lock = Path(store.uri) / "t.lock"
    lock.unlink()
    target = tmp_path / "precious.txt"
    target.write_text("not to be truncated")
    if kind == "link":
        lock.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(StoreError, match=r"t\.lock .*Remove that file"), StoreWriter(store):
        pass
    assert target.read_text() == "not to be truncated"


@pytest.mark.case("X10")
def test_a_holder_that_could_not_write_its_name_is_not_called_by_an_earlier_holders(store):
    with StoreWriter(store):  # its name stays in the file
        pass
    lock = Path(store.uri) / "t.lock"
    with lock.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(StoreLocked, match="another process, which did not write its name"), StoreWriter(store):
            pass
        dead = subprocess.Popen([sys.executable, "-c", "pass"])
        dead.wait()
        facts = {"pid": dead.pid, "host": socket.gethostname(), "since": "2026-01-01 00:00:00"}
        lock.write_text(json.dumps(facts))  # of one that was killed
        with pytest.raises(StoreLocked, match="another process, which did not write its name"), StoreWriter(store):
            pass
        lock.write_text(json.dumps(facts | {"pid": os.getpid()}))
        with pytest.raises(StoreLocked, match=f"process {os.getpid()} on"), StoreWriter(store):
            pass


def test_labels_that_the_disk_has_no_room_for_change_nothing_and_come_with_the_next_call(store, monkeypatch):
    add_columns(store, pa.table({"key": ["a1", "b1"], "grade": [1, 2], "site": ["x", "y"]}))
    held = EmbeddingStore.open(store.uri)
    before = held.vectors(columns=["key", "grade", "site"]).columns
    again = pa.table({"key": ["a2", "b1"], "site": ["z", "w"], "grade": [7, 8], "sex": ["F", "M"]})

    def full(*args, **kwargs):
        raise OSError("No space left on device (os error 28)")

    for made, columns in (("Update", ["grade", "site"]), ("Merge", ["grade", "site"])):
        with monkeypatch.context() as patched:
            patched.setattr(lance.LanceOperation, made, full)
            patched.setattr(lance.LanceDataset, "merge", full)
            with pytest.raises(StoreError, match="no space left"):
                add_columns(store, again)
        assert list(EmbeddingStore.open(store.uri).columns()) == columns
        if made == "Update":
            assert EmbeddingStore.open(store.uri).vectors(columns=["key", "grade", "site"]).columns == before
    assert add_columns(store, again) == 2
    assert held.vectors(columns=["key", "grade", "site"]).columns == before  # readers are not disturbed
    asked = ["key", "site", "grade", "sex"]
    rows = {r["key"]: (r["site"], r["grade"], r["sex"]) for b in store.scan(asked) for r in b.to_pylist()}
    assert (rows["a1"], rows["a2"], rows["b1"]) == (("x", 1, None), ("z", 7, "F"), ("w", 8, "M"))
    assert rows["b2"] == (None, None, None)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("abc"),
            st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 5)), min_size=1, max_size=6),
            min_size=1,
        ),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=8, deadline=None)
def test_any_history_of_label_files_gives_what_a_dictionary_gives(history):
    with tempfile.TemporaryDirectory() as folder:
        store = make_table(Path(folder), unit_rows(10, 8))
        add_shard(store, "second", ["other"], unit_rows(1, 8, seed=1))
        vectors = store.vectors(columns=["key"])
        truth = {}
        for columns in history:
            keys = sorted({n for cells in columns.values() for n, _ in cells})
            file = {"key": [f"k{n}" for n in keys]}
            for name, cells in columns.items():
                file[name] = pa.array([dict(cells).get(n) for n in keys], pa.int64())
                for n in keys:
                    truth[f"k{n}", name] = dict(cells).get(n)
            assert add_columns(store, pa.table(file)) == len(keys)
        names = sorted(store.columns())
        for batch in store.scan(["key", *names]):
            for row in batch.to_pylist():
                assert all(row[name] == truth.get((row["key"], name)) for name in names)
        after = store.vectors(columns=["key"])
        np.testing.assert_array_equal(after.vectors, vectors.vectors)
        np.testing.assert_array_equal(after.row_ids, vectors.row_ids)
        store.tag("bound", store.version)
        with StoreWriter(store) as writer:
            writer.optimize()
        assert sorted(store.columns()) == names
        assert store.count() == 11


def test_a_column_keeps_its_type(store):
    add_columns(store, pa.table({"key": ["a1"], "grade": [1], "score": [0.5], "site": ["x"]}))
    for wrong in ({"grade": ["high"]}, {"grade": [1.5]}, {"score": ["much"]}, {"grade": [True]}):
        with pytest.raises(InputError, match="cannot be one column"):
            add_columns(store, pa.table({"key": ["a1"], **wrong}))
    add_columns(store, pa.table({"key": ["a2"], "score": [3]}))
    (row,) = [r for b in store.scan(["key", "score", "grade"]) for r in b.to_pylist() if r["key"] == "a2"]
    assert (row["score"], row["grade"]) == (3.0, None)


def test_labels_wait_for_the_writer_s_lock(store):
    with TableLock(store.uri, "t"), pytest.raises(StoreLocked, match=f"process {os.getpid()}"):
        add_columns(store, pa.table({"key": ["a1"], "grade": [1]}))


def test_labels_that_name_no_row_are_refused_with_names_of_both_sides_and_write_nothing(store, tmp_path):
    with pytest.raises(InputError, match=r"the labels have 'x1', 'x2', the table has 'a0'"):
        add_columns(store, pa.table({"key": ["x1", "x2"], "grade": [1, 2]}))
    assert store.columns() == {}
    empty = EmbeddingStore.create(str(tmp_path / "empty"), "t", spec_for(8))
    with pytest.raises(InputError, match="the table has no row"):
        add_columns(empty, pa.table({"key": ["a"], "grade": [1]}))


def test_a_writer_after_one_that_ended_in_order_syncs_nothing_again(store, monkeypatch):
    synced = []
    with StoreWriter(store):
        pass
    monkeypatch.setattr("indexer.disk.CLOCK_SECONDS", -60.0)  # the files of this test are seconds old
    monkeypatch.setattr("indexer.disk.fsync", synced.append)
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
    add_columns(store, pa.table({"key": ["5-0\u00e9"], "grade": [7]}))
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
