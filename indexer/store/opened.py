"""Opens a table at one version, and identifies that version uniquely.

A version number alone is not unique: it is reused after a table was dropped, restored from a backup, or had its newest
version rolled back by `mend`. Data derived from a version are therefore bound to three names: the table's identity
(random, made with the table), the version number, and the version's commit, the random UUID of the Lance transaction
that made it. Lance 14 stores the transaction inside the version's manifest, so it exists as long as the version does,
also where `cleanup_old_versions` has removed all others; reading it took 0.04 ms where opening the table took 0.3 ms.
For a version written by a Lance that stored no transaction, the manifest's time stamp is used instead.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from indexer.addresses import is_remote
from indexer.errors import StoreError
from indexer.malloc import release_freed_memory
from indexer.store.formats.format import FORMAT, UNMARKED, TableFacts, facts_of
from indexer.store.holding.newest import Newest
from indexer.store.lance_errors import MENDED_BY, first_line
from indexer.store.mend import CHECK_CACHE_BYTES, manifest_path, unreadable
from indexer.store.names import network_folder
from indexer.store.schema import UNREADABLE
from indexer.types import EncoderSpec, KeyRule, TileRule

CHECKED_AT_ONCE = 2  # data files of a disk; one takes 0.7 ms, and its metadata some MB
REQUESTED_AT_ONCE = 8  # data files of an object store, each some requests


@dataclass(frozen=True)
class TableState:
    """A unique name of a version of a table. Derived files record it."""

    identity: str  # of the table; "" in format 1
    version: int
    commit: str  # of the transaction that made the version
    fingerprint: str  # EncoderSpec.fingerprint


@dataclass(frozen=True)
class OpenedTable:
    """One version of a table, and a Lance handle of it that is never modified, so that threads may share it."""

    dataset: Any
    facts: TableFacts
    spec: EncoderSpec
    keys: KeyRule
    tiles: TileRule | None
    state: TableState
    stamp: tuple[int, ...] | None  # of the version's manifest file; None in an object store
    whole: set[str] = field(default_factory=set, compare=False)  # readable data files, and commits of versions
    newest: Newest | None = field(default=None, compare=False)  # None where it was opened by its number

    @property
    def unreadable(self) -> list[str]:
        """Columns with names that Lance reserves, which make the table unreadable."""
        return [name for name in self.dataset.schema.names if name in UNREADABLE]

    def require_whole(self, table: str) -> None:
        """Raises StoreError where a data file is damaged: a scan of it would end the process. Each is read once."""
        if self.state.commit not in self.whole:
            if _require_whole(self.read_once(), table, self.whole):
                release_freed_memory()  # some MB a data file, which the heaps of Lance's threads would keep
            self.whole.add(self.state.commit)

    def read_once(self) -> Any:
        """A handle for one read of all rows, to be dropped after it: `dataset` would keep what Lance needs to know of
        each page read, some 9 bytes a row of all columns together. Where the version was cleaned up since, `dataset`
        itself, which still reads the files that newer versions have too.
        """
        version = self.state.version
        try:
            return lance.dataset(self.dataset.uri, version=version, metadata_cache_size_bytes=CHECK_CACHE_BYTES)
        except (ValueError, OSError) as error:
            if "not found" not in str(error).lower():
                raise
            return self.dataset

    def stored(self, names: Sequence[str]) -> list[str]:
        """The stored columns to read for `names`: in a table of format 1, `frame` for `part`."""
        known = self.dataset.schema.names
        return ["frame" if name == "part" and "part" not in known else name for name in names]


def open_version(path: str, table: str, version: int | None = None) -> OpenedTable:
    """The table at `path`, at its newest version or at the one given. Raises StoreError, NewerFormat.

    Lance's own errors pass through. Each call makes a new Lance session: a shared one would cache the manifests of
    versions that were rolled back since.
    """
    newest = Newest(path) if version is None else None  # before the table is opened
    dataset = lance.dataset(path, version=version)
    stamp = _stamp(path, dataset.version)  # read first, so that a later change of the file is detected
    facts = facts_of(dataset.schema.metadata, table)
    if facts is None or facts.encoder is None:
        raise StoreError(f"table {table} at {path} was not written by indexer. Name another with --table.")
    try:
        spec = replace(EncoderSpec.from_json(json.dumps(facts.encoder)), network=network_folder(path))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise StoreError(
            f"table {table} at {path} names an encoder that this version does not understand ({first_line(error)})."
        ) from error
    vectors = dataset.schema.field("vector").type if "vector" in dataset.schema.names else None
    if getattr(vectors, "list_size", None) != spec.dim:
        raise StoreError(f"table {table} at {path} has no vectors of the {spec.dim} numbers that its metadata say.")
    try:
        keys = KeyRule(**(facts.keys or {}))
    except (TypeError, ValueError) as error:
        raise StoreError(f"table {table} makes its keys by a rule that this version does not know.") from error
    try:
        tiles = TileRule(**facts.tiles) if facts.tiles is not None else None
    except (TypeError, ValueError) as error:
        raise StoreError(f"table {table} cuts slides by a rule that this version does not know.") from error
    state = TableState(facts.identity, int(dataset.version), commit_of(dataset), spec.fingerprint)
    return OpenedTable(dataset, facts, spec, keys, tiles, state, stamp, newest=newest)


def open_side(main: OpenedTable, path: str, name: str) -> Any:
    """The Lance handle of a side table beside `main`. Raises StoreError, NewerFormat.

    A ledger or failure table with another identity was left by a dropped table of the same name. Text vectors belong
    to the encoder, whose fingerprint is in each row.
    """
    try:
        dataset = lance.dataset(path)
    except (ValueError, OSError) as error:
        raise StoreError(f"{name} beside its table is missing ({first_line(error)}). Run `indexer index`.") from error
    facts = facts_of(dataset.schema.metadata, name) or UNMARKED
    migrated = main.facts.format == FORMAT  # before and during the migration the side tables are marked one by one
    if migrated and facts.identity != main.state.identity and not name.endswith(".text"):
        raise StoreError(
            f"{name} is of another table of that name, which was dropped. Run `indexer index`, which creates it again."
        )
    _require_whole(dataset, name, set())
    return dataset


def _require_whole(dataset: Any, name: str, whole: set[str]) -> int:
    """Raises StoreError where a data file that is not in `whole` cannot be read; the others are added to it.

    Returns how many fragments were read.
    """
    found = [(fragment, {file.path for file in fragment.data_files()}) for fragment in dataset.get_fragments()]
    unknown = [(fragment, files) for fragment, files in found if not files <= whole]
    with ThreadPoolExecutor(REQUESTED_AT_ONCE if is_remote(dataset.uri) else CHECKED_AT_ONCE) as threads:
        causes = threads.map(unreadable, [fragment for fragment, _ in unknown])
        for (_, files), cause in zip(unknown, causes, strict=True):
            if cause is not None:
                raise StoreError(f"table {name}: {cause}. {MENDED_BY}")
            whole |= files
    return len(unknown)


def commit_of(dataset: Any) -> str:
    """The random id of the commit that made the dataset's version. Not thread-safe for a shared handle."""
    try:
        transaction = dataset.read_transaction(dataset.version)
    except (ValueError, OSError):
        transaction = None
    if transaction is not None:
        return str(transaction.uuid)
    return str(dataset.get_version()["timestamp"].isoformat())


