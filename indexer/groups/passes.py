"""Reads all rows of each group of a table version, in passes of bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from indexer.groups.counts import GroupCounts, encoded, require_one_name
from indexer.groups.values import group_names
from indexer.store.table import EmbeddingStore
from indexer.types import Bool, Int64, Progress

HELD_BYTES = 256 << 20  # of groups of which some rows are still to come


class Collector(Protocol):
    """Takes the rows of one group, which may come in several blocks."""

    def add(self, rows: pa.RecordBatch) -> None: ...


C = TypeVar("C", bound=Collector)


@dataclass
class Begun(Generic[C]):
    """A group of which some rows, or all, were read."""

    name: str
    left: int  # rows still to come
    rows: C
    row_ids: list[Int64] = field(default_factory=list)


@dataclass(frozen=True)
class Reading:
    """What is read of each group, and what it takes to hold one."""

    by: str
    columns: Sequence[str]
    vectors: bool
    group_bytes: int
    row_bytes: int
    held_bytes: int = HELD_BYTES


def whole_groups(
    view: EmbeddingStore, counts: GroupCounts, reading: Reading, new: Callable[[], C], progress: Progress, stage: str
) -> Iterator[Begun[C]]:
    """Each group with all its rows, in the order in which the groups end in the table.

    A group is given when its last row was read, so that an archive in order holds few groups at once. A group that
    begins while `held_bytes` are full waits for the next pass over the table.
    """
    done = np.zeros(len(counts.hashes), bool)
    columns = list(dict.fromkeys([reading.by, *reading.columns]))
    while not done.all():
        one = _Pass(counts, reading, new, done)
        with progress.stage(stage, view.count()):
            for batch in view.scan(columns, vectors=reading.vectors):
                yield from one.ended_by(batch)
                progress.advance(batch.num_rows)


class _Pass(Generic[C]):
    """One pass, which ends at least one group. `done` (g,) are the groups that ended, also before."""

    def __init__(self, counts: GroupCounts, reading: Reading, new: Callable[[], C], done: Bool) -> None:
        self._counts, self._reading, self._new, self._done = counts, reading, new, done
        self._room = reading.held_bytes
        self._begun: dict[int, Begun[C]] = {}
        self._closed = done.copy()  # ended before, or without a place in this pass

    def ended_by(self, batch: pa.RecordBatch) -> Iterator[Begun[C]]:
        """The groups whose last rows are in this batch."""
        codes, names = encoded(group_names(batch.column(self._reading.by)))
        ids = batch.column("_rowid").to_numpy().astype(np.int64)
        order = np.argsort(codes, kind="stable")
        starts = np.searchsorted(codes[order], np.arange(len(names) + 1))
        for code, (name, number) in enumerate(zip(names, self._counts.numbers(names), strict=True)):
            group = self._group(number, name)
            if group is None:
                continue
            mine = order[starts[code] : starts[code + 1]]
            group.rows.add(batch.take(pa.array(mine)))
            group.row_ids.append(ids[mine])
            group.left -= len(mine)
            if not group.left:
                del self._begun[number]
                self._room += self._nbytes(number)
                self._done[number] = self._closed[number] = True
                yield group

    def _group(self, number: int, name: str) -> Begun[C] | None:
        """The group, begun where there is room for it; None where it must wait, or ended in an earlier pass."""
        group = self._begun.get(number)
        if group is None and not self._closed[number]:
            if self._begun and self._nbytes(number) > self._room:
                self._closed[number] = True
                return None
            self._room -= self._nbytes(number)
            group = self._begun[number] = Begun(name, int(self._counts.rows[number]), self._new())
        if group is not None:
            require_one_name(group.name, name)
        return group

    def _nbytes(self, number: int) -> int:
        return self._reading.group_bytes + self._reading.row_bytes * int(self._counts.rows[number])
