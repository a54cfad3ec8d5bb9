"""Reads a table of embeddings: rows, vectors, ledger, failures, deltas. `indexer.store.writer` writes it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from indexer.addresses import is_remote, join
from indexer.disk import DiskSync
from indexer.errors import EncoderMismatch, InputError, StoreError
from indexer.store.filters import expression, quoted
from indexer.store.formats.create import ensure_table, make_table
from indexer.store.holding.commits import TableLock
from indexer.store.lance_errors import first_line, reading, writing
from indexer.store.mend import read_tags
from indexer.store.names import check_table_name, checked_uri, has_table, index_folder, named_table
from indexer.store.opened import OpenedTable, TableState, is_newest, open_side, open_version, part_of
from indexer.store.rows import Delta, VectorRows, batches, row_ids_read, vector_block
from indexer.store.schema import FAILURE_SCHEMA, LEDGER_SCHEMA, SYSTEM_COLUMNS, completed
from indexer.types import EncoderSpec, Int64, KeyRule, TileRule

KEY_RULE = KeyRule()


class EmbeddingStore:
    """An open table, held at one version until `refresh`.

    Thread-safe: the held version is replaced as a whole, never modified, so a reader keeps the version it began with
    while another thread refreshes.
    """

    def __init__(self, uri: str, name: str, opened: OpenedTable) -> None:
        self.uri, self.name, self.spec = uri, name, opened.spec
        self._opened = opened
        self._refreshing = threading.Lock()

    @classmethod
    def open(cls, uri: str, table: str | None = None) -> EmbeddingStore:
        """Open `table`, or the database's only table. Creates nothing. Raises StoreNotFound."""
        uri = checked_uri(uri)
        table = named_table(uri, table)
        with reading(None, table):
            return cls(uri, table, open_version(join(uri, f"{table}.lance"), table))

    @classmethod
    def create(
        cls, uri: str, table: str, spec: EncoderSpec, keys: KeyRule = KEY_RULE, tiles: TileRule | None = None
    ) -> EmbeddingStore:
        """Create an empty table for this encoder, with stable row ids. An existing one must be of the same encoder.

        `keys` and `tiles` are the rules of a new table; an existing one keeps its own. A table, or newest version, that
        a crash left incomplete is repaired first. Raises StoreLocked, EncoderMismatch.
        """
        uri = checked_uri(uri)
        check_table_name(table)
        if is_remote(uri):
            if not has_table(uri, table):
                with TableLock(uri, table):
                    if not has_table(uri, table):
                        make_table(uri, table, spec, keys, tiles)
        else:
            ensure_table(uri, table, spec, keys, tiles)
        store = cls.open(uri, table)
        store.require(spec)
        return store

    def require(self, spec: EncoderSpec) -> None:
        """Raise EncoderMismatch unless `spec` gives the same vectors as this table's encoder."""
        if spec.fingerprint != self.spec.fingerprint:
            raise EncoderMismatch(
                stored=f"{self.spec.name} ({self.spec.fingerprint})",
                given=f"{spec.name} ({spec.fingerprint}; differs in {self.spec.differences(spec)})",
            )

    def require_keys(self, *, split: str | None, prefix: int | None) -> None:
        """Raise InputError unless these, where given, are parts of the rule by which this table's keys are made."""
        for option, given, own in (("--key", split, self.keys.split), ("--prefix", prefix, self.keys.prefix)):
            if given is not None and given != own:
                raise InputError(
                    f"the keys of table {self.name} are made with {option} {own}, and one table has one rule: leave "
                    f"{option} out, or index into a new table (--table)."
                )

    def require_tiles(self, tiles: TileRule | None) -> None:
        """Raise InputError unless slides are cut by this rule for this table; None: a table of whole images."""
        if tiles != self.tiles:
            raise InputError(
                f"table {self.name} holds {_rows_words(self.tiles)}, not {_rows_words(tiles)}, and one table has one "
                "rule: give the same options, or index into a new table (--table)."
            )

    @property
    def tiles(self) -> TileRule | None:
        """The rule by which slides are cut into this table's rows; None for a table of whole images."""
        return self._opened.tiles

    @property
    def keys(self) -> KeyRule:
        """The rule by which this table's keys are made."""
        return self._opened.keys

    @property
    def dim(self) -> int:
        return self.spec.dim

    @property
    def version(self) -> int:
        return self._opened.state.version

    @property
    def state(self) -> TableState:
        """The unique name of the held version, which derived files record."""
        return self._opened.state

    @property
    def format(self) -> int:
        return self._opened.facts.format

    def count_of_format_1(self, suffixes: Sequence[str]) -> int:
        """The number of rows that version 0.1 wrote of images with these suffixes."""
        facts = self._opened.facts
        if facts.format > 1 and not facts.migrated_at:
            return 0
        before = f"_row_created_at_version <= {facts.migrated_at} AND " if facts.format > 1 else ""
        return self.count(f"{before}suffix IN ({', '.join(map(quoted, suffixes))})")

    @property
    def unreadable_columns(self) -> list[str]:
        """Columns with names that Lance reserves, which make the table unreadable; a writer renames them."""
        return self._opened.unreadable

    @property
    def _dataset(self) -> Any:
        """A new Lance handle of the newest version, for writing: readers' handles must not be modified."""
        with reading(None, self.name):
            return lance.dataset(self._address)

    @property
    def _address(self) -> str:
        return join(self.uri, f"{self.name}.lance")

    @property
    def path(self) -> Path | None:
        """The table's directory; None in an object store, where writes are atomic and durable."""
        return None if is_remote(self.uri) else Path(self._address)

    def lock(self) -> TableLock:
        """The writer's lock; a second writer gets StoreLocked."""
        return TableLock(self.uri, self.name)

    @property
    def index_directory(self) -> Path:
        """The directory of this table's FAISS index; for a database in an object store, of its copy on this machine."""
        return index_folder(self.uri, self.name)

    def refresh(self) -> int:
        """Move to the newest version; returns its number.

        Raises StoreError where the table was created anew for another encoder.
        """
        with self._refreshing, reading(None, self.name):
            if not is_newest(self._opened, self._address):
                fresh = open_version(self._address, self.name)
                if fresh.state.fingerprint != self.spec.fingerprint:
                    raise StoreError(f"table {self.name} was created again with another encoder. Open it again.")
                self._opened = replace(fresh, whole=self._opened.whole)
        return self.version

    def at(self, version: int, *, identity: str = "", commit: str = "") -> EmbeddingStore:
        """The same table, held at `version`.

        `identity` and `commit` (of a `TableState`; "" where unknown) are checked, since a version number is reused
        where a table was dropped, restored or rolled back. Raises StoreError where they differ or the version is gone.
        """
        held = self._opened
        if identity and held.state.identity and identity != held.state.identity:
            raise StoreError(f"table {self.name} was dropped and created again since: version {version} is another.")
        opened = held
        if version != held.state.version:
            try:
                opened = open_version(self._address, self.name, version)
            except (ValueError, OSError) as error:
                gone = "not found" in str(error).lower()
                cause = "it was cleaned up, or never made" if gone else first_line(error)
                raise StoreError(f"version {version} of table {self.name} is gone: {cause}.") from error
        if commit and commit != opened.state.commit:
            raise StoreError(
                f"version {version} of table {self.name} was rolled back, or lost with a restored backup, and another "
                "was made under its number."
            )
        # versions from before the migration to format 2 have no identity
        known = replace(opened.state, identity=opened.state.identity or held.state.identity)
        return EmbeddingStore(self.uri, self.name, replace(opened, state=known))

    def _pinned(self) -> EmbeddingStore:
        """A store held at the present version, for several consistent reads while another thread refreshes."""
        return EmbeddingStore(self.uri, self.name, self._opened)

    def require_readable(self) -> OpenedTable:
        """The held version. Raises StoreError where Lance cannot read it: column names it reserves, damaged files."""
        held = self._opened
        self._require_columns(held)
        with reading(None, self.name):
            held.require_whole(self.name)
        return held

    def _require_columns(self, held: OpenedTable) -> None:
        if held.unreadable:
            raise StoreError(
                f"table {self.name} cannot be read: Lance has columns named {', '.join(held.unreadable)} of its own. "
                f"Run `indexer optimize {self.uri} --table {self.name}`, which renames the table's."
            )

    def columns(self) -> dict[str, pa.DataType]:
        """The typed metadata and label columns, in table order."""
        held = self._opened
        own = {*SYSTEM_COLUMNS, *held.stored(SYSTEM_COLUMNS)}
        return {f.name: f.type for f in held.dataset.schema if f.name not in own}

    def count(self, where: str | None = None) -> int:
        condition, held = expression(where, self.name), self._opened
        self._require_columns(held)
        if condition is not None:  # else the manifest has the number
            held = self.require_readable()
        with reading(where, self.name):
            return int(held.dataset.count_rows(filter=condition))

    def fragments(self) -> int:
        return len(self._opened.dataset.get_fragments())

    def versions(self) -> int:
        """The number of versions kept on disk."""
        with reading(None, self.name):
            return len(self._opened.dataset.versions())

    def scan(
        self, columns: Sequence[str], where: str | None = None, *,
        vectors: bool = False, batch_rows: int = 8192, once: bool = False,
    ) -> Iterator[pa.RecordBatch]:  # fmt: skip
        """Batches of `_rowid` and the columns, of the held version. Raises BadFilter, InputError (unknown column).

        With `once`, or without a filter, what Lance learns of the files is dropped after the scan; otherwise it is
        kept for the next filter.
        """
        held = self.require_readable()
        names = self._columns_with(held, columns, vectors=vectors)
        condition = expression(where, self.name)
        with reading(where, self.name):
            source = held.read_once() if once or condition is None else held.dataset
            found = batches(
                source, held.stored(names), condition, with_row_id=True, prefilter=True, batch_size=batch_rows
            )
            yield from (part_of(batch, ["_rowid", *names]) for batch in found)

    def empty(self, columns: Sequence[str]) -> pa.Table:
        """These columns, without rows."""
        held = self._opened
        return part_of(held.dataset.schema.empty_table().select(held.stored(columns)), columns)

    def vectors(self, where: str | None = None, columns: Sequence[str] = ()) -> VectorRows:
        """All matching vectors in one read of one version, in n·dim·2 bytes of memory."""
        view = self._pinned()
        n = view.count(where)
        out = np.empty((n, self.dim), np.float16)
        ids = np.empty(n, np.int64)
        parts: list[pa.RecordBatch] = []
        done = 0
        for batch in view.scan(columns, where, vectors=True):
            rows = slice(done, done + batch.num_rows)
            out[rows] = vector_block(batch)
            ids[rows] = batch.column("_rowid").to_numpy()
            parts.append(batch.select(list(columns)))
            done += batch.num_rows
        table = pa.Table.from_batches(parts) if parts else view.empty(columns)
        return VectorRows(ids, out, table, view.version)

    def take(self, row_ids: Int64, columns: Sequence[str], *, vectors: bool = False) -> tuple[Any, pa.Table]:
        """The rows with these ids that still exist, in the order given.

        Returns a mask (n,) of the ids found, and a table of `_rowid` and the columns with one row for each.
        """
        held = self.require_readable()
        names = self._columns_with(held, columns, vectors=vectors)
        ids = np.asarray(row_ids, np.int64)
        if not len(ids):
            return np.zeros(0, bool), self.empty(names).add_column(0, "_rowid", pa.array([], pa.uint64()))
        # Lists, since `unique` and pyarrow import numpy.ma to take an array, which a search needs for nothing else
        unique = sorted(set(ids.tolist()))
        # Lance preserves neither the order nor missing ids, so the ids are read too and the rows realigned.
        with reading(None, self.name):
            got = held.dataset._take_rows(pa.array(unique, pa.uint64()), columns=[*held.stored(names), "_rowid"])
        have = got.column("_rowid").to_numpy().astype(np.int64)
        order = np.argsort(have)
        spot = np.searchsorted(have, ids, sorter=order)
        found = (spot < len(have)) & (have[order[np.minimum(spot, len(have) - 1)]] == ids) if len(have) else ids < 0
        return found, part_of(got.take(pa.array(order[spot[found]].tolist(), pa.int64())), ["_rowid", *names])

    def delta(self, since: int, *, commit: str = "") -> Delta:
        """Row ids inserted, updated and deleted after version `since`, which is the one that `commit` made.

        Raises StoreError where that version is gone, or another.
        """
        held = self.require_readable()
        self.at(since, commit=commit)  # for a version that was cleaned up Lance returns a wrong delta
        if since == held.state.version:
            none = np.empty(0, np.int64)
            return Delta(none, none, none)
        delta = held.dataset.delta(compared_against=since)
        return Delta(
            row_ids_read(delta.get_inserted_rows()),
            row_ids_read(delta.get_updated_rows()),
            row_ids_read(delta.get_deleted_row_ids()),
        )

    def tag(self, name: str, version: int) -> None:
        """Protect `version` from clean-up by this tag; an existing tag is moved. Tag and version are synced to the
        disk.
        """
        if self.path is not None:
            read_tags(self.path, drop_broken=True)
        tags = self._dataset.tags
        with writing(f"tag {name} of table {self.name}"):
            if name in tags.list():
                tags.update(name, version)
            else:
                tags.create(name, version)
            if self.path is not None:
                DiskSync().sync(self.path)

    def untag(self, name: str) -> None:
        if name in self.tags():
            with writing(f"tag {name} of table {self.name}"):
                self._dataset.tags.delete(name)

    def tags(self) -> dict[str, int]:
        if self.path is not None:
            return read_tags(self.path)
        return {name: int(tag["version"]) for name, tag in self._opened.dataset.tags.list().items()}

    def ledger(self) -> pa.Table:
        """One row for each shard (LEDGER_SCHEMA). Raises StoreError where the ledger is of another table."""
        with reading(None, f"{self.name}.shards"):
            return completed(self._side("shards").to_table(), LEDGER_SCHEMA)

    def failures(self, where: str | None = None) -> pa.Table:
        """One row for each input that did not become a row (FAILURE_SCHEMA). Raises StoreError, BadFilter."""
        condition = expression(where, self.name)
        with reading(where, self.name):
            return completed(self._side("failures").to_table(filter=condition), FAILURE_SCHEMA)

    def count_failures(self) -> int:
        """The number of failures, without reading them."""
        with reading(None, f"{self.name}.failures"):
            return int(self._side("failures").count_rows())

    def scan_failures(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """These columns of the failures, in batches."""
        with reading(None, f"{self.name}.failures"):
            yield from batches(self._side("failures"), columns)

    def urls(self) -> dict[str, str]:
        """The address of each shard, by shard name."""
        with reading(None, f"{self.name}.shards"):
            rows = self._side("shards").to_table(columns=["shard", "url"]).to_pydict()
        return dict(zip(rows["shard"], rows["url"], strict=True))

    def _side(self, kind: str) -> Any:
        return open_side(self._opened, join(self.uri, f"{self.name}.{kind}.lance"), f"{self.name}.{kind}")

    def _columns_with(self, held: OpenedTable, columns: Sequence[str], *, vectors: bool) -> list[str]:
        names = [c for c in dict.fromkeys(columns) if c != "_rowid"]
        if vectors and "vector" not in names:
            names.append("vector")
        known = held.dataset.schema.names
        for name, stored in zip(names, held.stored(names), strict=True):
            if stored not in known:
                raise InputError(f"no column {name!r} in table {self.name}; it has: {', '.join(known)}.")
        return names


def identity_of(store: EmbeddingStore) -> str:
    """A unique name of the table: its identity, or, in format 1, its address."""
    address = store.uri if is_remote(store.uri) else str(Path(store.uri).resolve())
    return store.state.identity or join(address, store.name)


def _rows_words(tiles: TileRule | None) -> str:
    if tiles is None:
        return "whole images"
    return (
        f"tiles of slides (--tile {tiles.tile} --mpp {tiles.mpp:g} --tissue {tiles.tissue:g} "
        f"--saturation {tiles.saturation})"
    )
