"""`indexer labels` on files as people write them."""

from __future__ import annotations

import gzip
import os
import threading
import unicodedata

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from indexer.store.labelling.join import add_columns
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
        ("key,key,a\nk0,k1,2\n", "column key twice"),
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
    monkeypatch.setattr("indexer.store.labelling.file.BLOCK_BYTES", 64)
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
        "indexer.store.labelling.index._hashes", lambda names: np.full(len(names), 3, np.int64) + (len(names) > 99)
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


@pytest.fixture
def archive(tmp_path):
    """Rows as archives name them: with folders and endings, in NFC, without either."""
    store = make_table(tmp_path / "db", unit_rows(2, 8), [{"sub": 7}, {"sub": 8}])
    add_shard(store, "second", ["a/x.png", "a/y.PNG", "b/y.jpg", "né/ü", "v.nii.gz"], unit_rows(5, 8))
    return tmp_path / "db"


@pytest.mark.case("M8")
@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("k0.png", "k0"),
        ("K1", "k1"),
        ("x", "a/x.png"),
        ("root/A/x", "a/x.png"),
        ("other/X.jpeg", None),  # another folder is another image
        ("A/X.jpeg", "a/x.png"),
        (unicodedata.normalize("NFD", "né/ü"), "né/ü"),
        ("ü.dcm", "né/ü"),
        ("V", "v.nii.gz"),
        ("y", None),  # of two rows none is taken
    ],
)
def test_a_label_names_a_row_in_spite_of_folder_ending_case_and_unicode_form_where_one_alone_answers(
    archive, written, meant
):
    done = labels(archive, f"key,grade\na/y.PNG,0\n{written},1\nnobody,9\n")
    assert done.code == 0, done.err
    assert [key for key, grade in column(archive, "grade").items() if grade == 1] == ([meant] if meant else [])
    facts = labels(archive, f"key,grade\na/y.PNG,0\n{written},1\nnobody,9\n", "--json").json
    assert facts["rows_labelled"] == 1 + bool(meant)
    assert facts["labels_without_row"] == 2 - bool(meant)
    assert any(f"{written} → {meant}" in note for note in facts["notes"]) == bool(meant)


def test_of_two_labels_for_one_row_none_is_taken_and_an_equal_name_goes_before(archive):
    done = labels(archive, "key,grade\nk0,0\nk0.png,5\nx.tif,1\nx.jpg,2\n", "--json")
    assert done.json["rows_labelled"] == 1
    assert {key: grade for key, grade in column(archive, "grade").items() if grade is not None} == {"k0": 0}
    assert "labels that name no row: 3: k0.png, x.tif, x.jpg" in done.json["notes"]


def test_labels_that_name_no_row_are_counted_with_three_examples(archive):
    gone = "".join(f"gone{n},1\n" for n in range(5))
    assert "labels that name no row: 5: gone0, gone1, gone2 and 2 more" in labels(archive, f"key,a\nk0,1\n{gone}").out
    none = labels(archive, f"key,b\n{gone}")
    assert (none.code, none.err.count("\n")) == (1, 1)
    assert "'gone0', 'gone1', 'gone2'" in none.err


def test_the_column_that_names_the_row_may_be_called_otherwise_in_the_file(db):
    done = labels(db, "file,key,grade\nk0,z,1\nk1,z,2\n", "--on", "file=key", "--columns", "grade")
    assert done.code == 0, done.err
    assert column(db, "grade") == {"k0": 1, "k1": 2, "k2": None, "k3": None, "k4": None, "k5": None}
    assert labels(db, "ID;ward\n007;A\n", "--on", "ID=pid").code == 0
    assert column(db, "ward")["k1"] == "A"
    assert "--on COLUMN=key" in labels(db, "file,grade\nk0,1\n").err


def test_columns_are_chosen_and_renamed_and_the_others_left_alone(db):
    text = 'key,Patient ID,"a,b",c,shard\nk0,p1,1,2,s\nk1,p2,3,4,s\n'
    done = labels(db, text, "--columns", 'Patient ID=patient,"a,b"=ab,c', "--json")
    assert done.code == 0, done.err
    assert done.json["columns"] == ["patient", "ab", "c"]
    assert column(db, "ab")["k1"] == 3
    assert set(EmbeddingStore.open(str(db)).columns()) == {"pid", "patient", "ab", "c"}
    for columns, words in (("nix", "no column nix"), ("c=a b", "plain"), ("c=x,Patient ID=x", "two columns"), ("", "")):
        refused = labels(db, text, "--columns", columns)
        assert (refused.code, refused.err.count("\n")) == (1, 1)
        assert words in refused.err
        assert "--columns" in refused.err


