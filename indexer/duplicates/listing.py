"""The pairs to list of each cluster: all of a small one; of a large one each image with its nearest near-duplicate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from indexer.ann.exact import DECIMALS
from indexer.duplicates.copies import Copies
from indexer.duplicates.pairs import Scored, unit_doubles
from indexer.duplicates.scratch import chunks
from indexer.duplicates.tally import Tally
from indexer.types import Float64, Int64

TOGETHER = 256  # classes of small clusters compared in one product
PRODUCTS = 1 << 20  # of a large cluster held at once, 8 MB


@dataclass(frozen=True)
class Clusters:
    """Connected components of the pairs, those of most rows first; memory grows with the classes in them alone."""

    classes: Int64  # (m,) of all clusters, by cluster, then ascending
    starts: Int64  # (clusters + 1,)
    rows: Int64  # (clusters,)
    pairs: Int64  # (clusters,) pairs of rows at or above the threshold

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def of_classes(self) -> Int64:
        """The cluster of each of `classes`."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))


def clusters_of(copies: Copies, tally: Tally) -> Clusters:
    """The clusters of all pairs counted."""
    nodes, labels = tally.links.components()
    count = int(labels.max(initial=-1)) + 1
    rows, pairs = np.zeros(count, np.int64), np.zeros(count, np.int64)
    np.add.at(rows, labels, copies.sizes[nodes])
    np.add.at(pairs, labels, tally.class_pairs[nodes])
    order = np.argsort(-rows, kind="stable")
    rank = np.empty(count, np.int64)
    rank[order] = np.arange(count)
    by_cluster = np.argsort(rank[labels], kind="stable")
    sizes = np.bincount(rank[labels], minlength=count)
    return Clusters(nodes[by_cluster], np.concatenate([[0], np.cumsum(sizes)]), rows[order], pairs[order])


