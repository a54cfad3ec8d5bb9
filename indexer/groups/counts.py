"""Counts the rows of every group in one pass over the column, in at most 16 bytes a row whatever the groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexer.errors import StoreError
from indexer.groups.values import group_names
from indexer.store.table import EmbeddingStore
from indexer.store.writing.keys import key_hashes
from indexer.types import Int64, Progress

UInt32 = npt.NDArray[np.uint32]

_AT_ONCE = 1 << 20
_BATCH = 65_536


@dataclass(frozen=True)
class GroupCounts:
    """The groups by hash of their name, valid in this process only."""

    hashes: Int64  # (g,) ascending
    rows: UInt32  # (g,) of each
    ungrouped: int  # rows without a value

    def numbers(self, names: list[str]) -> list[int]:
        """The number of each of these groups, which are all there."""
        found: list[int] = np.searchsorted(self.hashes, key_hashes(names)).tolist()
        return found


def count_groups(view: EmbeddingStore, by: str, progress: Progress) -> GroupCounts:
    """Of all rows of the version that `view` holds."""
    hashes, done, ungrouped = np.empty(view.count(), np.int64), 0, 0
    for batch in view.scan([by], batch_rows=_BATCH):
        names = group_names(batch.column(by)).dictionary_encode()
        codes = names.indices.drop_null().to_numpy()
        hashes[done : done + len(codes)] = key_hashes(names.dictionary.to_pylist())[codes]
        done += len(codes)
        ungrouped += batch.num_rows - len(codes)
        progress.advance(batch.num_rows)
    return GroupCounts(*_counted(hashes[:done]), ungrouped)


def require_one_name(known: str, name: str) -> None:
    """Raise StoreError where two groups of one hash have different names: a chance of 1 in 10,000 for 60 million."""
    if known != name:
        raise StoreError(f"the groups {known!r} and {name!r} have one hash. Run the command again: hashes are random.")


def _counted(hashes: Int64) -> tuple[Int64, UInt32]:
    """The distinct values, ascending, and how often each is there. Sorts in place, and reuses the memory."""
    hashes.sort()
    blocks = [slice(start, start + _AT_ONCE) for start in range(0, len(hashes), _AT_ONCE)]
    changes = sum(int((hashes[block][1:] != hashes[block][:-1]).sum()) + 1 for block in blocks)  # at least as many
    rows, distinct = np.zeros(changes, np.uint32), 0
    for block in blocks:
        values, times = np.unique(hashes[block], return_counts=True)
        if distinct and values[0] == hashes[distinct - 1]:
            rows[distinct - 1] += times[0]
            values, times = values[1:], times[1:]
        hashes[distinct : distinct + len(values)] = values
        rows[distinct : distinct + len(values)] = times
        distinct += len(values)
    return hashes[:distinct], rows[:distinct]


def encoded(names: pa.Array) -> tuple[Int64, list[str]]:
    """Codes (n,) into the distinct names; -1 for a null."""
    coded = names.dictionary_encode()
    codes: Int64 = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, coded.dictionary.to_pylist()
