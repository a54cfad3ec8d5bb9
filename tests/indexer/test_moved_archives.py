"""Archives that move: `indexer relocate`, and images that the table has already under another address."""

from __future__ import annotations

import hashlib
import shutil

import lance
import numpy as np
import pytest

from indexer.archive.reader import read_place
from indexer.store.rows import PLACE_COLUMNS, place_of
from indexer.store.table import EmbeddingStore
from tests.archives import archive, png, write_tar
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.killed import killed_after

IMAGES = 24


class CommandEncoder(FakeEncoder):
    """What the command line loads."""

    def with_pixels(self, pixels):
        assert pixels == self.spec.pixels
        return self


@pytest.fixture
def encoder(monkeypatch):
    """The encoder of every command of a test, which counts what is asked of it."""
    import indexer.encoders

    fake = CommandEncoder()
    monkeypatch.setattr(indexer.encoders, "load", lambda *_, **__: fake)
    monkeypatch.setattr(indexer.encoders, "precision_check", lambda *_: 1.0)
    return fake


@pytest.fixture(params=["tar", "folder"])
def source(request, tmp_path):
    """An archive with one damaged image."""
    if request.param == "tar":
        folder = archive(tmp_path, shards=3, images=IMAGES // 3)
        write_tar(folder / "bad.tar", [("bad.png", png(99)[:50])])
        return folder
    folder = tmp_path / "photos"
    (folder / "a b").mkdir(parents=True)
    for i in range(IMAGES):
        (folder / ("a b" if i % 2 else ".") / f"ü{i}.png").write_bytes(png(i))
    (folder / "bad.png").write_bytes(png(99)[:50])
    return folder


def index(folder, db, *more):
    done = call("indexer", "index", folder, db, "--table", "t", "--json", *more)
    assert done.code == 0, done.err
    return done.json


def rows(db):
    """Key → its row without the address, and its vector's bytes."""
    read = EmbeddingStore.open(str(db)).vectors(columns=["key", "member", "offset", "content", "meta", "norm"])
    return {row["key"]: (row, v.tobytes()) for row, v in zip(read.columns.to_pylist(), read.vectors, strict=True)}


def vector_files(db):
    """The files in which the vectors lie: Lance names each new file at random."""
    dataset = lance.dataset(str(db / "t.lance"))
    (number,) = [field.id() for field in dataset.lance_schema.fields() if field.name() == "vector"]
    found = [f.path for fragment in dataset.get_fragments() for f in fragment.data_files() if number in f.fields]
    assert found
    return found


def failures(db):
    return sorted((f["shard"], f["key"], f["reason"]) for f in EmbeddingStore.open(str(db)).failures().to_pylist())


def require_readable(db, root):
    """Every row's bytes are read back from below `root`; the table's own hash is checked by hand."""
    store = EmbeddingStore.open(str(db))
    urls = store.urls()
    found = store.vectors(columns=[*PLACE_COLUMNS, "content"]).columns.to_pylist()
    for row in found:
        assert row["shard"].startswith((f"{root}/", f"{root}#"))
        data = read_place(urls[row["shard"]], place_of(row), row["content"], roots=[str(root)])
        assert hashlib.sha256(data).hexdigest() == row["content"]
    assert len(found) == IMAGES


@pytest.mark.case("U2")
@pytest.mark.parametrize("copied", ["moved", "copied without times"])
def test_a_relocated_archive_is_read_at_the_new_place_and_nothing_is_embedded_again(source, tmp_path, encoder, copied):
    db, new = tmp_path / "db", tmp_path / "elsewhere" / "archive"
    first = index(source, db)
    assert (first["embedded"], first["failed"]) == (IMAGES, 1)
    before, asked = rows(db), encoder.pictures
    files = vector_files(db)
    if copied == "moved":
        new.parent.mkdir()
        source.rename(new)
    else:
        shutil.copytree(source, new, copy_function=shutil.copyfile)
        shutil.rmtree(source)
    done = call("indexer", "relocate", db, source, new, "--json")
    assert done.code == 0, done.err
    assert (done.json["rows"], done.json["images_checked"], done.json["changed"]) == (IMAGES, IMAGES, [])
    assert rows(db) == before
    assert vector_files(db) == files
    require_readable(db, new)
    assert [(shard.startswith(str(new)), reason) for shard, _, reason in failures(db)] == [(True, "truncated")]
    again = index(new, db)
    assert (again["images"], again["shards_skipped"]) == (0, first["shards_done"])
    assert encoder.pictures == asked
    same = call("indexer", "relocate", db, source, new)
    assert (same.code, same.out.split(":")[0]) == (0, "nothing to do")


@pytest.mark.case("U2")
def test_a_place_with_other_bytes_is_refused_by_name_and_nothing_is_changed(source, tmp_path, encoder):
    db, new = tmp_path / "db", tmp_path / "new"
    index(source, db)
    shutil.copytree(source, new)
    some = next(p for p in sorted(new.rglob("*")) if p.suffix == (".tar" if source.name == "shards" else ".png"))
    data = bytearray(some.read_bytes())
    at = data.find(b"IDAT") + 8
    data[at] ^= 0xFF
    some.write_bytes(data)
    before, ledger = rows(db), EmbeddingStore.open(str(db)).ledger().to_pylist()
    done = call("indexer", "relocate", db, source, new)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "1 of 24 sampled images are not at the new place" in done.err
    assert "bytes differ" in done.err
    shutil.rmtree(new)
    (new / "else").mkdir(parents=True)
    assert "not at the new place" in call("indexer", "relocate", db, source, new).err
    assert "does not exist" in call("indexer", "relocate", db, source, tmp_path / "none").err
    assert "no shard of table t lies at or below" in call("indexer", "relocate", db, tmp_path / "none", new).err
    assert (rows(db), EmbeddingStore.open(str(db)).ledger().to_pylist()) == (before, ledger)


@pytest.mark.parametrize("step", range(1, 6))
def test_a_relocation_that_dies_between_two_writes_is_completed_by_the_same_command(
    source, tmp_path, encoder, monkeypatch, step
):

    db, new = tmp_path / "db", tmp_path / "new"
    first = index(source, db)
    before = rows(db)
    source.rename(new)
    with killed_after(step):
        call("indexer", "relocate", db, source, new)
    assert rows(db) == before  # at every step each row is there once
    done = call("indexer", "relocate", db, source, new)
    assert done.code == 0, done.err
    assert rows(db) == before
    require_readable(db, new)
    assert len(failures(db)) == 1
    (counts,) = {
        (e["embedded"] > 0, e["status"]) for e in EmbeddingStore.open(str(db)).ledger().to_pylist() if e["embedded"]
    }
    assert counts == (True, "done")
    assert sum(e["embedded"] for e in EmbeddingStore.open(str(db)).ledger().to_pylist()) == IMAGES
    assert (index(new, db)["images"], index(new, db)["shards_skipped"]) == (0, first["shards_done"])


def test_labels_and_the_index_outlive_a_relocation(source, tmp_path, encoder):
    db, new = tmp_path / "db", tmp_path / "new"
    index(source, db)
    key = min(rows(db))
    (tmp_path / "labels.csv").write_text(f"key,grade\n{key},7\n")
    assert call("indexer", "labels", db, tmp_path / "labels.csv").code == 0
    assert call("indexer", "build-ann", db).code == 0
    query = ("search", db, "--key", key, "-k", "5", "--json")
    hits = call("indexer", *query).json["queries"]
    source.rename(new)
    assert call("indexer", "relocate", db, source, new).code == 0
    found = call("indexer", *query).json["queries"]
    assert [h["key"] for h in found[0]["hits"]] == [h["key"] for h in hits[0]["hits"]]
    assert np.allclose([h["score"] for h in found[0]["hits"]], [h["score"] for h in hits[0]["hits"]], atol=1e-6)
    labelled = EmbeddingStore.open(str(db)).vectors("grade = 7", ["key"]).columns["key"].to_pylist()
    assert labelled == [key]


@pytest.mark.case("U2")
def test_an_archive_that_moved_is_adopted_without_embedding_and_relocate_then_moves_the_addresses(
    source, tmp_path, encoder
):
    db, new = tmp_path / "db", tmp_path / "new"
    first = index(source, db)
    before, asked = rows(db), encoder.pictures
    source.rename(new)
    again = index(new, db)
    assert (again["embedded"], again["adopted"], again["failed"]) == (0, IMAGES, 1)  # what failed is tried again
    assert (encoder.pictures, rows(db)) == (asked, before)
    ledger = [e for e in EmbeddingStore.open(str(db)).ledger().to_pylist() if e["shard"].startswith(str(new))]
    assert (sum(e["adopted"] for e in ledger), sum(e["embedded"] for e in ledger)) == (IMAGES, 0)
    assert {e["status"] for e in ledger} == {"done"}
    third = index(new, db)
    assert (third["images"], third["adopted"], third["shards_skipped"]) == (0, 0, first["shards_done"])
    assert call("indexer", "relocate", db, source, new).code == 0
    assert rows(db) == before
    require_readable(db, new)
    assert len(failures(db)) == 1
    assert (index(new, db)["shards_skipped"], encoder.pictures) == (first["shards_done"], asked)


@pytest.mark.case("U2")
def test_the_report_says_that_relocate_moves_the_addresses(tmp_path, encoder):
    folder = archive(tmp_path, shards=1, images=4)
    index(folder, tmp_path / "db")
    folder.rename(tmp_path / "new")
    done = call("indexer", "index", tmp_path / "new", tmp_path / "db", "--table", "t")
    assert "4 images adopted" in done.out
    assert "`indexer relocate DB OLD NEW`" in done.out


def test_the_same_key_with_other_bytes_and_a_key_twice_in_a_shard_stay_failures(tmp_path, encoder):
    write_tar(tmp_path / "a.tar", [("k.png", png(1)), ("x.png", png(2))])
    write_tar(tmp_path / "b.tar", [("k.png", png(3)), ("x.png", png(2)), ("y.png", png(4)), ("y.png", png(4))])
    index(tmp_path / "a.tar", tmp_path / "db")
    report = index(tmp_path / "b.tar", tmp_path / "db")
    assert (report["embedded"], report["adopted"], report["reasons"]) == (1, 1, {"duplicate key": 2})
    b = str(tmp_path / "b.tar")
    assert failures(tmp_path / "db") == [(b, "k", "duplicate key"), (b, "y", "duplicate key")]


def test_shards_of_one_run_adopt_as_those_of_two_runs_do(tmp_path, encoder):
    for name, seeds in (("a", (1, 2, 3)), ("b", (3, 4)), ("c", (1, 4, 5))):
        write_tar(tmp_path / f"{name}.tar", [(f"im{i}.png", png(i)) for i in seeds])
    one = call("indexer", "index", *(tmp_path / f"{n}.tar" for n in "abc"), tmp_path / "one", "--table", "t", "--json")
    assert one.code == 0, one.err
    two = [index(tmp_path / f"{n}.tar", tmp_path / "two") for n in "abc"]
    assert (one.json["embedded"], one.json["adopted"]) == (5, 3)
    assert [(r["embedded"], r["adopted"]) for r in two] == [(3, 0), (1, 1), (1, 2)]
    assert rows(tmp_path / "one").keys() == rows(tmp_path / "two").keys() == {f"im{i}" for i in range(1, 6)}


def test_an_image_that_a_replaced_shard_lost_is_embedded_from_the_shard_that_had_adopted_it(tmp_path, encoder):
    a, b, db = tmp_path / "a.tar", tmp_path / "b.tar", tmp_path / "db"
    write_tar(a, [("x.png", png(1)), ("y.png", png(2))])
    write_tar(b, [("x.png", png(1)), ("z.png", png(3))])
    index(a, db)
    assert index(b, db)["adopted"] == 1
    write_tar(a, [("y.png", png(2)), ("w.png", png(4)), ("v.png", png(5))])
    report = index(a, db, "--changed", "replace")
    assert sorted(rows(db)) == ["v", "w", "y", "z"]
    assert any("read again" in words for words in report["warnings"])
    last = call("indexer", "index", a, b, db, "--table", "t", "--json")
    assert (last.code, sorted(rows(db))) == (0, ["v", "w", "x", "y", "z"])
    assert rows(db)["x"][0]["content"] == hashlib.sha256(png(1)).hexdigest()


def test_an_image_that_moves_between_two_changed_shards_is_never_lost(tmp_path, encoder):
    a, b, db = tmp_path / "a.tar", tmp_path / "b.tar", tmp_path / "db"
    for order in ((a, b), (b, a)):
        write_tar(a, [("x.png", png(1)), ("y.png", png(2))])
        write_tar(b, [("z.png", png(3))])
        shutil.rmtree(db, ignore_errors=True)
        call("indexer", "index", *order, db, "--table", "t")
        write_tar(a, [("y.png", png(2))])
        write_tar(b, [("z.png", png(3)), ("x.png", png(1)), ("w.png", png(4))])
        for _ in range(2):
            done = call("indexer", "index", *order, db, "--table", "t", "--changed", "replace")
            assert done.code == 0, done.err
        named = {key for _, key, _ in failures(db)}
        assert rows(db).keys() | named == {"w", "x", "y", "z"}
        assert len(rows(db)) + len(named) == 4


@pytest.mark.case("U2")
def test_health_says_which_images_cannot_be_read_back_and_how_to_relocate(source, tmp_path, encoder):
    db, new = tmp_path / "db", tmp_path / "new"
    index(source, db)

    def health():
        report = call("indexer", "health", db, "--json").json
        return report["sources"], [p for p in report["problems"] if "relocate" in p]

    sound = {"checked": IMAGES, "unreadable": 0, "shards_missing": 0, "shards_not_checked": 0}
    assert health() == (sound, [])
    shards = len(EmbeddingStore.open(str(db)).ledger())
    source.rename(new)
    facts, problems = health()
    assert facts == sound | {"unreadable": IMAGES, "shards_missing": shards}
    assert [p.split(",")[0] for p in problems] == [
        f"{shards} of {shards} shards are missing",
        f"{IMAGES} of {IMAGES} sampled images cannot be read back",
    ]
    assert "sources" in call("indexer", "health", db).out
    assert call("indexer", "health", db, "--strict").code == 1
    assert call("indexer", "relocate", db, source, new).code == 0
    assert health() == (sound, [])


def test_health_opens_no_address_that_this_user_did_not_index_from(source, tmp_path, encoder, monkeypatch):
    db = tmp_path / "db"
    index(source, db)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    report = call("indexer", "health", db, "--json").json
    shards = len(EmbeddingStore.open(str(db)).ledger())
    assert report["sources"] == {
        "checked": 0, "unreadable": 0, "shards_missing": 0, "shards_not_checked": shards,
    }  # fmt: skip
