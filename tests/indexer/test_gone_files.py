"""Folders that lose files: their rows are counted and named, and kept or dropped as asked."""

from __future__ import annotations

import shutil

import pytest

from indexer.store.table import EmbeddingStore
from tests.archives import archive, png
from tests.commands import call
from tests.indexer.test_moved_archives import encoder, index, rows  # noqa: F401 - a fixture

IMAGES, LOST = 40, 12


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(IMAGES):
        (folder / f"im{i:02d}.png").write_bytes(png(i))
    # two in one of the groups, so that a group is changed as well as emptied
    return folder


def lose(folder, db):
    """Delete files: all of most groups, and one of each group that has two."""
    groups = {}
    for row in EmbeddingStore.open(str(db)).vectors(columns=["shard", "member"]).columns.to_pylist():
        groups.setdefault(row["shard"], []).append(row["member"])
    order = sorted(groups.values(), key=len, reverse=True)
    assert len(order[0]) > 1
    assert len(order[LOST]) == 1
    lost = [members[0] for members in (*order[:2], *order[-(LOST - 2) :])]
    for name in lost:
        (folder / name).unlink()
    return set(lost)


@pytest.mark.case("U9")
@pytest.mark.usefixtures("encoder")
def test_rows_of_files_that_are_gone_are_kept_and_named_unless_they_are_dropped(photos, tmp_path):
    db = tmp_path / "db"
    index(photos, db)
    before = rows(db)
    lost = lose(photos, db)
    assert call("indexer", "index", photos, db, "--table", "t").code == 1  # changed: nothing is done
    assert rows(db) == before
    kept = index(photos, db, "--changed", "replace")
    assert (kept["gone"], rows(db)) == (LOST, before)
    (words,) = [w for w in kept["warnings"] if "are gone" in w]
    assert "are kept" in words
    assert set(words.split("first ")[1].split(" and more")[0].split(", ")) <= lost
    again = index(photos, db)
    assert (again["gone"], again["images"], rows(db)) == (LOST, 0, before)
    dropped = index(photos, db, "--gone", "drop")
    assert dropped["gone"] == LOST
    assert rows(db) == {key: row for key, row in before.items() if key not in lost}
    last = index(photos, db)
    assert (last["gone"], last["images"]) == (0, 0)


@pytest.mark.case("U9")
@pytest.mark.usefixtures("encoder")
def test_files_are_dropped_with_their_groups_at_once(photos, tmp_path):
    db = tmp_path / "db"
    index(photos, db)
    before = rows(db)
    lost = lose(photos, db)
    done = index(photos, db, "--changed", "replace", "--gone", "drop")
    assert done["gone"] == LOST
    assert rows(db) == {key: row for key, row in before.items() if key not in lost}


@pytest.mark.usefixtures("encoder")
def test_a_file_that_comes_back_is_one_row_with_the_bytes_it_has_now(photos, tmp_path):
    db = tmp_path / "db"
    index(photos, db)
    before = rows(db)
    lost = sorted(lose(photos, db))
    index(photos, db, "--changed", "replace")
    for name in lost[:2]:
        (photos / name).write_bytes(png(int(name[2:4])))
    (photos / lost[2]).write_bytes(png(77))
    back = index(photos, db, "--changed", "replace")
    assert (back["gone"], back["adopted"], back["failed"]) == (LOST - 3, 2, 0)
    found = rows(db)
    assert {key for key in before if found[key] != before[key]} == {lost[2]}
    assert found.keys() == before.keys()


@pytest.mark.usefixtures("encoder")
@pytest.mark.parametrize("gone", ["keep", "drop"])
def test_a_shard_that_is_gone_from_its_folder_is_counted_and_dropped_by_choice(tmp_path, gone):
    folder, db = archive(tmp_path, shards=3, images=5), tmp_path / "db"
    index(folder, db)
    (folder / "001.tar").unlink()
    done = index(folder, db, "--gone", gone)
    assert done["gone"] == 5
    assert len(rows(db)) == (15 if gone == "keep" else 10)
    assert index(folder / "000.tar", db)["gone"] == 0  # of a folder that was not named nothing is known


@pytest.mark.usefixtures("encoder")
def test_kept_rows_move_with_their_folder(photos, tmp_path):
    db, new = tmp_path / "db", tmp_path / "new"
    index(photos, db)
    lose(photos, db)
    index(photos, db, "--changed", "replace")
    before = rows(db)
    shutil.move(photos, new)
    done = call("indexer", "relocate", db, photos, new, "--json")
    assert done.code == 0, done.err
    assert (done.json["rows"], done.json["images_checked"]) == (IMAGES, IMAGES - LOST)
    last = index(new, db)
    assert (rows(db), last["gone"], last["images"]) == (before, LOST, 0)
