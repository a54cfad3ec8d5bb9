"""Exact nearest neighbours by blocked matrix products, for kNN probes (all k at once) and the near-duplicate audit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from indexer.malloc import release_freed_memory
from indexer.types import Float32, Int64, Progress
from probes.compute.threads import block_threads, one_thread

QUERIES = 128  # rows of a block of queries
BASE = 2048  # rows of a block of the base: a block pair takes 1 MiB of scores and 2 of their order
PAIRS = 2048  # pairs verified at once, whose rows are copied
BOUND_DIMS = 64  # leading directions used to exclude pairs


class SameGroup:
    """Finds the base rows of a query's own group, which are excluded."""

    def __init__(self, base_groups: Int64) -> None:
        self._order = np.argsort(base_groups, kind="stable")
        self._sorted = base_groups[self._order]

    def pairs(self, query_groups: Int64) -> tuple[Int64, Int64]:
        """(query index, base row) of every pair with the same group."""
        start = np.searchsorted(self._sorted, query_groups, "left")
        stop = np.searchsorted(self._sorted, query_groups, "right")
        counts = stop - start
        queries = np.repeat(np.arange(len(query_groups)), counts)
        offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return queries, self._order[np.repeat(start, counts) + offsets]


def top_k(
    base: Float32,
    queries: Float32,
    k: int,
    *,
    base_groups: Int64,
    query_groups: Int64,
    progress: Progress | None = None,
) -> tuple[Float32, Int64]:
    """Inner products (q, k) and base rows (q, k), best first, ties to the lower row, without the query's own group.

    Where fewer than k rows remain, the score is -inf and the row -1.
    """
    same = SameGroup(base_groups)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)

    def look_up(q: int) -> None:
        part = slice(q, q + QUERIES)
        own_query, own_row = same.pairs(query_groups[part])
        best, found = scores[part], rows[part]
        for start in range(0, len(base), BASE):
            products = queries[part] @ base[start : start + BASE].T
            here = (own_row >= start) & (own_row < start + BASE)
            products[own_query[here], own_row[here] - start] = -np.inf
            best, found = _merge(best, found, products, start)
        order = np.lexsort((found, -best), axis=1)
        scores[part] = np.take_along_axis(best, order, 1)
        rows[part] = np.take_along_axis(found, order, 1)

    _by_blocks(look_up, len(queries), progress)
    return scores, rows


def _by_blocks(look_up: Callable[[int], None], queries: int, progress: Progress | None) -> None:
    """Call `look_up` with the first row of every block of queries, several at a time."""
    starts = range(0, queries, QUERIES)
    with block_threads() as run:
        for start, _ in zip(starts, run(look_up, starts), strict=True):
            if progress is not None:
                progress.advance(min(QUERIES, queries - start))
    release_freed_memory()  # buffers of the threads


def _merge(best: Float32, found: Int64, products: Float32, start: int) -> tuple[Float32, Int64]:
    """The k best of the present best and a new block; only scores above the present k-th best are examined."""
    k = best.shape[1]
    width = products.shape[1]
    if start == 0 and width > 4 * k:  # the first block: every score would be a candidate
        top = np.argpartition(products, width - k, axis=1)[:, width - k :]
        values = np.take_along_axis(products, top, 1)
        picked = np.where(np.isneginf(values), -1, top + start)
    else:
        hit = np.flatnonzero(products > best.min(axis=1)[:, None])
        if not len(hit):
            return best, found
        query, column = hit // width, hit % width
        counts = np.bincount(query, minlength=len(best))
        spot = np.arange(len(hit)) - (np.cumsum(counts) - counts)[query]
        values = np.full((len(best), int(counts.max())), -np.inf, np.float32)
        picked = np.full(values.shape, -1, np.int64)
        values[query, spot] = products[query, column]
        picked[query, spot] = column + start
    values, picked = np.concatenate([best, values], 1), np.concatenate([found, picked], 1)
    keep = np.argpartition(values, values.shape[1] - k, axis=1)[:, values.shape[1] - k :]
    return np.take_along_axis(values, keep, 1), np.take_along_axis(picked, keep, 1)