def is_newest(opened: OpenedTable, path: str) -> bool:
    """Whether `opened` is still the table's newest version and the same commit. Cheap for a local table."""
    if opened.stamp is None:
        return False
    version = opened.state.version

    def look_up() -> bool:
        return bool(opened.dataset.latest_version == version)

    newest = look_up() if opened.newest is None else opened.newest.is_still(look_up)
    return newest and _stamp(path, version) == opened.stamp


def part_of(data: pa.RecordBatch | pa.Table, names: Sequence[str]) -> pa.RecordBatch | pa.Table:
    """Stored rows (`OpenedTable.stored`) with the requested columns: for format 1, `part` is computed from `frame`.

    The part's name is the frame's number, and "" for the first frame, since tables of format 1 do not record whether
    an image had other frames. `indexer.store.formats.migrate` computes the same.
    """
    if "part" not in names or "part" in data.schema.names:
        return data.select(list(names))
    frame = data.column("frame")
    part = pc.if_else(pc.equal(frame, 0), "", frame.cast(pa.string()))
    columns = [part if name == "part" else data.column(name) for name in names]
    fields = [pa.field("part", pa.string(), False) if name == "part" else data.schema.field(name) for name in names]
    return type(data).from_arrays(columns, schema=pa.schema(fields))


def _stamp(path: str, version: int) -> tuple[int, ...] | None:
    """Inode, size and modification time of a version's manifest file."""
    if "://" in path:
        return None
    try:
        stat = os.stat(_manifest(path, version))  # noqa: PTH116 - a Path's own takes twice as long
    except OSError:  # a manifest of another name, as in Lance before 0.18
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=1_024)  # making a Path takes longer than all else that a search of an unchanged table asks
def _manifest(path: str, version: int) -> str:
    return str(manifest_path(Path(path), version))
