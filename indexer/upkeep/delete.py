"""Deleting images for good, as where consent is withdrawn: rows, failures, indexes, copies; with a receipt."""

from __future__ import annotations

import datetime
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from indexer.errors import InputError
from indexer.mapping.files import map_path
from indexer.search.index_build import TAG
from indexer.search.indexes.place import index_place
from indexer.store.lance_errors import writing
from indexer.store.lock import WriterLock
from indexer.store.pooled import remove_pooled
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.store.writing.deleted import Doomed, ids_of, key_hash, write_receipt
from indexer.store.writing.keys import StoredSamples
from indexer.types import Int64, sample_key

FORMAT = 1
NAMED = 3
NEXT = "run `indexer optimize DB --purge`: until then old versions of the table hold what was deleted"


@dataclass(frozen=True)
class DeleteReport:
    """What a deletion did."""

    table: str
    images: int
    rows: int
    failures: int  # entries of these keys in the list of failures
    not_found: int  # keys of the file that neither a row nor a failure has
    first_not_found: tuple[str, ...]
    index_removed: bool  # it held copies of the vectors
    copies_removed: bool  # of the probes
    map_removed: bool
    pooled_removed: bool  # vectors of groups
    receipt: str  # path or address


def delete(
    store: EmbeddingStore,
    *,
    where: str | None = None,
    keys: Collection[str] = (),
    command: Sequence[str] = (),
    confirm: Callable[[int, int], None] = lambda _images, _rows: None,
) -> DeleteReport:
    """Delete each image of which `where` holds for a row, or that `keys` names (its own key, or a part's).

    All parts of an image go. `confirm` is called with the number of images and rows before anything is written, and
    may raise. Raises InputError where nothing is found.
    """
    with StoreWriter(store) as writer:
        doomed = _find(store, writer, where, set(keys))
        known = {*doomed.keys}
        missing = sorted(key for key in keys if key not in known and key not in _named_parts(doomed, keys))
        if not doomed.keys:
            shown = f", as {', '.join(missing[:NAMED])}" if missing else ""
            raise InputError(f"nothing to delete: no row of table {store.name} and no failure is named so{shown}.")
        confirm(len(doomed.keys), len(doomed.row_ids))
        name = f"{_now():%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
        facts = _facts(store, doomed, command)
        write_receipt(store, name, facts | {"status": "begun"})
        index, copies = _remove_index(store), _remove_copies(store)
        mapped, pooled = _remove_map(store), remove_pooled(store)
        writer.delete_images(doomed)  # the rows go last: a second call finds what is left by them
        done = {"status": "done", "index_removed": index, "copies_removed": copies}
        done |= {"map_removed": mapped, "pooled_removed": pooled}
        receipt = write_receipt(store, name, facts | done)
    return DeleteReport(
        store.name, len(doomed.keys), len(doomed.row_ids), len(doomed.failures), len(missing), tuple(missing[:NAMED]),
        index, copies, mapped, pooled, receipt,
    )  # fmt: skip


def _named_parts(doomed: Doomed, keys: Iterable[str]) -> set[str]:
    """Those of the keys that name a part of a deleted image."""
    known = set(doomed.keys)
    return {key for key in keys if "#" in key and key.rpartition("#")[0] in known}


def _find(store: EmbeddingStore, writer: StoreWriter, where: str | None, keys: set[str]) -> Doomed:
    """Two passes over narrow columns; 16 bytes a deleted row, and the keys."""
    matches = _matching(store, where, keys)
    images: dict[tuple[str, str], None] = {}
    ids: list[Int64] = []
    rows: Counter[str] = Counter()
    for batch in store.scan(["shard", "member", "offset", "key", "part"], batch_rows=1 << 16):
        found = batch.take(pa.array(matches.which(batch)))
        ids.append(found.column("_rowid").to_numpy().astype("int64"))
        columns = (found.column(name).to_pylist() for name in ("shard", "key", "part"))
        for shard, key, part in zip(*columns, strict=True):
            images[shard, sample_key(key, part)] = None
            rows[shard] += 1
    named = {key for _, key in images} | (keys if where is None else set())
    failures = writer.failures_of(named)
    found_keys = {key for _, key in images} | {key for _, _, key in failures}
    return Doomed(
        ids_of(ids), tuple(images), rows, tuple((i, shard) for i, shard, _ in failures), tuple(sorted(found_keys))
    )


def _matching(store: EmbeddingStore, where: str | None, keys: set[str]) -> StoredSamples:
    """The samples of which a row is named."""
    columns = [*StoredSamples.COLUMNS, "key", "part"]
    total = store.count(where)

    def named() -> Iterable[pa.RecordBatch]:
        for batch in store.scan(columns, where, batch_rows=1 << 16):
            if where is not None:
                yield batch
                continue
            pairs = zip(batch.column("key").to_pylist(), batch.column("part").to_pylist(), strict=True)
            wanted = [key in keys or sample_key(key, part) in keys for key, part in pairs]
            yield batch.filter(pa.array(wanted, pa.bool_()))

    return StoredSamples(named(), total)


def _facts(store: EmbeddingStore, doomed: Doomed, command: Sequence[str]) -> dict[str, Any]:
    """The receipt. Of the command the filter is left out: it may name a key."""
    identity = store.state.identity
    return {
        "format": FORMAT,
        "table": store.name,
        "identity": identity,
        "deleted_at": _now().isoformat(timespec="seconds"),
        "command": _without_filter(command),
        "images": len(doomed.keys),
        "rows": len(doomed.row_ids),
        "failures": len(doomed.failures),
        "hash": "BLAKE2b, 16 bytes, keyed with the table's identity, of the key in UTF-8",
        "key_hashes": [key_hash(identity, key) for key in doomed.keys],
    }


def _without_filter(command: Sequence[str]) -> list[str]:
    words, hidden = [], False
    for word in command:
        words.append("***" if hidden else "--where=***" if word.startswith("--where=") else word)
        hidden = word == "--where"
    return words


def _remove_index(store: EmbeddingStore) -> bool:
    """Remove the index, which holds the vectors and the keys of its rows; whether there was one."""
    place, what = index_place(store), f"the index of table {store.name}"
    found, directory = False, place.directory
    if directory.is_dir():
        with writing(what), WriterLock(directory / "build.lock", what=what):
            found = (directory / "manifest.json").exists() or any(directory.glob("vectors-*"))
            for path in directory.iterdir():
                if path.name != "build.lock":
                    path.unlink(missing_ok=True)
    found = place.withdraw() or found
    if found:
        for tag in store.tags():
            if tag.startswith(TAG):
                store.untag(tag)
    return found


def _remove_copies(store: EmbeddingStore) -> bool:
    """Remove the probes' copies of vectors; whether there were any. For an object store they make none."""
    if store.path is None:
        return False
    folder = Path(store.uri) / f"{store.name}.probes"
    found = folder.is_dir() and not folder.is_symlink()
    if found:
        with writing(f"the copies in {folder}"):
            shutil.rmtree(folder)
    return found


def _remove_map(store: EmbeddingStore) -> bool:
    """Remove the map, which holds a place for each row; returns whether there was one. In an object store is none."""
    if store.path is None or not map_path(store).exists():
        return False
    with writing(f"the map of table {store.name}"):
        map_path(store).unlink(missing_ok=True)
    return True


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
