"""`indexer delete`: what is deleted is found nowhere, comes back never, and a receipt says so."""

from __future__ import annotations

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from indexer.store.table import EmbeddingStore
from tests.archives import picture, png
from tests.commands import call
from tests.indexer.test_moved_archives import encoder, failures, index, rows  # noqa: F401 - a fixture
from tests.killed import killed_after

IMAGES = 30
WITHDRAWN = ["patient-007-müller.png", "patient-011-müller.png", "patient-bad-müller.png"]

pytestmark = pytest.mark.usefixtures("encoder")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(IMAGES):
        (folder / f"patient-{i:03d}-müller.png").write_bytes(png(i))
    (folder / "patient-bad-müller.png").write_bytes(png(99)[:50])
    frames, buffer = [Image.fromarray(picture(500 + i)) for i in range(3)], io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    (folder / "cine-müller.gif").write_bytes(buffer.getvalue())
    return folder


@pytest.fixture
def db(photos, tmp_path):
    index(photos, tmp_path / "db")
    return tmp_path / "db"


def delete(db, keys, *more):
    (db.parent / "keys.txt").write_text("\n".join(keys) + "\n", encoding="utf-8")
    return call("indexer", "delete", db, "--keys", db.parent / "keys.txt", "--yes", "--json", *more)


def everything(db):
    """File → its name and bytes."""
    return {p: str(p).encode() + p.read_bytes() for p in db.rglob("*") if p.is_file() and not p.is_symlink()}


def holders(db, needles):
    """Which files hold one of these byte sequences."""
    return [str(p.relative_to(db)) for p, data in everything(db).items() if any(needle in data for needle in needles)]


def needles_of(db, keys):
    """The UTF-8 of the keys, and the vectors as float16 and as float32 rows."""
    vectors = [np.frombuffer(rows(db)[key][1], np.float16) for key in keys if key in rows(db)]
    return [k.encode() for k in keys], [v.tobytes() for v in vectors] + [v.astype("<f4").tobytes() for v in vectors]


@pytest.mark.case("U9")
def test_nothing_of_a_deleted_image_is_left_in_any_file_after_the_purge(db, photos):
    keys, vectors = needles_of(db, WITHDRAWN)
    assert call("indexer", "build-ann", db).code == 0
    (db / "t.probes").mkdir()
    (db / "t.probes" / "v1-0.npy").write_bytes(vectors[0])
    others = {key: row for key, row in rows(db).items() if key not in WITHDRAWN}
    assert any(".faiss" in name for name in holders(db, vectors))
    assert any(".lance/data" in name for name in holders(db, keys))
    done = delete(db, WITHDRAWN)
    assert done.code == 0, done.err
    report = done.json
    assert (report["images"], report["rows"], report["failures"], report["not_found"]) == (3, 2, 1, 0)
    assert (report["index_removed"], report["copies_removed"]) == (True, True)
    assert rows(db) == others
    call("indexer", "index", photos, db, "--table", "t", "--changed", "replace")  # the files are still there
    assert call("indexer", "build-ann", db).code == 0
    purged = call("indexer", "optimize", db, "--purge", "--json")
    assert purged.code == 0, purged.err
    assert holders(db, keys) == []
    assert holders(db, vectors) == []
    assert rows(db) == others
    hits = call("indexer", "search", db, "--key", "patient-000-müller.png", "-k", "3", "--json")
    assert hits.code == 0, hits.err
    assert call("indexer", "health", db, "--json").json["index"]["rows_gone"] == 0


@pytest.mark.case("U9")
def test_a_deleted_image_is_never_embedded_again_and_is_counted_by_its_hash(db, photos):
    before = rows(db)
    delete(db, WITHDRAWN[:2])
    identity = EmbeddingStore.open(str(db)).state.identity
    hashes = {hashlib.blake2b(key.encode(), digest_size=16, key=identity.encode()).hexdigest() for key in WITHDRAWN[:2]}
    listed = {f["key"] for f in call("indexer", "failures", db, "--json").json if f["reason"] == "deleted by request"}
    assert listed == hashes
    for i, name in enumerate(("patient-007-müller.png", "patient-000-müller.png")):
        (photos / name).write_bytes(png(200 + i))  # its group is read again, and a new picture is no way round
    again = index(photos, db, "--changed", "replace")
    assert again["reasons"]["deleted by request"] >= 1
    assert rows(db).keys() == before.keys() - set(WITHDRAWN)
    assert {key for key in rows(db) if rows(db)[key] != before[key]} == {"patient-000-müller.png"}
    other = photos.parent / "copy"
    photos.rename(other)
    copied = index(other, db)
    assert copied["reasons"]["deleted by request"] == 2
    assert rows(db).keys() == before.keys() - set(WITHDRAWN)


