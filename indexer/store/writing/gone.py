"""Rows whose files are gone from their folder: set aside under a name of their own, or deleted.

A folder's files are dealt out to groups (`archive.files`), each a shard: a changed group is replaced as a whole, and
one without files is never named again. So rows that are to stay are given to the shard `<folder>#gone` first.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.store.filters import quoted
from indexer.store.lance_calls import chunks, update_columns
from indexer.store.lance_errors import writing
from indexer.store.rows import batches
from indexer.store.writing.keys import count_by_shard, delete_rows
from indexer.store.writing.recovery import Tables
from indexer.store.writing.side_tables import LedgerEntry
from indexer.types import Int64

COLUMNS = ("key", "shard", "member", "content")
KEPT_IDENTITY = "files are gone"  # of a shard that no listing gives


def rows_of(tables: Tables, shards: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """`_rowid` and COLUMNS of the rows of these shards."""
    for names in chunks(sorted(shards)):
        yield from tables.store.scan(COLUMNS, f"shard IN ({', '.join(map(quoted, names))})")


def set_aside(tables: Tables, keys: Collection[str], name: str, url: str) -> None:
    """Give the rows of these keys to shard `name`. The ledger row comes first: rows without one would be deleted."""
    store = tables.store
    _count(tables, name, url)
    wanted = pa.array(sorted(keys), pa.string())

    def values(fragment: Any) -> pa.Table:
        found = batches(fragment, ["key"])
        parts = [pa.Table.from_batches([b]).filter(pc.is_in(b.column("key"), value_set=wanted)) for b in found]
        rows = pa.concat_tables(parts) if parts else pa.table({"key": pa.array([], pa.string())})
        return rows.append_column("shard", pa.repeat(pa.scalar(name), rows.num_rows))

    with writing(f"the addresses of table {store.name}"):
        update_columns(store._dataset, values)
    tables.sync("lance")
    store.refresh()
    _count(tables, name, url)


def _count(tables: Tables, name: str, url: str) -> None:
    rows = count_by_shard(tables.store, f"shard = {quoted(name)}")[name]
    now = tables.store.version
    tables.ledger.put({name: LedgerEntry(url, KEPT_IDENTITY, "done", rows, rows, table_version=now)})
    tables.sync("shards.lance")


def drop_rows(tables: Tables, row_ids: Int64) -> None:
    """Delete rows by id."""
    if delete_rows(tables.store._dataset, row_ids):
        tables.sync("lance")
        tables.store.refresh()


def drop_shards(tables: Tables, names: Sequence[str]) -> None:
    """Delete shards with their rows and failures. Rows first: a ledger row without its rows is recovered from."""
    parts = [batch.column("_rowid").to_numpy().astype(np.int64) for batch in rows_of(tables, names)]
    drop_rows(tables, np.concatenate([np.empty(0, np.int64), *parts]))
    if tables.ledger.drop(names):
        tables.sync("shards.lance")
    if tables.failures.drop(names):
        tables.sync("failures.lance")