def test_a_column_name_that_is_not_plain_gets_a_plain_one_and_it_is_said(db):
    done = labels(db, 'key,Patient ID,Größe (mm),2nd read,"",PatientAge\nk0,p1,1.5,x,0,60\n', "--json")
    assert done.json["columns"] == ["patient_id", "grosse_mm", "_2nd_read", "PatientAge"]
    assert "column 'Patient ID' is stored as patient_id" in done.json["notes"]
    assert "left out: a column without a name" in done.json["notes"]
    clash = labels(db, "key,Patient ID,patient_id\nk0,p1,1\n")
    assert (clash.code, "two columns would be patient_id" in clash.err) == (1, True)
    taken = labels(db, "key,shard\nk0,p1\n")
    assert (taken.code, '--columns "shard=NAME"' in taken.err) == (1, True)


def test_a_column_without_any_value_is_left_out_and_said(db):
    done = labels(db, "key,a,b\nk0,1,\nk1,2,NA\n")
    assert done.code == 0, done.err
    assert "left out, without any value: b" in done.out
    assert set(EmbeddingStore.open(str(db)).columns()) == {"pid", "a"}
    pa.parquet.write_table(
        pa.table({"key": ["k0"], "n": pa.nulls(1), "l": [[1]], "z": [b"\xff"], "c": [3], "d": [float("nan")]}),
        db.parent / "labels.parquet",
    )
    done = call("indexer", "labels", db, db.parent / "labels.parquet", "--json")
    assert done.json["columns"] == ["c"]
    assert done.json["notes"] == ["left out, not plain values: l, z", "left out, without any value: n, d"]


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", ""),
        ("utf-8-sig", ""),
        ("utf-8-sig", "UTF8"),
        ("utf-16", ""),
        ("utf-16", "utf-16"),
        ("cp1252", "cp1252"),
    ],
)
def test_a_csv_file_is_read_whatever_divides_it_and_however_it_is_encoded(db, mark, encoding, said):
    text = f'key{mark}größe{mark}text\nk0{mark}1.5{mark}"ein{mark} ""Wort""\nzweite"\nk1{mark}2{mark}Ödem\n'
    more = ("--encoding", said) if said else ()
    done = labels(db, text.encode(encoding), *more)
    assert done.code == 0, done.err
    assert [column(db, "grosse")[key] for key in ("k0", "k1")] == [1.5, 2.0]
    assert [column(db, "text")[key] for key in ("k0", "k1")] == [f'ein{mark} "Wort"\nzweite', "Ödem"]


