"""`indexer labels` on files as people write them."""

from __future__ import annotations

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.store.labels import add_columns
from indexer.store.table import EmbeddingStore
from tests.commands import call
from tests.tables import add_shard, make_table, unit_rows


@pytest.fixture
def db(tmp_path):
    make_table(tmp_path / "db", unit_rows(6, 8), [{"pid": text} for text in ("007", "007", "010", "010", "12", "12")])
    return tmp_path / "db"


def column(db, name):
    rows = EmbeddingStore.open(str(db)).vectors(columns=["key", name]).columns.to_pydict()
    return dict(zip(rows["key"], rows[name], strict=True))


def labels(db, text, *more, name="labels.csv"):
    (db.parent / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return call("indexer", "labels", db, db.parent / name, *more)


def test_a_blank_cell_is_missing_and_no_class_or_patient_of_its_own(db):
    done = labels(db, 'key,grade,site\nk0,1,A\nk1,,\nk2,NA,""\nk3,2, \n')
    assert done.code == 0, done.err
    assert column(db, "grade") == {"k0": 1, "k1": None, "k2": None, "k3": 2, "k4": None, "k5": None}
    assert column(db, "site") == {"k0": "A", "k1": None, "k2": None, "k3": None, "k4": None, "k5": None}


def test_numbers_with_leading_zeros_stay_names_and_join_as_they_are_written(db):
    done = labels(db, "pid,ward,room\n007,03,1\n010,11,2\n", "--on", "pid")
    assert done.code == 0, done.err
    assert column(db, "ward") == {"k0": "03", "k1": "03", "k2": "11", "k3": "11", "k4": None, "k5": None}
    assert column(db, "room")["k2"] == 2


def test_values_keep_the_narrowest_type_that_all_of_them_have(db):
    labels(db, "key,whole,real,truth,words\nk0,1,1,true,1\nk1,2,2.5,False,b\n")
    kinds = EmbeddingStore.open(str(db)).columns()
    assert [str(kinds[name]) for name in ("whole", "real", "truth", "words")] == ["int64", "double", "bool", "string"]


def test_parquet_labels_join_numbers_to_names(db):
    pa.parquet.write_table(pa.table({"pid": [12], "late": [True]}), db.parent / "labels.parquet")
    assert call("indexer", "labels", db, db.parent / "labels.parquet", "--on", "pid").code == 0
    assert column(db, "late")["k5"] is True


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("key,grade\n", "holds no label"),
        ("key\nk0\n", "holds no label"),
        ("", "is not a CSV table"),
        (b"key,gr\xe4de\nk0,1\n", "in UTF-8"),
        ("key,a,a\nk0,1,2\n", "column a twice"),
        ("key,a,b\nk0,1,\nk1,2,\n", "column b has no value"),
        ("key,a\nk0,1\nk0,2\n", "'k0' occurs twice"),
        ("key,a\n,1\nk0,2\n", "1 rows have none"),
        ("key,a\nk0,1,2\n", "is not a CSV table"),
        ("key,a\nx1.png,1\n", "the table has 'k0'"),
        ("name,a\nk0,1\n", "Name one with --on"),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "is not a CSV table"),
    ],
)
def test_a_file_that_cannot_be_joined_is_one_line_and_writes_nothing(db, text, words):
    before = EmbeddingStore.open(str(db)).version
    done = labels(db, text)
    assert done.code == 1
    assert words in done.err
    assert len(done.err.splitlines()) == 1
    store = EmbeddingStore.open(str(db))
    assert (store.version, list(store.columns())) == (before, ["pid"])


def test_one_odd_cell_does_not_turn_a_column_of_numbers_into_text(db):
    labels(db, "key,age\nk0,60\nk1,70\n")
    done = labels(db, "key,age\nk2,old\n")
    assert done.code == 1
    assert "cannot be one column" in done.err
    assert labels(db, "key,age\nk2,80\n").code == 0
    assert column(db, "age") == {"k0": 60, "k1": 70, "k2": 80, "k3": None, "k4": None, "k5": None}


def test_a_file_of_many_blocks_is_typed_and_joined_as_one(db, monkeypatch):
    monkeypatch.setattr("indexer.store.label_file.BLOCK_BYTES", 64)
    lines = [f"k{n},{n}{'.5' if n == 5 else ''},{n if n else 'x'},{'' if n % 2 else n}" for n in range(6)]
    others = [f"other{n},{n},{n},{n}" for n in range(200)]
    done = labels(db, "\n".join(["key,real,words,whole", *lines[:3], *others, *lines[3:]]) + "\n")
    assert done.code == 0, done.err
    kinds = EmbeddingStore.open(str(db)).columns()
    assert [str(kinds[name]) for name in ("real", "words", "whole")] == ["double", "string", "int64"]
    assert column(db, "real") == {"k0": 0, "k1": 1, "k2": 2, "k3": 3, "k4": 4, "k5": 5.5}
    assert column(db, "words") == {"k0": "x", **{f"k{n}": str(n) for n in range(1, 6)}}
    assert column(db, "whole") == {f"k{n}": None if n % 2 else n for n in range(6)}
    twice = labels(db, "\n".join(["key,real", *(line.rsplit(",", 2)[0] for line in others), "other7,1"]) + "\n")
    assert "'other7' occurs twice" in twice.err


def test_names_whose_hashes_are_equal_are_not_taken_for_one_another(db, monkeypatch):
    monkeypatch.setattr(
        "indexer.store.writing.label_index._hashes", lambda names: np.full(len(names), 3, np.int64) + (len(names) > 99)
    )
    done = labels(db, "key,grade\nk3,3\nk1,1\nx,9\nk0,0\n")
    assert done.code == 0, done.err
    assert column(db, "grade") == {"k0": 0, "k1": 1, "k2": None, "k3": 3, "k4": None, "k5": None}


def test_each_fragment_is_given_the_labels_of_its_own_rows_and_one_without_any_is_left_alone(tmp_path, monkeypatch):
    store = make_table(tmp_path / "db", unit_rows(6, 8))
    for shard in ("second", "third"):
        add_shard(store, shard, [f"{shard}{n}" for n in range(4)], unit_rows(4, 8))
    given = {}
    update, merge = lance.LanceFragment.update_columns, lance.LanceFragment.merge

    def recorded(call):
        def with_record(fragment, values, *args, **how):
            given.setdefault(call.__name__, []).append((fragment.fragment_id, sorted(values.column("key").to_pylist())))
            return call(fragment, values, *args, **how)

        return with_record

    monkeypatch.setattr(lance.LanceFragment, "update_columns", recorded(update))
    monkeypatch.setattr(lance.LanceFragment, "merge", recorded(merge))
    add_columns(store, pa.table({"key": ["k1", "third2", "k0"], "grade": [1, 2, 3]}))
    add_columns(store, pa.table({"key": ["second1", "third2"], "grade": [4, 5]}))
    assert given == {
        "merge": [(0, ["k0", "k1"]), (2, ["third2"])],
        "update_columns": [(1, ["second1"]), (2, ["third2"])],
    }
    rows = lance.dataset(str(store.path)).to_table(columns=["key", "grade"]).to_pylist()
    found = {row["key"]: row["grade"] for row in rows if row["grade"] is not None}
    assert found == {"k0": 3, "k1": 1, "second1": 4, "third2": 5}
