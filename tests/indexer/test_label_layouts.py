"""`indexer labels` on the layouts of public data sets: lists, uncertainty, one-hot, grades, readers, presets."""

from __future__ import annotations

import bz2
import gzip
import shlex

import pytest

from indexer.store.table import EmbeddingStore
from indexer.user_tables.presets import PRESETS
from tests.commands import call
from tests.published import PUBLISHED
from tests.tables import add_shard, spec_for, unit_rows

pytestmark = pytest.mark.case("M8")


def table(tmp_path, keys):
    add_shard(EmbeddingStore.create(str(tmp_path / "db"), "t", spec_for(8)), "first", keys, unit_rows(len(keys), 8))
    return tmp_path / "db"


@pytest.fixture
def db(tmp_path):
    return table(tmp_path, [f"k{i}" for i in range(5)])


def labels(db, text, *more, name="labels.csv"):
    (db.parent / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return call("indexer", "labels", db, db.parent / name, *more)


def columns(db, *names):
    rows = EmbeddingStore.open(str(db)).vectors(columns=["key", *names]).columns.to_pydict()
    values = list(zip(*(rows[name] for name in names), strict=True))
    return dict(sorted(zip(rows["key"], values if len(names) > 1 else rows[names[0]], strict=True)))


@pytest.mark.parametrize("option", ["|", "Finding Labels=|"])
def test_a_list_becomes_one_column_of_0_and_1_for_each_value_and_blank_stays_apart_from_none(db, option):
    text = "key,Finding Labels,age\nk0,Mass|Pleural Effusion,3\nk1,No Finding,4\nk2,,5\nk3, Mass ,6\n"
    done = labels(db, text, "--split-values", option)
    assert done.code == 0, done.err
    assert columns(db, "Mass", "pleural_effusion", "no_finding", "age") == {
        "k0": (1, 1, 0, 3), "k1": (0, 0, 1, 4), "k2": (None, None, None, 5), "k3": (1, 0, 0, 6), "k4": (None,) * 4,
    }  # fmt: skip
    assert "became 3 columns of 0 and 1" in done.out


def test_minus_one_beside_0_and_1_is_an_error_that_lists_the_choices_and_writes_nothing(db):
    before = EmbeddingStore.open(str(db)).version
    done = labels(db, "key,Edema,grade\nk0,1.0,-1\nk1,-1.0,5\nk2,0.0,3\nk3,,0\n")
    assert done.code == 1
    assert "Edema: -1 stands beside 0 and 1" in done.err
    assert all(choice in done.err for choice in ("-1=missing", "-1=0", "-1=1", "-1=class"))
    assert EmbeddingStore.open(str(db)).version == before


@pytest.mark.parametrize(
    ("rules", "edema", "mass"),
    [
        (["-1=missing"], [1, None, 0, None], [None, 1, 0, 0]),
        (["-1=1"], [1, 1, 0, None], [1, 1, 0, 0]),
        (["-1=0"], [1, 0, 0, None], [0, 1, 0, 0]),
        (["-1=class"], [1, -1, 0, None], [-1, 1, 0, 0]),
        (["Edema:-1=1", "Mass:-1=missing"], [1, 1, 0, None], [None, 1, 0, 0]),
    ],
)
def test_what_uncertain_means_is_the_users_choice_for_all_columns_or_for_one(db, rules, edema, mass):
    options = [word for rule in rules for word in ("--uncertain", rule)]
    done = labels(db, "key,Edema,Mass\nk0,1.0,-1\nk1,-1.0,1\nk2,0.0,0\nk3,,0\n", *options)
    assert done.code == 0, done.err
    assert columns(db, "Edema", "Mass") == {
        **{f"k{i}": pair for i, pair in enumerate(zip(edema, mass, strict=True))}, "k4": (None, None),
    }  # fmt: skip
    again = labels(db, "key,Edema,Mass\nk0,1.0,-1\nk1,-1.0,1\nk2,0.0,0\nk3,,0\n", *options)
    assert again.code == 0, again.err


def test_one_hot_columns_become_one_class_and_two_classes_of_one_image_are_refused(db):
    text = "image,MEL,NV,UNK\nk0,1.0,0.0,0.0\nk1,0,1,0\nk2,0,0,0\n"
    done = labels(db, text, "--on", "image=key", "--one-hot", "MEL,NV,UNK=diagnosis")
    assert done.code == 0, done.err
    assert columns(db, "diagnosis") == {"k0": "MEL", "k1": "NV", "k2": None, "k3": None, "k4": None}
    assert "1 rows have no class" in done.out
    twice = labels(db, text + "k3,1,1,0\n", "--on", "image=key", "--one-hot", "MEL,NV,UNK=diagnosis")
    assert (twice.code, "k3 is MEL and NV" in twice.err) == (1, True)


def test_grades_in_words_become_numbers_in_the_order_given(db):
    done = labels(db, "key,dr\nk0,Mild\nk1,none\nk2,Severe\nk3,\n", "--grades", "dr=None <mild<severe")
    assert done.code == 0, done.err
    assert columns(db, "dr") == {"k0": 1, "k1": 0, "k2": 2, "k3": None, "k4": None}
    wrong = labels(db, "key,dr\nk0,Moderate\n", "--grades", "dr=none<mild")
    assert "no grade is called Moderate; they are none < mild" in wrong.err


READERS = "key,edema,who\nk0,1,a\nk0,0,a\nk0,1,a\nk1,0,b\nk1,,b\nk2,1,c\nk2,0,c\n"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("max", [1, 0, 1]), ("mean", [2 / 3, 0, 0.5]), ("majority", [1, 0, None]), ("first", [1, 0, 1])],
)
def test_several_rows_of_one_name_are_merged_by_the_rule_chosen_else_refused(db, rule, expected):
    refused = labels(db, READERS).err
    assert all(name in refused for name in ("'k0'", "'k1'", "'k2'", "--repeated"))
    done = labels(db, READERS, "--repeated", rule)
    assert done.code == 0, done.err
    assert [columns(db, "edema")[f"k{i}"] for i in range(3)] == pytest.approx(expected)
    assert columns(db, "who")["k2"] == "c"


