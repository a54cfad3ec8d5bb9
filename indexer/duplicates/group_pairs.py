"""Finds near-duplicate groups of rows: the same study twice, the same slide scanned twice.

Two groups are candidates where the cosine of their pooled vectors (`indexer pool`, the mean of the unit vectors)
reaches `candidates`. Of each candidate all rows are compared: the share of a group is that of its rows which have a
row of the other group at or above the row threshold. The pair is a near-duplicate where the larger of both shares
reaches `share`, so that a series is also found inside a larger one. Both steps are exact.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexer.cores import cores
from indexer.duplicates.clusters import Links
from indexer.duplicates.group_rows import GroupRows, read_groups
from indexer.duplicates.options import GroupOptions
from indexer.duplicates.pairs import PairSearch, Scored
from indexer.duplicates.scratch import Scratch, chunks
from indexer.groups.pooling import MEAN
from indexer.groups.values import column_kind
from indexer.progress.silent import SILENT
from indexer.store.pooled import PooledTable, require_pooled
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64, Progress

METADATA = b"indexer.near-duplicate-groups"
TOGETHER = 64  # candidates that one thread compares
BLOCK_PAIRS = 16_384  # pairs whose names are held at once


@dataclass(frozen=True)
class GroupReport:
    """Counts over all pairs of groups, listed or not."""

    table: str
    version: int
    by: str
    threshold: float  # of rows
    candidate_cosine: float  # of pooled vectors
    share: float
    groups: int
    rows: int  # in a group
    ungrouped: int  # rows without a value in the column
    candidates: int  # pairs of groups whose rows were compared
    pairs: int  # near-duplicates
    both_ways: int  # of these, pairs in which both shares reach `share`
    clusters: int  # connected components of the pairs
    groups_in_clusters: int
    largest_cluster: int
    listed_pairs: int  # the nearest ones
    seconds: float


@dataclass(frozen=True)
class _Pairs:
    """Pairs of groups a < b."""

    a: Int64
    b: Int64
    cosines: Float64
    near: Int64  # (m, 2) rows of a that are near a row of b, and rows of b near a row of a
    shares: Float64  # (m, 2)

    def part(self, kept: Int64) -> _Pairs:
        return _Pairs(self.a[kept], self.b[kept], self.cosines[kept], self.near[kept], self.shares[kept])

    def order(self) -> Int64:
        """Nearest first: by the smaller share, the larger one, the cosine, then the order of the groups."""
        order: Int64 = np.lexsort((self.b, self.a, -self.cosines, -self.shares.max(1), -self.shares.min(1)))
        return order


def stream_near_groups(
    store: EmbeddingStore, options: GroupOptions, sink: Callable[[pa.Table], None], *, progress: Progress = SILENT
) -> GroupReport:
    """All pairs of near-duplicate groups of the newest version; they are passed to `sink` in blocks, at least one.

    Nearest pairs first, with both groups' rows, near rows and shares, the pooled vectors' cosine, and the cluster.
    Memory: 16 bytes a row of the table and `options.listed` pairs; the vectors lie in the temporary folder. Raises
    InputError (no such column), StoreError (not pooled, or pooled of an older version).
    """
    started = time.perf_counter()
    column_kind(store, options.by, "--by")
    view = store.at(store.version)
    pooled = require_pooled(view, options.by, MEAN)
    with tempfile.TemporaryDirectory(prefix="near-duplicates-") as folder:
        scratch = Scratch(Path(folder))
        groups = read_groups(view, pooled, scratch, progress)
        best, links = _Best(options.listed), Links()
        candidates = both = 0
        for compared in _compared(groups, options, scratch, progress):
            candidates += len(compared.a)
            found = compared.part(np.flatnonzero(compared.shares.max(1) >= options.share))
            both += int((found.shares.min(1) >= options.share).sum())
            links.add(found.a, found.b)
            best.add(found)
        nodes, labels = links.components()
        sizes = np.bincount(labels)
        listed = best.pairs()
        facts = {"table": view.name, "identity": view.state.identity, "version": view.version, **asdict(options)}
        for block in _tables(pooled, groups, listed, (nodes, labels)):
            sink(block.replace_schema_metadata({METADATA: json.dumps(facts).encode()}))
        return GroupReport(
            table=view.name,
            version=view.version,
            by=options.by,
            threshold=options.threshold,
            candidate_cosine=options.candidate_cosine,
            share=options.share,
            groups=len(groups.means),
            rows=len(groups.vectors),
            ungrouped=view.count() - len(groups.vectors),
            candidates=candidates,
            pairs=best.count,
            both_ways=both,
            clusters=len(sizes),
            groups_in_clusters=len(nodes),
            largest_cluster=int(sizes.max(initial=0)),
            listed_pairs=len(listed.a),
            seconds=round(time.perf_counter() - started, 3),
        )


class _Best:
    """Counts pairs and keeps the nearest `most`, whatever the order in which they come."""

    def __init__(self, most: int) -> None:
        none = np.empty(0, np.int64)
        self.count, self._most = 0, most
        self._held = [_Pairs(none, none, np.empty(0), np.empty((0, 2), np.int64), np.empty((0, 2)))]

    def add(self, pairs: _Pairs) -> None:
        self.count += len(pairs.a)
        self._held.append(pairs)
        if sum(len(held.a) for held in self._held) > 2 * self._most:
            self._held = [self.pairs()]

    def pairs(self) -> _Pairs:
        names = ("a", "b", "cosines", "near", "shares")
        both = _Pairs(*(np.concatenate([getattr(held, name) for held in self._held]) for name in names))
        return both.part(both.order()[: self._most])


def _compared(groups: GroupRows, options: GroupOptions, scratch: Scratch, progress: Progress) -> Iterator[_Pairs]:
    """The candidates, block by block, with the rows that are near."""
    if len(groups.means) < 2:
        return
    search = PairSearch(groups.means, options.candidate_cosine, scratch=scratch.zeros)
    compared = 0
    with progress.stage("comparing", search.size), ThreadPoolExecutor(cores()) as pool:
        for (a, b, cosines), looked in search.blocks(_same):

            def near(part: slice, a: Int64 = a, b: Int64 = b) -> list[tuple[int, int]]:
                pairs = zip(a[part].tolist(), b[part].tolist(), strict=True)
                return [groups.near(one, other, options.threshold) for one, other in pairs]

            counts = [pair for part in pool.map(near, chunks(len(a), TOGETHER)) for pair in part]
            rows = np.array(counts, np.int64).reshape(-1, 2)
            sizes = np.stack([groups.sizes(a), groups.sizes(b)], 1)
            compared += len(a)
            progress.advance(looked, pairs=compared)
            yield _Pairs(a, b, cosines, rows, rows / sizes)


def _same(scored: Scored) -> Scored:
    return scored


def _tables(
    pooled: PooledTable, groups: GroupRows, pairs: _Pairs, components: tuple[Int64, Int64]
) -> Iterator[pa.Table]:
    nodes, labels = components
    for start in range(0, max(len(pairs.a), 1), BLOCK_PAIRS):
        block = pairs.part(np.arange(start, min(start + BLOCK_PAIRS, len(pairs.a))))
        involved = np.union1d(block.a, block.b)
        names = pa.array([name for name, _ in pooled.taken(involved)], pa.string())
        table = {}
        for side, own in (("a", block.a), ("b", block.b)):
            table[f"group_{side}"] = names.take(pa.array(np.searchsorted(involved, own)))
        for name, values in (("rows", None), ("near", block.near), ("share", block.shares)):
            for place, (side, own) in enumerate((("a", block.a), ("b", block.b))):
                table[f"{name}_{side}"] = pa.array(groups.sizes(own) if values is None else values[:, place])
        table["cosine"] = pa.array(block.cosines)
        table["cluster"] = pa.array(labels[np.searchsorted(nodes, block.a)])
        yield pa.table(table)