@pytest.mark.parametrize(
    ("data", "more", "words"),
    [
        ("key,a\nk0,Ödem\n".encode("cp1252"), (), "--encoding cp1252"),
        ("key,a\nk0,b\n".encode("utf-16-le"), (), "--encoding utf-16-le"),
        (b"key,a\nk0,b\n", ("--encoding", "nix"), "no such encoding"),
        (b"key,a\nk0,b\n", ("--encoding", "base64"), "no such encoding"),
        (b"PK\x03\x04....", (), "save the sheet as CSV"),
        (b"\x1f\x8b....", (), "is damaged"),
        (b"PAR1....", (), "cannot be read as Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_for_certain_is_refused_with_the_way_out(db, data, more, words):
    done = labels(db, data, *more)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert words in done.err
    assert set(EmbeddingStore.open(str(db)).columns()) == {"pid"}


@pytest.mark.case("T5")
def test_nan_of_parquet_is_missing_as_in_csv(db):
    values = [1500.0, float("nan"), 3.0]
    pa.parquet.write_table(pa.table({"key": ["k0", "k1", "k2"], "num": values}), db.parent / "labels.parquet")
    assert call("indexer", "labels", db, db.parent / "labels.parquet").code == 0
    store = EmbeddingStore.open(str(db))
    assert (store.count("num > 1000"), store.count("num IS NULL")) == (1, 4)
    assert labels(db, "key,num\nk0,NaN\nk1,5\n").code == 0
    assert store.refresh()
    assert (store.count("num > 1000"), store.count("num IS NULL")) == (0, 4)


@pytest.mark.case("T6")
@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1234567890123456789", "1234567890123456790"], "string"),
        (["12345678901234567890", "1"], "string"),
        (["123456789012345678", "1"], "int64"),
        (["123456789012345678", "0.5"], "string"),  # float64 would end at ...680
        (["1E10", "10E9"], "string"),
        (["1E10", "7"], "string"),
        (["1e3", "0.5"], "double"),
        (["1e-3", "2E+4"], "double"),
        (["007", "8"], "string"),
        (["+1.5", "-2."], "double"),
        (["٣", "٤"], "string"),  # digits, but none that Arrow reads
        (["1e999", "0.5"], "string"),
    ],
)
def test_what_a_number_does_not_hold_exactly_stays_text(db, values, kind):
    done = labels(db, "key,x\n" + "".join(f"k{n},{value}\n" for n, value in enumerate(values)))
    assert done.code == 0, done.err
    assert str(EmbeddingStore.open(str(db)).columns()["x"]) == kind
    expected = values if kind == "string" else [float(v) if kind == "double" else int(v) for v in values]
    assert [column(db, "x")[f"k{n}"] for n in range(len(values))] == expected


@pytest.mark.case("T11")
def test_two_spellings_of_one_number_are_an_error_and_one_names_the_row(archive):
    twice = labels(archive, "sub,a\n007,x\n7,y\n", "--on", "sub")
    assert (twice.code, twice.err.count("\n")) == (1, 1)
    assert "'007'" in twice.err
    assert "'7'" in twice.err
    assert labels(archive, "sub,a\n007,x\nNA,y\n8.0,z\n", "--on", "sub").code == 0
    assert [column(archive, "a")[key] for key in ("k0", "k1")] == ["x", "z"]


@pytest.mark.case("T11")
@pytest.mark.parametrize(
    ("first", "then", "expected"),
    [
        ("a,b", "2.50,true", ["2.50", "true"]),
        ("1,2", "4.0,5", [4, 5]),
        ("1.5,2.5", "4,1e3", [4.0, 1000.0]),
        ("true,false", "FALSE,True", [False, True]),
        ("1,2", "n/a,N/A", [None, None]),
    ],
)
def test_values_join_a_column_of_another_type_where_nothing_is_lost(db, first, then, expected):
    for number, values in enumerate((first, then)):
        a, b = values.split(",")
        done = labels(db, f"key,x\nk0,{a}\nk1,{b}\nk2,\n" if number else f"key,x\nk0,{a}\nk1,{b}\n", "--columns", "x")
        if all(value is None for value in expected) and number:
            assert (done.code, "no value in x" in done.err) == (1, True)
            return
        assert done.code == 0, done.err
    assert [column(db, "x")[key] for key in ("k0", "k1")] == expected


@pytest.mark.case("T11")
@pytest.mark.parametrize(("first", "then"), [("1", "4.5"), ("1", "x"), ("1.5", "x"), ("true", "2"), ("1", "true")])
def test_values_that_would_lose_something_are_refused(db, first, then):
    assert labels(db, f"key,x\nk0,{first}\n").code == 0
    done = labels(db, f"key,x\nk1,{then}\n")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "cannot be one column" in done.err
    assert "--columns x=NAME" in done.err


@pytest.mark.case("T11")
@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([4, None], pa.int32(), 4),
        ([4.0, None], pa.float64(), 4),
        (["4", None], pa.string_view(), 4),
        (["4", None], pa.large_string(), 4),
        (["4", None], pa.dictionary(pa.int8(), pa.string()), 4),
    ],
)
def test_parquet_values_of_another_type_join_a_column_of_whole_numbers(db, values, kind, stored):
    assert labels(db, "key,x\nk0,1\nk1,1\n").code == 0
    keys = pa.array(["k0", "k1"], pa.string_view() if pa.types.is_string_view(kind) else pa.large_string())
    pa.parquet.write_table(pa.table({"key": keys, "x": pa.array(values, kind)}), db.parent / "labels.parquet")
    done = call("indexer", "labels", db, db.parent / "labels.parquet")
    assert done.code == 0, done.err
    assert [column(db, "x")[key] for key in ("k0", "k1")] == [stored, None]


@pytest.mark.case("T11")
def test_words_for_missing_are_so_in_label_columns_and_may_be_keys(tmp_path):
    store = make_table(tmp_path / "db", unit_rows(1, 8))
    add_shard(store, "second", ["NA", "n/a"], unit_rows(2, 8))
    done = labels(tmp_path / "db", "key,x,y\nNA,1,n/a\nn/a,n/a,a\nk0,2,N/A\n")
    assert done.code == 0, done.err
    assert column(tmp_path / "db", "x") == {"k0": 2, "NA": 1, "n/a": None}
    assert column(tmp_path / "db", "y") == {"k0": None, "NA": None, "n/a": "a"}


def test_so_many_labels_without_a_row_that_their_spellings_are_not_tried_is_said(db, monkeypatch):
    monkeypatch.setattr("indexer.store.labelling.join.MOST_FORGIVEN", 1)
    done = labels(db, "key,a\nk0,1\nK1,2\nK2,3\n", "--json")
    assert (done.json["rows_labelled"], done.json["labels_without_row"]) == (1, 2)
    assert "of more than 1 such labels other spellings are not looked for" in done.json["notes"]


@pytest.mark.parametrize("packed", [False, True])
def test_labels_may_come_through_a_pipe(db, tmp_path, packed):
    text = "key,said\n" + "".join(f"k{i},{'long ' * 500}{i}\n" for i in range(60))  # more than is read at once
    pipe = tmp_path / "labels"
    os.mkfifo(pipe)
    writer = threading.Thread(
        target=lambda: pipe.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    )
    writer.start()
    done = call("indexer", "labels", db, pipe, "--json")
    writer.join(60)
    assert done.code == 0, done.err
    assert column(db, "said") == {f"k{i}": f"{'long ' * 500}{i}" for i in range(6)}