def test_the_receipt_says_when_what_and_how_many_without_naming_a_key(db):
    done = call("indexer", "delete", db, "--where", "key LIKE 'patient-01%'", "--yes", "--json")
    assert done.code == 0, done.err
    (path,) = (db / "t.deleted").iterdir()
    assert str(path) == done.json["receipt"]
    receipt = json.loads(path.read_text())
    assert (receipt["status"], receipt["rows"], len(receipt["key_hashes"])) == ("done", 10, 10)
    assert receipt["command"][:2] == ["indexer", "delete"]
    assert receipt["deleted_at"].endswith("+00:00")
    assert "patient-01" not in path.read_text()


def test_all_parts_of_an_image_go_and_no_other(db):
    before = rows(db)
    assert {"cine-müller.gif", "cine-müller.gif#1", "cine-müller.gif#2"} <= before.keys()
    done = delete(db, ["cine-müller.gif#1"])
    assert (done.json["images"], done.json["rows"], done.json["not_found"]) == (1, 3, 0)
    assert rows(db).keys() == {key for key in before if not key.startswith("cine")}


def test_what_else_goes_with_deleted_images_is_said(db, tmp_path):
    (tmp_path / "l.csv").write_text("key,site\n" + "".join(f"{key},{i % 3}\n" for i, key in enumerate(rows(db))))
    for command in (("labels", db, tmp_path / "l.csv"), ("pool", db, "--by", "site"), ("map", db, "--method", "pca")):
        assert call("indexer", *command).code == 0, command
    said = call("indexer", "delete", db, "--where", f"key = '{WITHDRAWN[0]}'", "--yes").out
    assert "the map was removed" in said
    assert "the pooled vectors were removed" in said
    again = call("indexer", "delete", db, "--where", f"key = '{WITHDRAWN[1]}'", "--yes").out
    assert "was removed" not in again
    assert "were removed" not in again


def test_what_cannot_be_deleted_is_said_and_nothing_changes_without_a_yes(db, tmp_path, monkeypatch):
    before = rows(db)
    assert call("indexer", "delete", db).code == 2
    (tmp_path / "one.txt").write_text("x")
    assert call("indexer", "delete", db, "--where", "key = 'x'", "--keys", tmp_path / "one.txt").code == 2
    unknown = delete(db, ["nobody"])
    assert (unknown.code, unknown.err.count("\n")) == (1, 1)
    assert "nothing to delete" in unknown.err
    some = delete(db, ["nobody", WITHDRAWN[0]])
    assert (some.code, some.json["not_found"], some.json["first_not_found"]) == (0, 1, ["nobody"])
    for answer, words in (("", "Add --yes where nobody can"), ("n\n", "nothing was deleted, as answered")):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        asked = call("indexer", "delete", db, "--where", "key LIKE 'patient%'")
        assert (asked.code, words in asked.err) == (1, True)
    assert rows(db) == {key: row for key, row in before.items() if key != WITHDRAWN[0]}
    assert len(list((db / "t.deleted").iterdir())) == 1


@pytest.mark.parametrize("step", range(1, 5))
def test_a_deletion_that_dies_is_completed_by_the_same_command(db, monkeypatch, step):
    before = rows(db)
    with killed_after(step):
        delete(db, WITHDRAWN)
    assert before.keys() - set(WITHDRAWN) <= rows(db).keys()
    done = delete(db, WITHDRAWN)
    assert done.code == 0 or (step == 4 and "nothing to delete" in done.err)
    assert rows(db) == {key: row for key, row in before.items() if key not in WITHDRAWN}
    assert not {key for _, key, _ in failures(db)} & set(WITHDRAWN)
    ledger = EmbeddingStore.open(str(db)).ledger().to_pylist()
    assert sum(e["embedded"] for e in ledger) == len(rows(db))
    assert sum(e["failed"] for e in ledger) == len(failures(db))
