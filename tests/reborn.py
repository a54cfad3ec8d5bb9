"""Three ways in which a table's version number comes back with other vectors."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from indexer.store.table import EmbeddingStore
from indexer.types import Float16
from tests.tables import add_shard, make_table, spec_for


def _second(db: Path, vectors: Float16) -> EmbeddingStore:
    store = EmbeddingStore.create(str(db), "t", spec_for(vectors.shape[1]))
    add_shard(store, "second", [f"s{i}" for i in range(len(vectors))], vectors)
    return store


def before(db: Path, first: Float16, second: Float16) -> EmbeddingStore:
    """A table `t` of two shards, and a backup of it with the first alone, in `db`.backup."""
    make_table(db, first)
    shutil.copytree(db, db.with_suffix(".backup"))
    return _second(db, second)


def _dropped(db: Path, first: Float16, second: Float16) -> None:
    """By hand: its folders are removed, what was derived from it is left."""
    for folder in db.glob("t*.lance"):
        shutil.rmtree(folder)
    make_table(db, first)
    _second(db, second)


def _restored(db: Path, first: Float16, second: Float16) -> None:
    """From a backup of its folders, and continued otherwise."""
    for folder in db.glob("t*.lance"):
        shutil.rmtree(folder)
        shutil.copytree(db.with_suffix(".backup") / folder.name, folder)
    _second(db, second)


def _rolled_back(db: Path, first: Float16, second: Float16) -> None:
    """A power failure broke the newest data file; its version is taken back, and the shard done again."""
    newest = max(db.glob("t.lance/data/*.lance"), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:-10])
    _second(db, second)


WAYS: dict[str, Callable[[Path, Float16, Float16], None]] = {
    "dropped": _dropped,
    "restored": _restored,
    "rolled back": _rolled_back,
}
