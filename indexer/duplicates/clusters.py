"""Clusters of linked classes, from links that come in blocks."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from indexer.types import Int64

ROUNDS = 2
HELD_LINKS = 1 << 20  # links held before they are replaced by one for each class


def components(a: Int64, b: Int64) -> tuple[Int64, Int64]:
    """The linked numbers, ascending, and the component of each, numbered from 0 in order of their least numbers."""
    nodes, ends = np.unique(np.concatenate([a, b]), return_inverse=True)
    return nodes, labels_of(ends[: len(a)], ends[len(a) :], len(nodes))


def labels_of(a: Int64, b: Int64, n: int) -> Int64:
    """The component (n,) of each number below n, numbered from 0 in order of their least numbers."""
    least = np.arange(n)
    for _ in range(ROUNDS):  # where most pairs are linked, nearly all links fall inside the groups that these make
        ends = np.minimum(least[a], least[b])
        np.minimum.at(least, a, ends)
        np.minimum.at(least, b, ends)
    across = least[a] != least[b]
    a, b = (np.concatenate([side[across], own]) for side, own in ((a, np.arange(n)), (b, least)))
    _, labels = connected_components(coo_array((np.ones(len(a), np.int8), (a, b)), shape=(n, n)), directed=False)
    out: Int64 = labels.astype(np.int64)
    return out


def stars(nodes: Int64, labels: Int64) -> tuple[Int64, Int64]:
    """Links of each component: every node to the component's least."""
    _, least = np.unique(labels, return_index=True)
    return nodes, nodes[least][labels]


class Links:
    """Collects links; memory grows with the linked classes and not with the links."""

    def __init__(self) -> None:
        none = np.empty(0, np.int64)
        self._held = [(none, none)]
        self._count, self._limit = 0, HELD_LINKS

    def add(self, a: Int64, b: Int64) -> None:
        self._held.append((a, b))
        self._count += len(a)
        if self._count > self._limit:
            nodes, linked = stars(*self.components())
            self._held, self._count = [(nodes, linked)], len(nodes)
            self._limit = max(HELD_LINKS, 2 * len(nodes))

    def components(self) -> tuple[Int64, Int64]:
        """As `components`, of all links so far."""
        return components(*(np.concatenate([link[side] for link in self._held]) for side in (0, 1)))
