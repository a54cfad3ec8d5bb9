"""Reading a table of embeddings: rows, vectors, ledger, failures, deltas. Writing is `indexer.store.writer`."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from indexer.disk import DiskSync
from indexer.errors import EncoderMismatch, InputError, RowNotFound, StoreError, StoreNotFound
from indexer.store.create import ensure_table, make_table, table_lock
from indexer.store.filters import expression
from indexer.store.lance_errors import first_line, reading, writing
from indexer.store.lock import WriterLock
from indexer.store.mend import exists, read_tags
from indexer.store.schema import SYSTEM_COLUMNS, spec_from
from indexer.types import EncoderSpec, Float16, Float32, Int64, Place

SIDE_TABLES = ("shards", "failures", "text")
PLACE_COLUMNS = ("shard", "member", "offset", "nbytes", "suffix", "part")


@dataclass(frozen=True)
class VectorRows:
    """One read of one version: row i of every field is the same image."""

    row_ids: Int64  # (n,) stable row ids
    vectors: Float16  # (n, dim) unit rows
    columns: pa.Table  # (n rows) the columns asked for
    version: int


@dataclass(frozen=True)
class Delta:
    """Row ids that changed between two versions. `updated` rows may differ in any column, a label import's too."""

    inserted: Int64
    updated: Int64
    deleted: Int64


@dataclass(frozen=True)
class TextVectors:
    """Class-text vectors of one task, unit rows, by the same encoder as the table."""

    classes: tuple[str, ...]
    vectors: Float32  # (c, dim)
    logit_scale: float
    logit_bias: float | None


def join(uri: str, name: str) -> str:
    """The address of a table or file inside a database directory or object-store prefix."""
    return f"{uri.rstrip('/')}/{name}"


def is_remote(uri: str) -> bool:
    return "://" in uri


def table_names(uri: str) -> list[str]:
    """Embedding tables in a database, without their side tables. Creates nothing. Raises StoreNotFound."""
    if is_remote(uri):
        import lancedb

        names = list(lancedb.connect(uri).list_tables().tables)
    else:
        root = Path(uri)
        if not root.is_dir():  # lancedb.connect would create it
            raise StoreNotFound(f"no database directory {uri}. Name an existing one, or make it with `indexer index`.")
        names = sorted(p.name.removesuffix(".lance") for p in root.glob("*.lance") if exists(p))
    return [n for n in names if not any(n.endswith(f".{side}") for side in SIDE_TABLES)]


