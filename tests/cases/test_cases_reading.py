"""Faults found by use in reading archives: names and keys (R7, R8). Webdataset's own reading is the witness."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import lance
import pytest
from webdataset.tariterators import base_plus_ext, group_by_keys, tar_file_expander

from indexer.archive.reader import read_shard
from indexer.archive.samples import split_first
from indexer.archive.shards import find_shards
from indexer.store.table import EmbeddingStore
from indexer.types import KeyRule, Sample
from tests.archives import png, write_tar
from tests.commands import call
from tests.fakes import AnyPlane


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """The commands run with a quick encoder."""
    monkeypatch.setattr("indexer.encoders.load", lambda *_, **__: AnyPlane())


def index(*arguments: object):
    return call("indexer", "index", *arguments, "--precision", "fp32", "--workers", 1, "--json")


def rows(db: Path, *columns: str) -> dict[str, object]:
    found = EmbeddingStore.open(str(db)).vectors(columns=["key", *columns]).columns.to_pydict()
    values = zip(*(found[name] for name in columns), strict=True) if columns else ((),) * len(found["key"])
    return dict(sorted(zip(found["key"], values, strict=True)))


MEMBERS = [
    ("s1.jpg", png(1)), ("s1.seg.png", png(2)), ("s1.json", b'{"n": 1}'), ("s1.npy", b"numbers"),
    ("d/m1.cam0.jpg", png(3)), ("d/m1.cam1.jpg", png(4)), ("d/m1.json", b'{"n": 2}'),
    ("v1.5/x.seg.png", png(5)), ("v1.5/x.png", png(6)), ("v1.5/x.txt", b"words"), ("v1.5/x.depth.png", png(7)),
    ("b.nii.gz", b"\x1f\x8b"), ("b.json", b'{"n": 3}'),
]  # fmt: skip


@pytest.mark.case("R7")
def test_first_dot_makes_the_samples_that_webdataset_makes(tmp_path):
    path = write_tar(tmp_path / "s.tar", MEMBERS)
    with path.open("rb") as stream:
        theirs = list(group_by_keys(tar_file_expander([{"url": "s", "stream": stream}])))
    assert [s["__key__"] for s in theirs] == ["s1", "d/m1", "v1.5/x", "b"]
    (shard,) = find_shards([str(path)]).shards
    ours = list(read_shard(replace(shard, keys=KeyRule("first-dot"))))
    assert [s.key for s in ours] == [s["__key__"] for s in theirs]
    for own, their in zip(ours, theirs, strict=True):
        ending = own.member.removeprefix(f"{own.key}.")
        assert own.image == their[ending]
        if "json" in their:
            assert own.metadata == json.loads(their["json"])
    assert [s.member for s in ours] == ["s1.jpg", "d/m1.cam0.jpg", "v1.5/x.png", "b.nii.gz"]


@pytest.mark.parametrize("name", [m for m, _ in MEMBERS] + ["a/b/c.d.e.JPG", "1.2.840.10008.dcm", "x..png", "ä.ö.png"])
@pytest.mark.case("R7")
def test_first_dot_is_webdatasets_rule_for_names(name):
    key, ending = base_plus_ext(name)
    assert split_first(name) == (key, ending.lower())


@pytest.mark.case("R7")
def test_of_each_rule_every_member_is_a_row_metadata_or_counted_by_its_reason(tmp_path):
    write_tar(tmp_path / "s.tar", [m for m in MEMBERS if not m[0].startswith("b.")])
    first = index(tmp_path / "s.tar", tmp_path / "first", "--key", "first-dot")
    assert first.code == 0, first.err
    assert rows(tmp_path / "first", "n") == {"d/m1": (2,), "s1": (1,), "v1.5/x": (None,)}
    flags = first.json["flags"]
    passed = "passed over, since the sample has another image"
    expected = {f"{passed}: .{e}": 1 for e in ("seg.png", "cam1.jpg", "depth.png")}
    expected[f"{passed}: .seg.png"] = 2
    expected["passed over, neither image nor metadata: .npy"] = 1
    chosen = [f for f in flags if f.startswith("image of its sample as its first one")]
    assert {f: n for f, n in flags.items() if f not in chosen} == expected
    assert [f.rpartition(": ")[2] for f in chosen] == [".cam0.jpg"]
    assert first.json["failed"] == 0

    last = index(tmp_path / "s.tar", tmp_path / "last")
    assert rows(tmp_path / "last", "n") == {
        "d/m1.cam0": (None,), "d/m1.cam1": (None,), "s1": (1,), "s1.seg": (None,),
        "v1.5/x": (None,), "v1.5/x.depth": (None,), "v1.5/x.seg": (None,),
    }  # fmt: skip
    assert last.json["reasons"] == {"no image in sample": 1}  # d/m1.json
    told = call("indexer", "failures", tmp_path / "last", "--json").json
    assert "--key first-dot" in json.dumps(told)
    assert last.json["flags"] == {"passed over, neither image nor metadata: .npy": 1}


@pytest.mark.case("R7")
def test_the_rule_is_kept_with_the_table_and_another_one_is_refused_in_one_line(tmp_path):
    one = write_tar(tmp_path / "one.tar", [("s1.jpg", png(1)), ("s1.seg.png", png(2))])
    two = write_tar(tmp_path / "two.tar", [("s2.jpg", png(3)), ("s2.seg.png", png(4))])
    db = tmp_path / "db"
    index(one, db, "--key", "first-dot", "--prefix", 0)
    assert index(two, db).code == 0  # without the option: the table's own rule
    assert list(rows(db)) == ["s1", "s2"]
    other = index(two, db, "--key", "last-dot")
    assert (other.code, len(other.err.splitlines())) == (1, 1)
    assert "one table has one rule" in other.err
    assert "--table" in other.err
    assert "first-dot" in call("indexer", "info", db).out
    call("indexer", "index", two, tmp_path / "old", "--precision", "fp32")
    assert index(one, tmp_path / "old", "--key", "first-dot").code == 1


@pytest.mark.case("R7")
def test_a_table_made_before_the_rule_could_be_chosen_keeps_its_keys(tmp_path):
    index(write_tar(tmp_path / "a.tar", [("s1.jpg", png(1)), ("s1.seg.png", png(2))]), tmp_path / "db")
    stored = lance.dataset(str(EmbeddingStore.open(str(tmp_path / "db")).path)).schema.metadata[b"embedding-indexer"]
    assert "keys" not in json.loads(stored)  # as an earlier version wrote it
    index(write_tar(tmp_path / "b.tar", [("s2.jpg", png(3)), ("s2.seg.png", png(4))]), tmp_path / "db")
    assert list(rows(tmp_path / "db")) == ["s1", "s1.seg", "s2", "s2.seg"]


@pytest.mark.case("R7")
def test_failures_are_retried_by_the_tables_rule(tmp_path, monkeypatch):
    cut = png(1)[:60]
    path = write_tar(tmp_path / "s.tar", [("s1.png", cut), ("s1.seg.png", png(2)), ("s1.json", b'{"n": 4}')])
    assert index(path, tmp_path / "db", "--key", "first-dot", "--prefix", 1).json["failed"] == 1
    monkeypatch.setattr("indexer.encoders.load_spec", lambda *_, **__: AnyPlane())
    again = call("indexer", "failures", tmp_path / "db", "--retry", "--json")
    assert again.json["failed"] == 1, again.err
    (failure,) = call("indexer", "failures", tmp_path / "db", "--json").json
    assert failure["key"] == "s/s1"


@pytest.mark.case("R7")
def test_endings_without_number_do_not_fill_the_report(tmp_path):
    members = [("1.2.png", png(0)), *((f"1.2.{n}.840.{n}.png", png(n % 7)) for n in range(200))]
    report = index(write_tar(tmp_path / "s.tar", members), tmp_path / "db", "--key", "first-dot").json
    assert report["embedded"] == 1
    assert sum(report["flags"].values()) == 201
    assert len(report["flags"]) <= 53


def test_a_sample_keeps_what_comes_after_the_samples_that_its_key_begins(tmp_path):
    members = [("a.png", png(1)), ("a.b.png", png(2)), ("a.b.c.png", png(3)), ("a.b.json", b'{"n": 2}'),
               ("a.json", b'{"n": 1}'), ("a.png", png(4)), ("a.json", b'{"n": 4}')]  # fmt: skip
    (shard,) = find_shards([str(write_tar(tmp_path / "s.tar", members))]).shards
    found = [(s.key, s.offset, s.metadata) for s in read_shard(shard) if isinstance(s, Sample)]
    assert sorted(((key, facts) for key, _, facts in found if facts), key=str) == [
        ("a", {"n": 1}), ("a", {"n": 4}), ("a.b", {"n": 2}),
    ]  # fmt: skip
    assert len(found) == 4


@pytest.mark.case("R7")
def test_pack_with_first_dot_writes_samples_that_webdataset_reads_apart(tmp_path):
    (tmp_path / "in" / "v1.5").mkdir(parents=True)
    for name in ("s1.png", "s1.seg.png", "s1%2Eseg.png", "v1.5/a.b.png"):
        (tmp_path / "in" / name).write_bytes(png(len(name)))
    for rule, count in (("last-dot", 3), ("first-dot", 4)):
        done = call("indexer", "pack", tmp_path / "in", tmp_path / rule, "--key", rule, "--json")
        assert done.json["packed"] == 4, done.err
        with (tmp_path / rule / "shard-000000.tar").open("rb") as stream:
            theirs = list(group_by_keys(tar_file_expander([{"url": "s", "stream": stream}])))
        assert len(theirs) == count
    keys = {s["__key__"]: set(s) for s in theirs}
    assert keys.keys() == {"s1", "s1%2Eseg", "s1%252Eseg", "v1.5/a%2Eb"}
    assert all({"png", "json"} <= names for names in keys.values())
    mixed = call("indexer", "pack", tmp_path / "in", tmp_path / "last-dot", "--key", "first-dot")
    assert (mixed.code, len(mixed.err.splitlines())) == (1, 1)


@pytest.mark.case("R8")
def test_equal_names_in_two_folders_get_the_way_out_and_it_works(tmp_path):
    for number, part in enumerate(("train", "test")):
        (tmp_path / "two" / part / "x").mkdir(parents=True)
        for name in ("1.png", "x/2.png"):
            (tmp_path / "two" / part / name).write_bytes(png(10 * number + len(name)))
    sources = [tmp_path / "two" / "train", tmp_path / "two" / "test"]
    told = index(*sources, tmp_path / "db")
    assert told.json["reasons"] == {"duplicate key": 2}
    assert [w for w in told.json["warnings"] if "--prefix 1" in w and "--table" in w]
    assert "--table" in index(*sources, tmp_path / "db", "--prefix", 1).err
    done = index(*sources, tmp_path / "db", "--prefix", 1, "--table", "t")
    assert (done.code, done.json["embedded"], done.json["warnings"]) == (0, 4, [])
    store = EmbeddingStore.open(str(tmp_path / "db"), "t")
    keys = store.vectors(columns=["key"]).columns.column("key").to_pylist()
    assert sorted(keys) == ["test/1.png", "test/x/2.png", "train/1.png", "train/x/2.png"]
    # the keys do not depend on which folders a run names, nor on how
    (tmp_path / "two" / "test" / "3.png").write_bytes(png(30))
    again = index(f"{tmp_path}/two/./t*t/", tmp_path / "db", "--changed", "replace", "--table", "t")
    assert again.code == 0, again.err
    store.refresh()
    assert sorted(store.vectors(columns=["key"]).columns.column("key").to_pylist()) == sorted([*keys, "test/3.png"])


@pytest.mark.case("R8")
def test_tars_of_equal_names_are_prefixed_by_their_paths(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
        write_tar(tmp_path / part / "000.tar.gz", [("a.png", png(len(part)))], "w:gz")
    done = index(tmp_path / "train", tmp_path / "test", tmp_path / "db", "--prefix", 2)
    assert done.json["embedded"] == 2, done.err
    assert list(rows(tmp_path / "db")) == ["test/000/a", "train/000/a"]
    command = index(f"pipe:cat {tmp_path}/train/000.tar.gz", tmp_path / "db")
    assert command.code == 1
    assert "has no path" in command.err


@pytest.mark.case("R7")
@pytest.mark.parametrize("rule", [[1], {"split": "other"}, {"prefix": "1"}, {"prefix": -1}, {"prefix": True}, {"x": 1}])
def test_a_table_of_a_rule_that_is_not_known_is_refused_in_one_line(tmp_path, rule):
    index(write_tar(tmp_path / "a.tar", [("s1.jpg", png(1))]), tmp_path / "db")
    dataset = lance.dataset(str(EmbeddingStore.open(str(tmp_path / "db")).path))
    facts = json.loads(dataset.schema.metadata[b"embedding-indexer"])
    dataset.update_schema_metadata({"embedding-indexer": json.dumps(facts | {"keys": rule})})
    told = call("indexer", "info", tmp_path / "db")
    assert (told.code, len(told.err.splitlines())) == (1, 1)
    assert "a rule that this version does not know" in told.err


@pytest.mark.case("R7")
def test_the_choices_of_the_command_lines_are_the_rules(tmp_path):
    from indexer.cli import group
    from indexer.types import SPLITS

    for name in ("index", "pack"):
        command = group.get_command(None, name)
        (option,) = [p for p in command.params if p.name == "split"]
        assert tuple(option.type.choices) == SPLITS


@pytest.mark.case("R2")
@pytest.mark.parametrize(("ending", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tar.xz", "w:xz")])
def test_archives_joined_by_cat_are_not_taken_for_the_first_of_them(tmp_path, ending, mode):
    parts = [write_tar(tmp_path / f"{i}", [(f"a{i}.png", png(i)), (f"b{i}.png", png(i + 5))], mode) for i in (0, 1)]
    (tmp_path / f"both.{ending}").write_bytes(b"".join(part.read_bytes() for part in parts))
    (shard,) = find_shards([str(tmp_path / f"both.{ending}")]).shards
    *read, last = read_shard(shard)
    assert [sample.key for sample in read if isinstance(sample, Sample)] == ["a0", "b0"]
    assert (last.key, last.reason) == ("a1", "after the end of the archive")
    write_tar(tmp_path / f"alone.{ending}", [("a.png", png(0))], mode)  # with its padding
    (alone,) = find_shards([str(tmp_path / f"alone.{ending}")]).shards
    assert [type(sample) for sample in read_shard(alone)] == [Sample]
