"""The vectors of all rows, group after group, and the rows of one group that have a near-duplicate in another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.ann.exact import DECIMALS
from indexer.duplicates.pairs import LEFT, RIGHT, unit_doubles
from indexer.duplicates.scratch import Scratch, chunks
from indexer.errors import StoreError
from indexer.store.pooled import PooledTable
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float16, Int64, Progress


@dataclass(frozen=True)
class GroupRows:
    """Groups in the order of a scan of the pooled vectors. Arrays of rows are mapped."""

    means: Float16  # (g, dim) pooled unit vectors
    starts: Int64  # (g + 1,)
    vectors: Float16  # (n, dim) of the rows, by group

    def sizes(self, groups: Int64) -> Int64:
        """The number of rows of each of these groups."""
        return self.starts[groups + 1] - self.starts[groups]

    def near(self, a: int, b: int, threshold: float) -> tuple[int, int]:
        """How many rows of group a have a row of b of at least this cosine, and how many of b have one of a.

        Exact; blocks of LEFT and RIGHT rows are compared, so that memory does not grow with the groups.
        """
        one, other = (self.vectors[self.starts[group] : self.starts[group + 1]] for group in (a, b))
        hit_one, hit_other = np.zeros(len(one), bool), np.zeros(len(other), bool)
        for left in chunks(len(one), LEFT):
            rows = unit_doubles(one[left])
            for right in chunks(len(other), RIGHT):
                if hit_one[left].all() and hit_other[right].all():
                    continue
                close = np.round(rows @ unit_doubles(other[right]).T, DECIMALS) >= threshold
                hit_one[left] |= close.any(1)
                hit_other[right] |= close.any(0)
        return int(hit_one.sum()), int(hit_other.sum())


def read_groups(view: EmbeddingStore, pooled: PooledTable, scratch: Scratch, progress: Progress) -> GroupRows:
    """Of the version that `view` holds, which is the one that was pooled. Memory: 16 bytes a row and 8 a group."""
    count = pooled.count()
    means = scratch.zeros((count, view.dim), np.float16)
    starts, done = np.zeros(count + 1, np.int64), 0
    for batch in pooled.scan(["rows", "vector"]):
        means[done : done + batch.num_rows] = vector_block(batch)
        starts[done + 1 : done + 1 + batch.num_rows] = batch.column("rows").to_numpy()
        done += batch.num_rows
    np.cumsum(starts, out=starts)
    total = int(starts[-1])
    ids = _row_ids(pooled, total)
    order = np.argsort(ids)
    ids.sort()
    vectors, found = scratch.zeros((total, view.dim), np.float16), 0
    with progress.stage("reading vectors", view.count()):
        for batch in view.scan([], vectors=True, batch_rows=1_024):
            own = batch.column("_rowid").to_numpy().astype(np.int64)
            places = np.minimum(np.searchsorted(ids, own), max(total - 1, 0))
            grouped = ids[places] == own
            vectors[order[places[grouped]]] = vector_block(batch)[grouped]
            found += int(grouped.sum())
            progress.advance(batch.num_rows)
    if found != total:
        raise StoreError(f"{total - found} rows of table {view.name} are gone. Run the command again.")
    return GroupRows(means, starts, vectors)


def _row_ids(pooled: PooledTable, total: int) -> Int64:
    """Of all groups (total,), in the order of a scan."""
    out, done = np.empty(total, np.int64), 0
    for batch in pooled.scan(["row_ids"]):
        own = batch.column("row_ids").flatten().to_numpy()
        out[done : done + len(own)] = own
        done += len(own)
    return out
