"""Counts of near-duplicate pairs, from blocks of pairs of classes, without a list of the pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array, csr_array

from indexer.duplicates.clusters import Links, labels_of, stars
from indexer.duplicates.copies import Codes, Copies
from indexer.duplicates.pairs import Scored
from indexer.duplicates.scratch import Scratch, chunks
from indexer.types import Float64, Int32, Int64

HELD_ENTRIES = 1 << 22  # counts of a class and a value multiplied at once
SPARSE = 8  # numbers of the span of a block's classes, for each of its pairs, above which they are sorted
NO_CODE = np.iinfo(np.int32).max


@dataclass(frozen=True)
class Block:
    """What one block of pairs adds."""

    classes: Int64  # (m,) of the block's pairs, ascending
    pairs: Int64  # (m,) pairs of rows, counted at the first class of each
    links: tuple[Int64, Int64]
    scores: Float64  # (m,) of the best pair of each class
    nearest: Int64  # (m,) the other class of that pair
    groups: tuple[int, int]  # pairs of rows of one group; pairs of rows whose groups are known
    splits: Counter[tuple[int, int]]
    lowest: Int32  # (m,) least and greatest split code among the rows near each class
    highest: Int32


class Values:
    """How often each class has each value of a column."""

    def __init__(self, copies: Copies, column: Codes, scratch: Scratch) -> None:
        self._sizes = copies.sizes
        self.row_codes = column.codes
        self.codes = scratch.zeros(copies.sizes.shape, np.int32)  # of classes of one row
        self._table: csr_array | None = None
        for part in chunks(len(copies.sizes)):
            self.codes[part] = column.codes[copies.first[part]]
        if any((copies.sizes[part] > 1).any() for part in chunks(len(copies.sizes))):
            known = np.flatnonzero(column.codes >= 0)
            entries = (np.ones(len(known), np.int64), (copies.class_of[known], column.codes[known]))
            self._table = coo_array(entries, shape=(len(copies.sizes), max(len(column.names), 1))).tocsr()

    def of_single(self, a: Int64, b: Int64) -> tuple[Int32, Int32]:
        """Codes of both rows of the pairs of two classes of one row, where both are known."""
        single = (self._sizes[a] == 1) & (self._sizes[b] == 1)
        one, other = self.codes[a[single]], self.codes[b[single]]
        known = (one >= 0) & (other >= 0)
        return one[known], other[known]

    def of_others(self, a: Int64, b: Int64) -> Iterator[tuple[csr_array, csr_array]]:
        """Counts (p, values) of both classes of all other pairs, in bounded memory."""
        if self._table is None:
            return
        several = (self._sizes[a] > 1) | (self._sizes[b] > 1)
        a, b = a[several], b[several]
        each = np.diff(self._table.indptr)
        ends = np.cumsum(each[a] + each[b])
        start = 0
        while start < len(a):
            stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + HELD_ENTRIES)))
            yield self._table[a[start:stop]], self._table[b[start:stop]]
            start = stop

    def inside(self) -> csr_array | None:
        """Counts (c, values) of the classes; None where each has one row."""
        return self._table


class Tally:
    """Exact counts over all pairs of rows, accumulated block by block."""

    def __init__(self, copies: Copies, group: str | None, split: str | None, scratch: Scratch) -> None:
        self._sizes, c = copies.sizes, len(copies.sizes)
        self.pairs = 0
        self.links = Links()
        self.class_pairs = scratch.zeros((c,), np.int64)
        self.scores, self.nearest = scratch.zeros((c,), np.float64), scratch.zeros((c,), np.int64)
        self._group = None if group is None else Values(copies, copies.columns[group], scratch)
        self._split = None if split is None else Values(copies, copies.columns[split], scratch)
        self._same = self._known = 0
        self._splits: Counter[tuple[int, int]] = Counter()
        if self._split is not None:
            self._own = [scratch.zeros((c,), np.int32) for _ in range(2)]  # least and greatest code of a class's rows
            self._near = [scratch.zeros((c,), np.int32) for _ in range(2)]  # and of the rows near it
            self._begin_splits(copies, self._split)
        self._begin_copies()

    def reduce(self, scored: Scored) -> Block | None:
        """What a block of pairs of classes adds; safe to call in threads."""
        a, b, scores = scored
        if not len(a):
            return None
        classes, ia, ib = _numbered(a, b)
        m = len(classes)
        weights = self._sizes[a] * self._sizes[b]
        best = np.zeros(m)
        nearest = np.full(m, np.iinfo(np.int64).max)
        for own in (ia, ib):
            np.maximum.at(best, own, scores)
        for own, other in ((ia, b), (ib, a)):  # of equal scores the first in the table
            top = scores == best[own]
            np.minimum.at(nearest, own[top], other[top])
        ends = stars(np.arange(m), labels_of(ia, ib, m))
        lowest, highest = self._near_codes(classes, (ia, ib), (a, b))
        pairs = np.bincount(ia, weights, m).astype(np.int64)
        links = (classes[ends[0]], classes[ends[1]])
        groups, splits = self._groups(a, b), self._split_pairs(a, b)
        return Block(classes, pairs, links, best, nearest, groups, splits, lowest, highest)

    def add(self, block: Block | None) -> None:
        """Take up a block's counts. To be called by one thread."""
        if block is None:
            return
        own = block.classes
        self.pairs += int(block.pairs.sum())
        self.class_pairs[own] += block.pairs
        self.links.add(*block.links)
        scores, nearest = self.scores[own], self.nearest[own]
        better = (block.scores > scores) | ((block.scores == scores) & (block.nearest < nearest))
        self.scores[own[better]], self.nearest[own[better]] = block.scores[better], block.nearest[better]
        self._same += block.groups[0]
        self._known += block.groups[1]
        self._splits.update(block.splits)
        if self._split is not None:
            self._near[0][own] = np.minimum(self._near[0][own], block.lowest)
            self._near[1][own] = np.maximum(self._near[1][own], block.highest)

    def facts(self, copies: Copies, group: str | None, split: str | None) -> dict[str, Any]:
        """The fields of NearReport on groups and splits; None for those not requested."""
        out: dict[str, Any] = dict.fromkeys(
            ("within_group", "across_groups", "group_unknown", "across_splits", "split_pairs", "leaked_rows")
        )
        if group is not None:
            across, unknown = self._known - self._same, self.pairs - self._known
            out |= {"within_group": self._same, "across_groups": across, "group_unknown": unknown}
        if split is not None:
            names = copies.columns[split].names
            named = Counter[str]()
            for pair, count in self._splits.items():
                named[" / ".join(sorted(names[code] for code in pair))] += count
            out |= {"across_splits": named.total(), "split_pairs": dict(sorted(named.items()))}
            out["leaked_rows"] = self._leaked(copies, split, names)
        return out

    def _begin_copies(self) -> None:
        """Count the pairs inside classes."""
        for part in chunks(len(self._sizes)):
            several = np.flatnonzero(self._sizes[part] > 1) + part.start
            own = self._sizes[several] * (self._sizes[several] - 1) // 2
            self.class_pairs[several] = own
            self.pairs += int(own.sum())
            self.links.add(several, several)
        for values, count in ((self._group, self._count_groups), (self._split, self._count_splits)):
            table = None if values is None else values.inside()
            if table is not None:
                count(table)

    def _count_groups(self, table: csr_array) -> None:
        own = table.sum(1) if table.nnz else np.zeros(table.shape[0], np.int64)
        self._same += int((table.data * (table.data - 1) // 2).sum())
        self._known += int((own * (own - 1) // 2).sum())

    def _count_splits(self, table: csr_array) -> None:
        both = (table.T @ table).tocoo()
        upper = both.row < both.col
        self._splits.update(_counted(both.row[upper], both.col[upper], both.data[upper]))

    def _groups(self, a: Int64, b: Int64) -> tuple[int, int]:
        if self._group is None:
            return 0, 0
        one, other = self._group.of_single(a, b)
        same, known = int((one == other).sum()), len(one)
        for first, second in self._group.of_others(a, b):
            same += int(first.multiply(second).sum())
            known += int((first.sum(1) * second.sum(1)).sum())
        return same, known

    def _split_pairs(self, a: Int64, b: Int64) -> Counter[tuple[int, int]]:
        out: Counter[tuple[int, int]] = Counter()
        if self._split is None:
            return out
        one, other = self._split.of_single(a, b)
        out.update(_counted(one, other, np.ones(len(one), np.int64)))
        for first, second in self._split.of_others(a, b):
            both = (first.T @ second).tocoo()
            out.update(_counted(both.row, both.col, both.data))
        return out

    def _begin_splits(self, copies: Copies, split: Values) -> None:
        low, high = self._own
        low[:], high[:] = NO_CODE, -1
        for part in chunks(len(copies.class_of)):
            codes = split.row_codes[part]
            known = codes >= 0
            np.minimum.at(low, copies.class_of[part][known], codes[known])
            np.maximum.at(high, copies.class_of[part][known], codes[known])
        for near, own in zip(self._near, self._own, strict=True):
            near[:] = own

    def _near_codes(
        self, classes: Int64, numbers: tuple[Int64, Int64], pairs: tuple[Int64, Int64]
    ) -> tuple[Int32, Int32]:
        low, high = np.full(len(classes), NO_CODE, np.int32), np.full(len(classes), -1, np.int32)
        if self._split is not None:
            for own, other in zip(numbers, reversed(pairs), strict=True):
                np.minimum.at(low, own, self._own[0][other])
                np.maximum.at(high, own, self._own[1][other])
        return low, high

    def _leaked(self, copies: Copies, split: str, names: list[str]) -> dict[str, int]:
        """Rows of each split that have a near-duplicate in another split."""
        counts = np.zeros(len(names), np.int64)
        for part in chunks(len(copies.class_of)):
            codes, own = copies.columns[split].codes[part], copies.class_of[part]
            leaks = (codes >= 0) & ((self._near[0][own] != codes) | (self._near[1][own] != codes))
            counts += np.bincount(codes[leaks], minlength=len(names))
        return {name: int(count) for name, count in sorted(zip(names, counts, strict=True)) if count}


def _numbered(a: Int64, b: Int64) -> tuple[Int64, Int64, Int64]:
    """The classes of both sides, ascending, and the place among them of each side's."""
    low = int(min(a.min(), b.min()))
    span = int(max(a.max(), b.max())) - low + 1
    if span > SPARSE * len(a):
        classes, places = np.unique(np.concatenate([a, b]), return_inverse=True)
        return classes, places[: len(a)], places[len(a) :]
    present = np.zeros(span, bool)  # by tables, without sorting
    present[a - low] = present[b - low] = True
    table = np.cumsum(present) - 1
    return np.flatnonzero(present) + low, table[a - low], table[b - low]


def _counted(one: Any, other: Any, counts: Any) -> Counter[tuple[int, int]]:
    """Pairs of unequal codes, whichever comes first, with the sums of their counts."""
    unequal = one != other
    low, high = np.minimum(one, other)[unequal], np.maximum(one, other)[unequal]
    base = int(high.max(initial=0)) + 1
    keys, places = np.unique(low.astype(np.int64) * base + high, return_inverse=True)
    sums = np.zeros(len(keys), np.int64)
    np.add.at(sums, places, counts[unequal])
    return Counter({divmod(key, base): count for key, count in zip(keys.tolist(), sums.tolist(), strict=True)})
