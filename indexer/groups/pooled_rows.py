"""Pools the rows of all groups of a table version, in passes of bounded memory over its vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from indexer.groups.counts import GroupCounts, encoded, require_one_name
from indexer.groups.pooling import Pool, directed, held_numbers, width_of
from indexer.groups.values import group_names
from indexer.store.pooled import pooled_schema
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Bool, Int64, Progress
from indexer.vectors import unit_rows

HELD_BYTES = 256 << 20  # of groups of which some rows are still to come
WRITTEN = 512  # groups in one batch


@dataclass
class Begun:
    """A group of which some rows were read."""

    name: str
    left: int  # rows still to come
    pool: Pool
    row_ids: list[Int64] = field(default_factory=list)


class Written:
    """Collects finished groups into record batches."""

    def __init__(self, method: str, dim: int) -> None:
        self._schema = pooled_schema(width_of(method, dim))
        self._groups: list[Begun] = []

    def add(self, group: Begun) -> Iterator[pa.RecordBatch]:
        self._groups.append(group)
        if len(self._groups) == WRITTEN:
            yield from self.rest()

    def rest(self) -> Iterator[pa.RecordBatch]:
        """The batch of the groups that are not written yet; none where there are none."""
        if not self._groups:
            return
        row_ids = [np.sort(np.concatenate(group.row_ids)) for group in self._groups]
        raw = np.stack([group.pool.pooled() for group in self._groups]).astype(np.float32)
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
    """One row for each group (`pooled_schema`), in the order in which the groups end in the table.

    A group is written when its last row was read, so that an archive in order holds few groups at once. A group that
    begins while `held_bytes` are full waits for the next pass over the vectors.
    """
    each = 8 * held_numbers(method, view.dim)
    done = np.zeros(len(counts.hashes), bool)
    written = Written(method, view.dim)
    while not done.all():
        one = _Pass(counts, lambda: Pool(method, view.dim), each, held_bytes, done)
        with progress.stage("pooling", view.count()):
            for batch in view.scan([by], vectors=True):
                for group in one.ended_by(batch, by):
                    yield from written.add(group)
                progress.advance(batch.num_rows)
    yield from written.rest()


class _Pass:
    """One pass over the vectors, which ends at least one group. `done` (g,) are the groups that ended, also before."""

    def __init__(
        self, counts: GroupCounts, new_pool: Callable[[], Pool], pool_bytes: int, held_bytes: int, done: Bool
    ) -> None:
        self._counts, self._new_pool, self._pool_bytes, self._room, self._done = (
            counts, new_pool, pool_bytes, held_bytes, done,
        )  # fmt: skip
        self._begun: dict[int, Begun] = {}
        self._closed = done.copy()  # ended before, or without a place in this pass

    def ended_by(self, batch: pa.RecordBatch, by: str) -> Iterator[Begun]:
        """The groups whose last rows are in this batch."""
        codes, names = encoded(group_names(batch.column(by)))
        ids, vectors = batch.column("_rowid").to_numpy().astype(np.int64), vector_block(batch)
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(len(names) + 1))
        for code, (name, number) in enumerate(zip(names, self._counts.numbers(names), strict=True)):
            group = self._group(number, name)
            if group is None:
                continue
            mine = order[starts[code] : starts[code + 1]]
            group.pool.add(directed(vectors[mine]))
            group.row_ids.append(ids[mine])
            group.left -= len(mine)
            if not group.left:
                del self._begun[number]
                self._room += self._nbytes(number)
                self._done[number] = self._closed[number] = True
                yield group

    def _group(self, number: int, name: str) -> Begun | None:
        """The group, begun where there is room for it; None where it must wait, or ended in an earlier pass."""
        group = self._begun.get(number)
        if group is None and not self._closed[number]:
            if self._begun and self._nbytes(number) > self._room:
                self._closed[number] = True
                return None
            self._room -= self._nbytes(number)
            group = self._begun[number] = Begun(name, int(self._counts.rows[number]), self._new_pool())
        if group is not None:
            require_one_name(group.name, name)
        return group

    def _nbytes(self, number: int) -> int:
        return self._pool_bytes + 8 * int(self._counts.rows[number])
