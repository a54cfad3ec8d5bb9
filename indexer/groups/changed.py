"""Pooled vectors brought to a newer version: only the groups that changed are pooled again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.errors import StoreError
from indexer.groups.counts import encoded
from indexer.groups.passes import Begun
from indexer.groups.pooled_rows import PooledRows, Written
from indexer.groups.values import group_names
from indexer.store.pooled import PooledTable
from indexer.store.rows import Delta
from indexer.store.table import EmbeddingStore
from indexer.types import Int64

_TAKEN = 8_192  # rows read by id at once


@dataclass(frozen=True)
class Changed:
    """What is to be pooled again, as rows in the order of their groups."""

    names: tuple[str, ...]  # of the groups that have rows now
    codes: Int64  # (m,) ascending, into names
    row_ids: Int64  # (m,)
    gone: frozenset[str]  # groups of the older version that changed or lost all rows


def changed_groups(view: EmbeddingStore, by: str, pooled: PooledTable, delta: Delta) -> Changed:
    """The groups that have or had an inserted, updated or deleted row. Memory: about 40 bytes a row of these."""
    new = np.union1d(delta.inserted, delta.updated)
    left = np.union1d(delta.deleted, delta.updated)
    _, fresh = encoded(_names(view, by, new))
    entered = pa.array(fresh, pa.string())
    old, gone = [new], set[str]()
    for batch in pooled.scan(["group", "row_ids"]):
        lists, names = batch.column("row_ids"), batch.column("group")
        lost = np.isin(lists.flatten().to_numpy(), left)
        sums = np.concatenate([[0], np.cumsum(lost)])
        ends = np.cumsum([0, *lists.value_lengths().to_pylist()])
        touched = (sums[ends[1:]] > sums[ends[:-1]]) | pc.is_in(names, value_set=entered).to_numpy(zero_copy_only=False)
        for i in np.flatnonzero(touched).tolist():
            gone.add(names[i].as_py())
            old.append(lists[i].values.to_numpy())
    rows = np.setdiff1d(np.concatenate(old), delta.deleted)
    codes, found = encoded(_names(view, by, rows))
    order = np.argsort(codes, kind="stable")
    order = order[codes[order] >= 0]
    return Changed(tuple(found), codes[order], rows[order], frozenset(gone))


def pooled_again(view: EmbeddingStore, method: str, pooled: PooledTable, changed: Changed) -> Iterator[pa.RecordBatch]:
    """The pooled vectors of the newer version: those of `pooled` that did not change, then the others."""
    gone = pa.array(sorted(changed.gone), pa.string())
    for batch in pooled.scan(["group", "rows", "row_ids", "vector", "length"]):
        kept = pc.invert(pc.is_in(batch.column("group"), value_set=gone))
        yield batch.filter(kept)
    written = Written(method, view.dim)
    ends = np.searchsorted(changed.codes, np.arange(len(changed.names)), side="right")
    starts = np.searchsorted(changed.codes, np.arange(len(changed.names)))
    for name, start, stop in zip(changed.names, starts.tolist(), ends.tolist(), strict=True):
        group = Begun(name, stop - start, PooledRows(method, view.dim))
        for first in range(start, stop, _TAKEN):
            ids = changed.row_ids[first : min(first + _TAKEN, stop)]
            _, rows = view.take(ids, [], vectors=True)
            for batch in rows.to_batches():
                group.rows.add(batch)
            group.row_ids.append(ids)
        yield from written.add(group)
    yield from written.rest()


def _names(view: EmbeddingStore, by: str, row_ids: Int64) -> pa.Array:
    """The groups of these rows, which are all there."""
    parts = []
    for start in range(0, len(row_ids), _TAKEN):
        found, rows = view.take(row_ids[start : start + _TAKEN], [by])
        if not found.all():
            raise StoreError(f"{int((~found).sum())} rows of table {view.name} are gone. Run the command again.")
        parts.append(group_names(rows.column(by).combine_chunks()))
    return pa.concat_arrays(parts) if parts else pa.array([], pa.string())
