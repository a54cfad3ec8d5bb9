"""Pools the rows of all groups of a table version to record batches of pooled vectors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from indexer.groups.counts import GroupCounts
from indexer.groups.passes import HELD_BYTES, Begun, Reading, whole_groups
from indexer.groups.pooling import Pool, directed, held_numbers, width_of
from indexer.store.pooled import pooled_schema
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Progress
from indexer.vectors import unit_rows

WRITTEN = 512  # groups in one batch


class PooledRows:
    """The pool of one group's rows (`passes.Collector`)."""

    def __init__(self, method: str, dim: int) -> None:
        self.pool = Pool(method, dim)

    def add(self, rows: pa.RecordBatch) -> None:
        self.pool.add(directed(vector_block(rows)))


class Written:
    """Collects finished groups into record batches."""

    def __init__(self, method: str, dim: int) -> None:
        self._schema = pooled_schema(width_of(method, dim))
        self._groups: list[Begun[PooledRows]] = []

    def add(self, group: Begun[PooledRows]) -> Iterator[pa.RecordBatch]:
        self._groups.append(group)
        if len(self._groups) == WRITTEN:
            yield from self.rest()

    def rest(self) -> Iterator[pa.RecordBatch]:
        """The batch of the groups that are not written yet; none where there are none."""
        if not self._groups:
            return
        row_ids = [np.sort(np.concatenate(group.row_ids)) for group in self._groups]
        raw = np.stack([group.rows.pool.pooled() for group in self._groups]).astype(np.float32)
        units, lengths, _ = unit_rows(raw)
        ends = np.cumsum([0, *map(len, row_ids)])
        columns = [
            pa.array([group.name for group in self._groups]),
            pa.array([len(ids) for ids in row_ids], pa.int64()),
            pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(np.concatenate(row_ids))),
            pa.FixedSizeListArray.from_arrays(pa.array(units.reshape(-1)), units.shape[1]),
            pa.array(lengths),
        ]
        self._groups = []
        yield pa.RecordBatch.from_arrays(columns, schema=self._schema)


def pooled_rows(
    view: EmbeddingStore,
    by: str,
    method: str,
    counts: GroupCounts,
    progress: Progress,
    held_bytes: int = HELD_BYTES,
) -> Iterator[pa.RecordBatch]:
    """One row for each group (`pooled_schema`)."""
    reading = Reading(by, (), True, 8 * held_numbers(method, view.dim), 8, held_bytes)
    written = Written(method, view.dim)
    for group in whole_groups(view, counts, reading, lambda: PooledRows(method, view.dim), progress, "pooling"):
        yield from written.add(group)
    yield from written.rest()
