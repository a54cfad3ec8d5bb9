"""The memory-mapped copy of a table's vectors: the same numbers as the table's, whatever became of either."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexer.store.table import EmbeddingStore
from probes.cohort import cache
from probes.cohort.cache import cached_vectors
from tests.reborn import WAYS, before
from tests.tables import add_shard, make_table, unit_rows

DIM = 8
FIRST, OLD, NEW = unit_rows(60, DIM, 1), unit_rows(40, DIM, 2), unit_rows(40, DIM, 3)


@pytest.fixture(autouse=True)
def _cached_from_the_first_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SMALLEST_BYTES", 1)


def read(store: EmbeddingStore, where: str | None = None) -> np.ndarray:
    return np.array(cached_vectors(store, where, store.vectors(where).row_ids))


def files(store: EmbeddingStore) -> list[Path]:
    return sorted((Path(store.uri) / f"{store.name}.probes").iterdir())


def test_a_second_read_comes_from_the_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_table(tmp_path, FIRST)
    ids = store.vectors().row_ids
    assert np.array_equal(cached_vectors(store, None, ids), FIRST)
    monkeypatch.setattr(EmbeddingStore, "vectors", lambda *_: pytest.fail("read from the table"))
    assert np.array_equal(cached_vectors(store, None, ids), FIRST)
    assert np.array_equal(cached_vectors(store, None, ids[[7, 3, 3]]), FIRST[[7, 3, 3]])
    assert [np.load(path).shape for path in files(store)] == [(60,), (60, DIM)]  # ids before vectors; numpy reads both


@pytest.mark.case("N5")
@pytest.mark.parametrize("way", WAYS)
def test_a_version_that_came_back_is_never_read_from_the_copy_of_the_one_that_was(tmp_path: Path, way: str) -> None:
    store = before(tmp_path / "db", FIRST, OLD)
    assert np.array_equal(read(store), np.concatenate([FIRST, OLD]))
    WAYS[way](tmp_path / "db", FIRST, NEW)
    now = EmbeddingStore.open(str(tmp_path / "db"))
    assert now.version == store.version
    assert np.array_equal(read(now), np.concatenate([FIRST, NEW]))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0" * 64)


def other_shape(path: Path) -> None:
    np.save(path, np.load(path)[:-1])


def other_kind(path: Path) -> None:
    np.save(path, np.load(path).astype(np.float32))


def pickled(path: Path) -> None:
    np.save(path, np.array([{}], object), allow_pickle=True)


def piped(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def text(path: Path) -> None:
    path.write_bytes(b"#" * path.stat().st_size)


@pytest.mark.case("N5")
@pytest.mark.parametrize("which", [0, 1], ids=["ids", "vectors"])
@pytest.mark.parametrize("spoil", [cut, emptied, longer, other_shape, other_kind, pickled, piped, text, Path.unlink])
def test_a_copy_that_is_not_whole_is_made_anew(tmp_path: Path, which: int, spoil: Callable[[Path], None]) -> None:
    store = make_table(tmp_path, FIRST)
    assert np.array_equal(read(store), FIRST)
    whole = [path.read_bytes() for path in files(store)]
    spoil(files(store)[which])
    assert np.array_equal(read(store), FIRST)
    assert [path.read_bytes() for path in files(store)] == whole


def test_a_copy_whose_row_ids_are_of_other_rows_is_made_anew(tmp_path: Path) -> None:
    store = make_table(tmp_path, FIRST)
    read(store)
    ids = files(store)[0]
    np.save(ids, np.load(ids) + 1000)
    assert np.array_equal(read(store), FIRST)


def test_each_filter_and_version_has_its_own_copy_and_two_are_kept(tmp_path: Path) -> None:
    store = make_table(tmp_path, FIRST, [{"n": i} for i in range(60)])
    for most in (10, 20, 30):
        assert np.array_equal(read(store, f"n < {most}"), FIRST[:most])
    add_shard(store, "second", [f"s{i}" for i in range(40)], OLD)
    assert np.array_equal(read(store), np.concatenate([FIRST, OLD]))
    assert len(files(store)) == 2 * cache.KEPT


def test_a_folder_that_cannot_be_written_costs_only_the_copy(tmp_path: Path) -> None:
    store = make_table(tmp_path, FIRST)
    (tmp_path / "t.probes").write_text("not a folder")
    assert np.array_equal(read(store), FIRST)
