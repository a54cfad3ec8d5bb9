"""Images deleted by request: receipts, which say by hashes alone what must never be embedded again, and the deletion.

Each deletion has a JSON file in `<table>.deleted`, a folder or the prefix of objects beside the table, written before
anything is deleted. The hash of a key is BLAKE2b of 16 bytes, keyed with the table's identity: the key itself is stored
nowhere.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from indexer.addresses import join
from indexer.disk import make_directory, replace_file
from indexer.errors import StoreError
from indexer.remote import objects
from indexer.store.filters import quoted
from indexer.store.lance_calls import chunks
from indexer.store.lance_errors import writing
from indexer.store.rows import batches
from indexer.store.table import EmbeddingStore
from indexer.store.writing.keys import count_by_shard, delete_rows
from indexer.store.writing.recovery import Tables
from indexer.store.writing.side_tables import BEGUN
from indexer.types import DELETED, Failure, Int64

_SUFFIX = ".json"
_WAY_OUT = "Restore it from a backup: without it, deleted images would come back."


@dataclass(frozen=True)
class Doomed:
    """What a deletion deletes: whole images, with all their parts."""

    row_ids: Int64  # (rows,)
    images: tuple[tuple[str, str], ...]  # (shard, sample's key) of each image that has rows
    rows_by_shard: Mapping[str, int]
    failures: tuple[tuple[int, str], ...]  # (row id, shard) of failures of these keys
    keys: tuple[str, ...]  # of the samples, each once


class Tombstones:
    """The hashes of all keys whose images were deleted from a table."""

    def __init__(self, store: EmbeddingStore) -> None:
        self._identity = store.state.identity
        self._hashes = set[str]()
        for name, text in receipts(store):
            self._hashes.update(_hashes_in(name, text))

    def __call__(self, key: str) -> str:
        """The hash of a key that was deleted; "" for any other."""
        if not self._hashes:
            return ""
        digest = key_hash(self._identity, key)
        return digest if digest in self._hashes else ""


def receipts_address(store: EmbeddingStore) -> str:
    """The folder, or the prefix of objects, of a table's receipts."""
    return join(store.uri, f"{store.name}.deleted")


def receipts(store: EmbeddingStore) -> Iterator[tuple[str, bytes]]:
    """Where each receipt of a table lies, and its content. Raises StoreError where one cannot be read."""
    place = receipts_address(store)
    try:
        if store.path is None:
            names = [found.path for found in objects.listed(f"{place}/") if found.path.endswith(_SUFFIX)]
            yield from ((join(place, name), objects.read(join(place, name))) for name in names)
        else:
            yield from ((str(path), path.read_bytes()) for path in sorted(Path(place).glob(f"*{_SUFFIX}")))
    except OSError as error:
        raise StoreError(f"the receipts of deletions in {place} cannot be read ({error}). {_WAY_OUT}") from error


def key_hash(identity: str, key: str) -> str:
    """32 hex digits."""
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=16, key=identity.encode()).hexdigest()


def _hashes_in(address: str, text: bytes) -> list[str]:
    """Raises StoreError for a damaged receipt: without it, deleted images would come back."""
    try:
        return [str(digest) for digest in json.loads(text.decode("utf-8"))["key_hashes"]]
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"the receipt {address} of a deletion cannot be read. {_WAY_OUT}") from error


def write_receipt(store: EmbeddingStore, name: str, facts: Mapping[str, Any]) -> str:
    """Whole and on the disk; returns where it lies."""
    place, text = receipts_address(store), json.dumps(facts, indent=1, ensure_ascii=False) + "\n"
    address = join(place, f"{name}{_SUFFIX}")
    with writing(f"the receipt {address}"):
        if store.path is None:
            objects.Bucket(place).put(f"{name}{_SUFFIX}", text.encode())
        else:
            make_directory(Path(place))
            replace_file(Path(address), text)
    return address


def delete_images(tables: Tables, doomed: Doomed) -> None:
    """Delete rows and failures, and leave a failure `DELETED` by hash for each image. The receipt must be written.

    The ledger is lowered first, since a shard with fewer rows than it says counts as damaged. Rows are named by id:
    a filter on keys would stay in Lance's record of the transaction.
    """
    store, ledger, failures = tables.store, tables.ledger, tables.failures
    marks = _marks(tables, doomed)
    rows, marked = count_by_shard(store), Counter(f.shard for f in marks)
    fewer = Counter(shard for _, shard in doomed.failures)
    entries = {}
    for name in {*doomed.rows_by_shard, *fewer, *marked} & ledger.entries.keys():
        entry = ledger.entries[name]
        if entry.status != BEGUN:
            failed = failures.counts[name] + marked[name] - fewer[name]
            entries[name] = replace(entry, embedded=rows[name] - doomed.rows_by_shard.get(name, 0), failed=failed)
    ledger.put(entries)
    tables.sync("shards.lance")
    if failures.append(marks):
        tables.sync("failures.lance")
    if doomed.failures:
        failures.drop_rows(doomed.failures)
        tables.sync("failures.lance")
    if delete_rows(store._dataset, doomed.row_ids):
        tables.sync("lance")
        store.refresh()


def _marks(tables: Tables, doomed: Doomed) -> list[Failure]:
    """A failure for each image, without those that a deletion that died has left."""
    identity = tables.store.state.identity
    names = {(shard, key_hash(identity, key)) for shard, key in doomed.images}
    for chunk in chunks(sorted({shard for shard, _ in names})):
        where = f"reason = {quoted(DELETED)} AND shard IN ({', '.join(map(quoted, chunk))})"
        for batch in batches(tables.failures.dataset, ["shard", "key"], where):
            names -= set(zip(*(batch.column(c).to_pylist() for c in ("shard", "key")), strict=True))
    return [mark(shard, digest) for shard, digest in sorted(names)]


def mark(shard: str, digest: str) -> Failure:
    """What stands for a deleted image in the list of failures."""
    return Failure(shard, digest, "store", DELETED)


def ids_of(parts: Sequence[Int64]) -> Int64:
    return np.concatenate([np.empty(0, np.int64), *parts])