def test_rows_that_must_agree_and_do_not_are_named(db):
    done = labels(db, READERS, "--repeated", "same")
    assert "the rows of k0 differ in edema" in done.err
    assert labels(db, READERS, "--repeated", "same", "--without", "edema").code == 0


def test_a_column_from_the_key_lets_labels_of_a_study_join_each_of_its_images(tmp_path):
    db = table(tmp_path, ["files/p10/p10000032/s50414267/a.jpg", "files/p10/p10000032/s50414267/b.jpg", "x.jpg"])
    done = labels(db, "study_id,Edema\n50414267,1\n", "--from-key", r"/s(?P<study>\d+)/", "--on", "study_id=study")
    assert done.code == 0, done.err
    assert list(columns(db, "study", "Edema").values()) == [("50414267", 1), ("50414267", 1), (None, None)]
    alone = call("indexer", "labels", db, "--from-key", r"^(?P<stem>[^.]+)")
    assert (alone.code, columns(db, "stem")["x.jpg"]) == (0, "x")
    assert "matches no key, such as 'files/p10" in call("indexer", "labels", db, "--from-key", "(?P<z>zzz)").err
    assert call("indexer", "labels", db, "--on", "key").code == 2


@pytest.mark.parametrize("text", ["sep=;\r\nkey;grade\r\nk0;1\r\nk1;2\r\n", "\ufeffsep=\t\nkey\tgrade\nk0\t1\nk1\t2\n"])
def test_the_line_by_which_excel_is_told_the_delimiter_is_no_header(db, text):
    done = labels(db, text)
    assert done.code == 0, done.err
    assert list(columns(db, "grade").values()) == [1, 2, None, None, None]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_compressed_file_of_labels_is_read_and_a_cut_one_refused(db, pack):
    data = pack(b"key,grade\n" + b"".join(b"k%d,1\n" % i for i in range(5)))
    assert labels(db, data, name="labels.csv.gz").code == 0
    assert columns(db, "grade")["k4"] == 1
    cut = labels(db, data[:-9], name="labels.csv.gz")
    assert (cut.code, "is damaged" in cut.err) == (1, True)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--split-values", "a=", "names no mark"), ("--split-values", "#", "no column holds '#'"),
        ("--one-hot", "a=b", "two columns or more"), ("--one-hot", "key2,n=x", "no label column 'key2'"),
        ("--uncertain", "-1=perhaps", "missing, 0, 1, class"), ("--uncertain", "n:9=0", "never holds 9"),
        ("--grades", "n=1", "low to high"), ("--preset", "chexprt", "there are: chexpert"),
        ("--preset", "medmnist", "in the .npz"), ("--without", "nix", "has no column nix"),
        ("--from-key", "(", "named groups"),
    ],
)  # fmt: skip
def test_a_choice_that_cannot_be_followed_is_one_line_with_the_way_out(db, option, value, words):
    done = labels(db, "key,n,text\nk0,1,a\nk1,2,b\n", option, value)
    assert (done.code, words in done.err) == (1, True), done.err
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_reads_the_file_as_published_and_prints_its_choices(tmp_path, name):
    keys, text, expected = PUBLISHED[name]
    db = table(tmp_path, keys)
    done = labels(db, text, "--preset", name)
    assert done.code == 0, done.err
    first = done.err.splitlines()[0]
    assert first.startswith(f"preset {name} for {PRESETS[name].file} ({PRESETS[name].source}): ")
    for column, values in expected.items():
        assert list(columns(db, column).values()) == values, column
    typed = shlex.split(first.split("): ", 1)[1])  # what is printed can be typed instead
    other = tmp_path / "typed"
    other.mkdir()
    same = labels(table(other, keys), text, *typed)
    assert same.code == 0, same.err
    for column, values in expected.items():
        assert list(columns(other / "db", column).values()) == values


def test_every_preset_is_tried_on_its_file_and_has_a_source():
    assert set(PUBLISHED) == {name for name, preset in PRESETS.items() if preset.options}
    assert all(preset.source for preset in PRESETS.values())


def test_an_option_typed_beside_a_preset_goes_before(tmp_path):
    keys, text, _ = PUBLISHED["chexpert"]
    db = table(tmp_path, keys)
    assert labels(db, text, "--preset", "chexpert", "--uncertain", "-1=1").code == 0
    assert list(columns(db, "Edema").values()) == [None, 1, 1, 0]
