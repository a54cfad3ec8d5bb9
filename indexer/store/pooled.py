"""Pooled vectors of groups of rows: a side table `<table>.pooled/<column>.<method>.lance` for each column and method.

A side table is replaced as a whole, in one commit. It names the version of the main table that it was made from; a tag
keeps that version, so that the changes since can be read.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from indexer.addresses import is_remote, join
from indexer.disk import DiskSync, make_directory
from indexer.errors import StoreError
from indexer.remote import objects
from indexer.store.filters import quoted
from indexer.store.formats.format import facts_of
from indexer.store.holding.commits import committing
from indexer.store.lance_calls import chunks, open_or_create
from indexer.store.lance_errors import first_line, reading, writing
from indexer.store.mend import exists, mend, unreadable
from indexer.store.rows import batches
from indexer.store.schema import side_schema
from indexer.store.table import EmbeddingStore
from indexer.store.writing.compaction import clean_up
from indexer.types import Int64

FACTS = b"indexer.pooled"
TAG = "pooled-"  # prefix of the tags on the main table's versions
FORMAT = 1


@dataclass(frozen=True)
class PooledFacts:
    """What pooled vectors were made from, and how."""

    by: str  # column
    method: str
    version: int  # of the main table
    commit: str  # that made the version
    fingerprint: str  # of the encoder
    format: int = FORMAT


@dataclass(frozen=True)
class PooledTable:
    """Pooled vectors as they stand. Columns: group, rows (number), row_ids, vector (unit), length (before that)."""

    facts: PooledFacts
    dataset: Any

    def scan(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with reading(None, f"of the vectors pooled by {self.facts.by}"):
            yield from batches(self.dataset, columns, batch_size=1_024)

    def rows_of(self, groups: list[str]) -> list[Int64]:
        """The row ids of each of these groups, in order; none for a group that is not there."""
        found: dict[str, Int64] = {}
        none = pa.array([], pa.int64()).to_numpy()
        with reading(None, f"of the vectors pooled by {self.facts.by}"):
            for names in chunks(sorted(set(groups))):
                where = f"`group` IN ({', '.join(map(quoted, names))})"
                for batch in batches(self.dataset, ["group", "row_ids"], where):
                    ids = batch.column("row_ids")
                    for i, name in enumerate(batch.column("group").to_pylist()):
                        found[name] = ids[i].values.to_numpy()
        return [found.get(name, none) for name in groups]

    def taken(self, positions: Int64) -> list[tuple[str, Int64]]:
        """Name and row ids of the groups at these positions of a scan, in the order given."""
        with reading(None, f"of the vectors pooled by {self.facts.by}"):
            rows = self.dataset.take(positions.tolist(), columns=["group", "row_ids"]).combine_chunks()
        names, lists = rows.column("group").to_pylist(), rows.column("row_ids")
        return [(name, lists[i].values.to_numpy()) for i, name in enumerate(names)]

    def count(self) -> int:
        """The number of groups."""
        return int(self.dataset.count_rows())


def pooled_schema(width: int) -> pa.Schema:
    return pa.schema(
        [
            pa.field("group", pa.string(), False),
            pa.field("rows", pa.int64(), False),
            pa.field("row_ids", pa.list_(pa.int64()), False),
            pa.field("vector", pa.list_(pa.float16(), width), False),
            pa.field("length", pa.float32(), False),
        ]
    )


def open_pooled(store: EmbeddingStore, by: str, method: str) -> PooledTable | None:
    """The vectors pooled by this column; None where there are none, or they are of a dropped table or other encoder.

    Raises StoreError where they are damaged, NewerFormat.
    """
    path, way_out = _path(store, by, method), _way_out(store, by, method)
    if not is_remote(path) and not exists(Path(path)):
        return None
    what = f"the vectors of table {store.name} pooled by {by}"
    try:
        dataset = lance.dataset(path)
        facts = facts_of(dataset.schema.metadata, what)
        raw = (dataset.schema.metadata or {}).get(FACTS)
        if facts is None or facts.identity != store.state.identity or raw is None:
            return None
        pooled = PooledFacts(**json.loads(raw))
        if any(unreadable(fragment) is not None for fragment in dataset.get_fragments()):
            raise StoreError(f"{what} are damaged. {way_out}")
    except (ValueError, OSError, TypeError) as error:
        if "not found" in str(error).lower() and is_remote(path):
            return None
        raise StoreError(f"{what} cannot be read ({first_line(error)}). {way_out}") from error
    if pooled.fingerprint != store.state.fingerprint or pooled.format > FORMAT:
        return None
    return PooledTable(pooled, dataset)


def require_pooled(view: EmbeddingStore, by: str, method: str) -> PooledTable:
    """The pooled vectors, of just the version that `view` holds. Raises StoreError with the command that makes them."""
    found, way_out = open_pooled(view, by, method), _way_out(view, by, method)
    if found is None:
        raise StoreError(f"table {view.name} has no vectors pooled by {by}. {way_out}")
    if (found.facts.version, found.facts.commit) != (view.version, view.state.commit):
        raise StoreError(
            f"the vectors pooled by {by} are of version {found.facts.version} of table {view.name}, which is at "
            f"version {view.version}. {way_out}"
        )
    return found


def write_pooled(store: EmbeddingStore, facts: PooledFacts, rows: Iterable[pa.RecordBatch], width: int) -> None:
    """Replace the pooled vectors of this column and method. The lock is held to commit only. Raises StoreLocked."""
    path = _path(store, facts.by, facts.method)
    blank = side_schema(pooled_schema(width), store.state.identity)  # without facts: not yet pooled vectors
    schema = blank.with_metadata({**blank.metadata, FACTS: json.dumps(asdict(facts)).encode()})
    what = f"the vectors of table {store.name} pooled by {facts.by}"
    local = None if is_remote(path) else Path(path)
    with store.lock(), writing(what):
        if local is not None:
            make_directory(local.parent)
            _drop_broken(local)
        dataset = open_or_create(path, blank)
    with writing(what):
        reader = pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in rows))
        fragments = lance.fragment.write_fragments(reader, dataset, schema=schema, mode="overwrite")
    with store.lock():
        dataset.checkout_latest()
        with committing(dataset, what):
            operation = lance.LanceOperation.Overwrite(schema, fragments)
            dataset = lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)
        with writing(what):
            clean_up(dataset)
            if local is not None:
                DiskSync().sync(local)
    store.tag(_tag(facts), facts.version)


def pooled_of(store: EmbeddingStore) -> list[tuple[str, str]]:
    """(column, method) of all pooled vectors beside a table. Raises StoreError where they cannot be listed."""
    folder = _folder(store)
    if folder is None:
        address = join(store.uri, f"{store.name}.pooled/")
        with reading(None, f"{store.name}.pooled"):
            found = {listed.path.partition("/")[0] for listed in objects.listed(address)}
    else:
        found = {path.name for path in folder.glob("*.lance")} if folder.is_dir() else set()
    names = sorted(name for name in found if name.endswith(".lance"))
    return [(by, method) for name in names for by, _, method in [name.removesuffix(".lance").rpartition(".")]]


def purge_pooled(store: EmbeddingStore, by: str, method: str) -> None:
    """Drop the older versions of these pooled vectors. Raises StoreLocked."""
    found = open_pooled(store, by, method)
    if found is not None:
        with store.lock(), writing(f"the vectors of table {store.name} pooled by {by}"):
            clean_up(found.dataset, purge=True)


def remove_pooled(store: EmbeddingStore) -> bool:
    """Remove all pooled vectors beside a table, which hold the row ids and the sums of deleted rows; returns whether
    any are known.
    """
    known = bool(pooled_of(store))
    folder = _folder(store)
    if folder is None:
        with writing(f"the vectors pooled of table {store.name}"):
            objects.remove_below(join(store.uri, f"{store.name}.pooled/"))
    if folder is not None and folder.is_dir() and not folder.is_symlink():
        with writing(f"the pooled vectors in {folder}"):
            shutil.rmtree(folder)
    for tag in store.tags():
        if tag.startswith(TAG):
            store.untag(tag)
    return known


def _drop_broken(path: Path) -> None:
    """Remove pooled vectors of which no version is whole: they can be made again."""
    try:
        mend(path)
    except StoreError:
        shutil.rmtree(path)


def _folder(store: EmbeddingStore) -> Path | None:
    return None if store.path is None else Path(store.uri) / f"{store.name}.pooled"


def _path(store: EmbeddingStore, by: str, method: str) -> str:
    return join(join(store.uri, f"{store.name}.pooled"), f"{by}.{method}.lance")


def _tag(facts: PooledFacts) -> str:
    return f"{TAG}{facts.by}-{facts.method.replace('+', '-')}"


def _way_out(store: EmbeddingStore, by: str, method: str) -> str:
    how = "" if method == "mean" else f" --method {method}"
    return f"Run `indexer pool {store.uri} --table {store.name} --by {by}{how}`."