class Listing:
    """Pairs of positions (a < b), with score and cluster, by cluster, then position."""

    def __init__(self, copies: Copies, tally: Tally, clusters: Clusters, threshold: float, most: int) -> None:
        """`most`: pairs of a cluster up to which all are listed."""
        self._copies, self._tally, self._clusters = copies, tally, clusters
        self._threshold, self._most = threshold, most
        several = [p.start + np.flatnonzero(copies.sizes[copies.class_of[p]] > 1) for p in chunks(len(copies.class_of))]
        rows = np.concatenate([np.empty(0, np.int64), *several])
        self._copied = rows[np.argsort(copies.class_of[rows], kind="stable")]  # rows of classes of several, by class
        self._classes = copies.class_of[self._copied]

    def pairs(self) -> Iterator[tuple[Int64, Int64, Float64, Int64]]:
        """Blocks of a, b, score and cluster."""
        whole = self._clusters.pairs <= self._most
        start = 0
        while start < len(self._clusters):
            if not whole[start]:
                yield self._nearest(start)
                start += 1
                continue
            limit = int(np.searchsorted(self._clusters.starts, self._clusters.starts[start] + TOGETHER, side="right"))
            stop = max(start + 1, limit - 1)
            if not whole[start:stop].all():
                stop = start + int(np.argmin(whole[start:stop]))
            yield self._all(start, stop)
            start = stop

    def members(self) -> Iterator[tuple[Int64, Int64]]:
        """Blocks of positions of the rows in clusters, and their clusters, in order."""
        of_classes = self._clusters.of_classes
        for part in chunks(len(of_classes)):
            classes, own = self._clusters.classes[part], of_classes[part]
            rows, which = self._rows(classes)
            order = np.lexsort((rows, own[which]))
            yield rows[order], own[which][order]

    def _all(self, start: int, stop: int) -> tuple[Int64, Int64, Float64, Int64]:
        """Every pair of the clusters from start to stop."""
        ends = self._clusters.starts[start], self._clusters.starts[stop]
        classes = self._clusters.classes[ends[0] : ends[1]]
        own = np.repeat(np.arange(start, stop), np.diff(self._clusters.starts[start : stop + 1]))
        i, j, scores = self._close(classes, own)
        one, other, which = self._between(classes[i], classes[j])
        inside, beside, of = self._within(classes)
        values = np.concatenate([scores[which], np.ones(len(of))])
        return _ordered(
            np.concatenate([one, inside]), np.concatenate([other, beside]), values,
            np.concatenate([own[i][which], own[of]]),
        )  # fmt: skip

    def _close(self, classes: Int64, own: Int64) -> tuple[Int64, Int64, Float64]:
        """Places i < j and scores of the pairs of these classes in one cluster, from some rows' products at a time."""
        units = unit_doubles(self._copies.vectors[classes])
        parts = []
        for rows in chunks(len(classes), max(1, PRODUCTS // max(len(classes), 1))):
            scores = np.round(units[rows] @ units[rows.start :].T, DECIMALS)
            close = (scores >= self._threshold) & (own[rows, None] == own[None, rows.start :])
            i, j = np.nonzero(np.triu(close, 1))
            parts.append((i + rows.start, j + rows.start, scores[i, j]))
        first, second, found = (np.concatenate(part) for part in zip(*parts, strict=True))
        return first, second, found

    def _nearest(self, cluster: int) -> tuple[Int64, Int64, Float64, Int64]:
        """Each row of a cluster with its nearest: for the copies of a row that row, else the first of its class."""
        classes = self._clusters.classes[self._clusters.starts[cluster] : self._clusters.starts[cluster + 1]]
        copies, tally = self._copies, self._tally
        single = classes[copies.sizes[classes] == 1]
        one, other = copies.first[single], copies.first[tally.nearest[single]]
        pairs, places = np.unique(
            np.stack([np.minimum(one, other), np.maximum(one, other)], 1), axis=0, return_index=True
        )
        rows, which = self._rows(classes[copies.sizes[classes] > 1])
        firsts = copies.first[classes[copies.sizes[classes] > 1]][which]
        later = rows != firsts
        values = np.concatenate([tally.scores[single][places], np.ones(int(later.sum()))])
        a, b = np.concatenate([pairs[:, 0], firsts[later]]), np.concatenate([pairs[:, 1], rows[later]])
        return _ordered(a, b, values, np.full(len(a), cluster))

    def _rows(self, classes: Int64) -> tuple[Int64, Int64]:
        """The rows of these classes, and the place of each's class."""
        sizes = self._copies.sizes[classes]
        which = np.repeat(np.arange(len(classes)), sizes)
        rows = self._copies.first[classes][which]
        several = sizes[which] > 1
        within = np.arange(len(which)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        starts = np.searchsorted(self._classes, classes[which[several]])
        rows[several] = self._copied[starts + within[several]]
        return rows, which

    def _between(self, a: Int64, b: Int64) -> tuple[Int64, Int64, Int64]:
        """The pairs of rows of pairs of classes, and the place of each's pair."""
        one, first = self._rows(a)
        counts = self._copies.sizes[b][first]  # each row of a meets all rows of b
        left, at = np.repeat(one, counts), np.repeat(first, counts)
        other, _ = self._rows(np.repeat(b, self._copies.sizes[a]))
        return left, other, at

    def _within(self, classes: Int64) -> tuple[Int64, Int64, Int64]:
        """The pairs of rows inside each class, and the place of its class."""
        a, b, of = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for place in np.flatnonzero(self._copies.sizes[classes] > 1).tolist():
            rows, _ = self._rows(classes[[place]])
            i, j = np.triu_indices(len(rows), 1)
            a.append(rows[i])
            b.append(rows[j])
            of.append(np.full(len(i), place))
        return np.concatenate(a), np.concatenate(b), np.concatenate(of)


def _ordered(one: Int64, other: Int64, scores: Float64, cluster: Int64) -> tuple[Int64, Int64, Float64, Int64]:
    a, b = np.minimum(one, other), np.maximum(one, other)
    order = np.lexsort((b, a, cluster))
    return a[order], b[order], scores[order], cluster[order]


def joined(blocks: Iterator[tuple[Int64, Int64, Float64, Int64]], most: int) -> Iterator[tuple[Scored, Int64]]:
    """The blocks in blocks of at most `most` pairs, at least one."""
    held: list[tuple[Int64, Int64, Float64, Int64]] = []
    count, given = 0, False

    def parts() -> Iterator[tuple[Scored, Int64]]:
        a, b, scores, cluster = (np.concatenate(columns) for columns in zip(*held, strict=True))
        for start in range(0, max(len(a), 1), most):
            part = slice(start, start + most)
            yield (a[part], b[part], scores[part]), cluster[part]

    for block in blocks:
        held.append(block)
        count += len(block[0])
        if count >= most:
            yield from parts()
            held, count, given = [], 0, True
    if not held and not given:
        none = np.empty(0, np.int64)
        held = [(none, none, np.empty(0), none)]
    if held:
        yield from parts()