def nearest_above(
    base: Float32,
    queries: Float32,
    floor: float,
    *,
    base_groups: Int64,
    query_groups: Int64,
    progress: Progress | None = None,
) -> tuple[Float32, Int64]:
    """Highest cosine (q,) to a base row of another group and that row (q,); -inf and -1 where it is below `floor`.

    Exact: with P the projection on the leading directions, a·b ≤ Pa·Pb + ‖a - Pa‖·‖b - Pb‖, so a pair whose bound is
    below the best so far is excluded by a product of 65 numbers instead of dim. Rows must be unit vectors.
    """
    with one_thread():
        directions = _leading(base)
        short_base, short_queries = _shorten(base, directions), _shorten(queries, directions)
    best = np.full(len(queries), np.nextafter(np.float32(floor), np.float32(-1)), np.float32)
    found = np.full(len(queries), -1, np.int64)

    def look_up(q: int) -> None:
        part = slice(q, q + QUERIES)
        for start in range(0, len(base), BASE):
            bound = short_queries[part] @ short_base[start : start + BASE].T
            hit = np.flatnonzero(bound > best[part][:, None] - 1e-5)  # float32 products are accurate to 1e-6
            if len(hit) > bound.size // 16:  # vectors so similar that hardly any pair is excluded: use k = 1
                products = queries[part] @ base[start : start + BASE].T
                products[query_groups[part][:, None] == base_groups[None, start : start + BASE]] = -np.inf
                column = products.argmax(axis=1)
                query, row = np.arange(len(column)) + q, column + start
            else:
                query, row = hit // bound.shape[1] + q, hit % bound.shape[1] + start
            _verify(base, queries, (query, row), (base_groups, query_groups), best, found)

    _by_blocks(look_up, len(queries), progress)
    best[found < 0] = -np.inf
    return best, found


def _verify(
    base: Float32,
    queries: Float32,
    pairs: tuple[Int64, Int64],
    groups: tuple[Int64, Int64],
    best: Float32,
    found: Int64,
) -> None:
    """Update best and found in place from the candidate pairs of different groups."""
    different = groups[1][pairs[0]] != groups[0][pairs[1]]
    query, row = pairs[0][different], pairs[1][different]
    for i in range(0, len(query), PAIRS):
        a, b = query[i : i + PAIRS], row[i : i + PAIRS]
        cosine = np.einsum("ij,ij->i", queries[a], base[b])
        order = np.lexsort((b, -cosine, a))  # each query's best pair first, ties to the lower row
        first = order[np.unique(a[order], return_index=True)[1]]
        better = first[cosine[first] > best[a[first]]]
        best[a[better]], found[a[better]] = cosine[better], b[better]


def _leading(base: Float32) -> Float32:
    """(dim, ≤ 64) directions of largest second moment, from at most 20,000 rows."""
    some = base[:: max(1, len(base) // 20_000)]
    _, vectors = np.linalg.eigh((some.T @ some).astype(np.float64))
    return np.asarray(vectors[:, ::-1][:, :BOUND_DIMS], np.float32)


def _shorten(rows: Float32, directions: Float32) -> Float32:
    """(n, p + 1): the rows in the leading directions, and the length of the remainder."""
    out = np.empty((len(rows), directions.shape[1] + 1), np.float32)
    for start in range(0, len(rows), BASE):
        part = out[start : start + BASE]
        part[:, :-1] = rows[start : start + BASE] @ directions
        short = part[:, :-1].astype(np.float64)
        left = 1.0 - np.einsum("ij,ij->i", short, short)
        part[:, -1] = np.sqrt(np.maximum(left, 0.0) + 1e-6)  # margin for rounding
    return out