class EmbeddingStore:
    """An open table. Reading is thread-safe; a held version changes only by `refresh`."""

    def __init__(self, uri: str, name: str, dataset: Any) -> None:
        spec = spec_from(dataset.schema, name)
        if spec is None:
            raise StoreError(f"table {name} in {uri} was not written by indexer. Name another with --table.")
        self.uri, self.name, self.spec = uri, name, spec
        self._dataset = dataset
        self._lock = threading.Lock()

    @classmethod
    def open(cls, uri: str, table: str | None = None) -> EmbeddingStore:
        """Open `table`, or the database's only table. Creates nothing. Raises StoreNotFound."""
        names = table_names(uri)
        if table is None:
            if len(names) != 1:
                listed = ", ".join(names) or "none"
                raise StoreNotFound(f"{uri} holds {len(names)} tables ({listed}): name one with --table.")
            table = names[0]
        if table not in names:
            raise StoreNotFound(f"no table {table} in {uri}; it holds: {', '.join(names) or 'none'}.")
        with reading(None, table):
            return cls(uri, table, lance.dataset(join(uri, f"{table}.lance")))

    @classmethod
    def create(cls, uri: str, table: str, spec: EncoderSpec) -> EmbeddingStore:
        """Make an empty table for this encoder, with stable row ids. An existing one must be of the same encoder.

        What a crash left of a table, or of its newest version, is mended first. Raises StoreLocked, EncoderMismatch.
        """
        check_table_name(table)
        if is_remote(uri):
            if table not in table_names(uri):
                make_table(uri, table, spec)
        else:
            ensure_table(uri, table, spec)
        store = cls.open(uri, table)
        store.require(spec)
        return store

    def require(self, spec: EncoderSpec) -> None:
        """Raise EncoderMismatch unless `spec` makes the same vectors as this table's."""
        if spec.fingerprint != self.spec.fingerprint:
            raise EncoderMismatch(
                stored=f"{self.spec.name} ({self.spec.fingerprint})",
                given=f"{spec.name} ({spec.fingerprint}; differs in {self.spec.differences(spec)})",
            )

    @property
    def dim(self) -> int:
        return self.spec.dim

    @property
    def version(self) -> int:
        return int(self._dataset.version)

    @property
    def path(self) -> Path | None:
        """The table's directory; None in an object store, where each write is whole and lasting by itself."""
        return None if is_remote(self.uri) else Path(join(self.uri, f"{self.name}.lance"))

    def lock(self) -> AbstractContextManager[WriterLock | None]:
        """Hold it while writing; a second writer gets StoreLocked. In an object store it locks nothing."""
        return nullcontext() if is_remote(self.uri) else table_lock(self.uri, self.name)

    @property
    def index_directory(self) -> Path:
        """Where this table's FAISS index lies. Object stores keep theirs on the machine that built it."""
        if is_remote(self.uri):
            raise StoreError(
                f"an index beside {self.uri} needs a local directory. Copy the database, or search exactly."
            )
        return Path(self.uri) / f"{self.name}.faiss"

    def refresh(self) -> int:
        """See commits made since; returns the version now held."""
        with self._lock, reading(None, self.name):
            self._dataset.checkout_latest()
        return self.version

    def at(self, version: int) -> EmbeddingStore:
        """The same table as it was at `version`. Raises StoreError where that version was cleaned up."""
        try:
            return EmbeddingStore(self.uri, self.name, self._dataset.checkout_version(version))
        except (ValueError, OSError) as error:
            raise StoreError(f"version {version} of {self.name} is gone ({first_line(error)}).") from error

    def columns(self) -> dict[str, pa.DataType]:
        """The typed metadata and label columns, in table order."""
        return {f.name: f.type for f in self._dataset.schema if f.name not in SYSTEM_COLUMNS}

    def count(self, where: str | None = None) -> int:
        condition = expression(where, self.name)
        with reading(where, self.name):
            return int(self._dataset.count_rows(filter=condition))

    def fragments(self) -> int:
        return len(self._dataset.get_fragments())

    def versions(self) -> int:
        """How many versions are kept on disk."""
        return len(self._dataset.versions())

    def scan(
        self, columns: Sequence[str], where: str | None = None, *, vectors: bool = False, batch_rows: int = 8192
    ) -> Iterator[pa.RecordBatch]:
        """Batches of `_rowid` and the columns, of the held version. Raises BadFilter, InputError for a column."""
        names = self._columns_with(columns, vectors=vectors)
        condition = expression(where, self.name)
        with reading(where, self.name):
            scanner = self._dataset.scanner(
                columns=names, filter=condition, prefilter=True, with_row_id=True, batch_size=batch_rows
            )
            yield from (batch.select(["_rowid", *names]) for batch in scanner.to_batches())

    def empty(self, columns: Sequence[str]) -> pa.Table:
        """These columns, without rows."""
        return self._dataset.schema.empty_table().select(list(columns))

    def vectors(self, where: str | None = None, columns: Sequence[str] = ()) -> VectorRows:
        """All matching vectors in one read of one version. Takes n·dim·2 bytes."""
        n = self.count(where)
        out = np.empty((n, self.dim), np.float16)
        ids = np.empty(n, np.int64)
        parts: list[pa.RecordBatch] = []
        done = 0
        for batch in self.scan(columns, where, vectors=True):
            rows = slice(done, done + batch.num_rows)
            out[rows] = vector_block(batch)
            ids[rows] = batch.column("_rowid").to_numpy()
            parts.append(batch.select(list(columns)))
            done += batch.num_rows
        table = pa.Table.from_batches(parts) if parts else self.empty(columns)
        return VectorRows(ids, out, table, self.version)

    def take(self, row_ids: Int64, columns: Sequence[str], *, vectors: bool = False) -> tuple[Any, pa.Table]:
        """The rows with these ids that still exist, in the order asked.

        Returns a mask (n,) of the ids found, and a table of `_rowid` and the columns with one row for each.
        """
        names = self._columns_with(columns, vectors=vectors)
        ids = np.asarray(row_ids, np.int64)
        if not len(ids):
            ids_of_none = pa.array([], pa.uint64())
            return np.zeros(0, bool), self.empty(names).add_column(0, "_rowid", ids_of_none)
        unique = np.unique(ids)
        # Lance keeps neither order nor missing ids, so the ids come along and we realign.
        with reading(None, self.name):
            got = self._dataset._take_rows(pa.array(unique.astype(np.uint64)), columns=[*names, "_rowid"])
        have = got.column("_rowid").to_numpy().astype(np.int64)
        order = np.argsort(have)
        spot = np.searchsorted(have, ids, sorter=order)
        found = (spot < len(have)) & (have[order[np.minimum(spot, len(have) - 1)]] == ids) if len(have) else ids < 0
        return found, got.take(pa.array(order[spot[found]])).select(["_rowid", *names])

    def row_id_of(self, key: str) -> int:
        """Raises RowNotFound."""
        for batch in self.scan([], where=f"key = {quoted(key)}"):
            if batch.num_rows:
                return int(batch.column("_rowid")[0].as_py())
        raise RowNotFound(
            f"no row with key {key!r} in table {self.name}. `indexer failures` lists what was not embedded."
        )

    def delta(self, since: int) -> Delta:
        """Row ids inserted, updated and deleted after version `since`. Raises StoreError where that version is gone."""
        if since == self.version:
            none = np.empty(0, np.int64)
            return Delta(none, none, none)
        self.at(since)  # Lance answers for a version that was cleaned up too, and wrongly
        delta = self._dataset.delta(compared_against=since)
        return Delta(
            _row_ids(delta.get_inserted_rows()),
            _row_ids(delta.get_updated_rows()),
            _row_ids(delta.get_deleted_row_ids()),
        )

    def tag(self, name: str, version: int) -> None:
        """Keep `version` from clean-up under this name; moves the name where it exists. Both are on the disk then."""
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
        return {name: int(tag["version"]) for name, tag in self._dataset.tags.list().items()}

    def ledger(self) -> pa.Table:
        """One row a finished shard, as in LEDGER_SCHEMA."""
        with reading(None, f"{self.name}.shards"):
            return self._side("shards").to_table()

    def failures(self, where: str | None = None) -> pa.Table:
        condition = expression(where, self.name)
        with reading(where, self.name):
            return self._side("failures").to_table(filter=condition)

    def urls(self) -> dict[str, str]:
        """Where each shard's bytes can be read now, by shard name."""
        with reading(None, f"{self.name}.shards"):
            rows = self._side("shards").to_table(columns=["shard", "url"]).to_pydict()
        return dict(zip(rows["shard"], rows["url"], strict=True))

    def read_text(self, task: str) -> TextVectors:
        """Class-text vectors stored by `indexer text`. Raises StoreError where none are of that task and encoder."""
        path = join(self.uri, f"{self.name}.text.lance")
        missing = f"no text vectors for task {task!r} beside table {self.name}. Store them with `indexer text`."
        if not is_remote(path) and not exists(Path(path)):
            raise StoreError(missing)
        with reading(None, f"{self.name}.text"):
            rows = lance.dataset(path).to_table(filter=f"task = {quoted(task)}")
        if not rows.num_rows:
            raise StoreError(missing)
        if set(rows.column("fingerprint").to_pylist()) != {self.spec.fingerprint}:
            raise StoreError(
                f"the text vectors for task {task!r} are of another checkpoint than table {self.name}. "
                "Store them again with `indexer text`."
            )
        kept = np.stack(rows.column("vector").to_numpy(zero_copy_only=False)).astype(np.float32)
        bias = rows.column("logit_bias")[0].as_py()
        return TextVectors(
            tuple(rows.column("class").to_pylist()), kept, float(rows.column("logit_scale")[0].as_py()), bias
        )

    def _side(self, kind: str) -> Any:
        path = join(self.uri, f"{self.name}.{kind}.lance")
        try:
            return lance.dataset(path)
        except (ValueError, OSError) as error:
            raise StoreError(
                f"table {self.name} lacks its {kind} table ({first_line(error)}). Run `indexer index`."
            ) from error

    def _columns_with(self, columns: Sequence[str], *, vectors: bool) -> list[str]:
        names = [c for c in dict.fromkeys(columns) if c != "_rowid"]
        if vectors and "vector" not in names:
            names.append("vector")
        known = self._dataset.schema.names
        for name in names:
            if name not in known:
                raise InputError(f"no column {name!r} in table {self.name}; it has: {', '.join(known)}.")
        return names


def check_table_name(name: str) -> None:
    """A table's name becomes a directory: letters, digits, '-', '_' and inner dots. Raises InputError."""
    plain = all(c.isalnum() or c in "-_." for c in name)
    taken = any(name.endswith(f".{side}") for side in SIDE_TABLES)
    if not name or not plain or name.startswith(".") or taken:
        raise InputError(f"{name!r} cannot name a table: use letters, digits, '-', '_' and inner dots.")


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def vector_block(batch: pa.RecordBatch) -> Float16:
    """The batch's vectors (n, dim), without a copy."""
    column = batch.column("vector")
    flat: Float16 = column.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(batch.num_rows, -1) if batch.num_rows else flat.reshape(0, column.type.list_size)


def place_of(row: dict[str, Any]) -> Place:
    """The Place in a row that has PLACE_COLUMNS."""
    return Place(**{name: row[name] for name in PLACE_COLUMNS})


def _row_ids(reader: Any) -> Int64:
    parts = [batch.column("_rowid").to_numpy().astype(np.int64) for batch in reader]  # whole rows: never all at once
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
