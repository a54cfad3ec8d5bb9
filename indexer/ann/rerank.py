"""Re-ranks an engine's candidates by their stored vectors: float32 products first, then the exact cosine of the few
that can be among the k best.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from indexer.ann.exact import BLOCK_ROWS, DECIMALS, Found, best, cosines, padded, rounding_of, unit_floats
from indexer.ann.half import finite_float32
from indexer.ann.vectors import Rows
from indexer.cores import cores
from indexer.types import Bool, Float32, Float64, Int64

# With rows whose lengths differ from 1 by at most this, a product's bounds leave few rows for the exact cosine.
UNIT = 0.01
# Squared lengths outside of these are of rows without direction, which may displace others, or of a damaged file.
SHORTEST, LONGEST = (1 - 2 * UNIT) ** 2, (1 + 2 * UNIT) ** 2
AT_ONCE = 640  # candidates converted to float32 at once, 1.3 MB at 512 dimensions
THREADED = 64  # queries from which on blocks of them are ranked in threads


def rank(rows: Rows, positions: Int64, queries: Float64, row_ids: Int64, k: int) -> Found:
    """The k best of each unit query's candidates, given as positions and row ids (q, r), -1 where there are fewer."""
    q, r = positions.shape
    slack, step = rows.slack, max(1, AT_ONCE // max(r, 1))
    one = _rank_unbounded if slack is None or slack > UNIT or not len(rows) else _rank_bounded
    if q == 1 and one is _rank_bounded:
        return _rank_single(rows, positions, queries, row_ids, k)
    if q <= step:
        return one(rows, positions, queries, row_ids, k)

    def part(start: int) -> Found:
        some = slice(start, start + step)
        return one(rows, positions[some], queries[some], row_ids[some], k)

    starts = range(0, q, step)
    if q < THREADED:
        parts = [part(start) for start in starts]
    else:
        with ThreadPoolExecutor(cores()) as pool:
            parts = list(pool.map(part, starts))
    scores, ids = zip(*(padded(found, min(k, r)) for found in parts), strict=True)
    return np.concatenate(scores), np.concatenate(ids)


def _rank_single(rows: Rows, positions: Int64, queries: Float64, row_ids: Int64, k: int) -> Found:
    """`_rank_bounded` for one query, of which a service answers most: 89 us in place of 98 for 80 candidates."""
    spots, ids, query = positions[0], row_ids[0], queries[0]
    if min(spots.tolist(), default=0) < 0:
        known = spots >= 0
        spots, ids = spots[known], ids[known]
    vectors = finite_float32(rows.take(spots))
    r = len(spots)
    if r > k:
        # Not by BLAS: for one query's few rows it would wake threads, which takes longer than the product.
        products = np.einsum("rd,d->r", vectors, query.astype(np.float32))
        bar = np.partition(products, r - k)[r - k] - 2 * _margin(rows)
        near = (products >= bar).nonzero()[0]
        vectors, ids = vectors[near], ids[near]
    doubles = vectors.astype(np.float64)
    squares = np.einsum("ij,ij->i", doubles, doubles)
    if not all(SHORTEST < square < LONGEST for square in squares.tolist()):
        return _rank_unbounded(rows, positions, queries, row_ids, k)
    scores = (np.einsum("ij,j->i", doubles, query) / np.sqrt(squares)).round(DECIMALS)
    order = np.lexsort((ids, -scores))[None, :k]
    return scores[order], ids[order]


def _rank_bounded(rows: Rows, positions: Int64, queries: Float64, row_ids: Int64, k: int) -> Found:
    """`rank` where the rows' lengths differ from 1 by at most their slack."""
    (q, r), spots = positions.shape, positions.reshape(-1)
    fewer = spots.min(initial=0) < 0
    vectors = finite_float32(rows.take(np.maximum(spots, 0) if fewer else spots))
    products = np.einsum("qrd,qd->qr", vectors.reshape(q, r, -1), queries.astype(np.float32))
    if fewer:
        products[positions < 0] = -np.inf
    near = np.arange(q * r)
    if r > k:
        ordered = np.partition(products, r - k, axis=1)
        near = (products >= ordered[:, r - k, None] - 2 * _margin(rows)).reshape(-1).nonzero()[0]
    if fewer:
        near = near[spots[near] >= 0]
    chosen = vectors[near].astype(np.float64)
    squares = np.einsum("ij,ij->i", chosen, chosen)
    if squares.min(initial=1) <= SHORTEST or squares.max(initial=1) >= LONGEST:
        return _rank_unbounded(rows, positions, queries, row_ids, k)
    scores = (np.einsum("ij,ij->i", chosen, queries[near // r]) / np.sqrt(squares)).round(DECIMALS)
    exact = np.full(positions.shape, -np.inf)
    exact.reshape(-1)[near] = scores
    return best(exact, row_ids, k)


def _margin(rows: Rows) -> float:
    """A product in float32 differs from the cosine by less than this: queries and rows are as good as unit vectors."""
    slack = rows.slack or 0.0
    return slack / (1 - slack) * (1 + slack) + rounding_of(rows.dim)


def rescore(rows: Rows, positions: Int64, queries: Float64) -> Float32:
    """Cosines in float32 of each unit query (q, dim) with the rows at its own positions (q, r); -inf at -1."""
    q, r = positions.shape
    floats = queries.astype(np.float32)
    scores = np.empty((q, r), np.float32)
    step = max(1, BLOCK_ROWS // max(r, 1))
    for start in range(0, q, step):
        part = positions[start : start + step]
        vectors = unit_floats(rows.take(np.maximum(part, 0).reshape(-1))).reshape(len(part), r, rows.dim)
        scores[start : start + step] = np.matmul(vectors, floats[start : start + step, :, None])[:, :, 0]
    scores[positions < 0] = -np.inf
    return scores


def _rank_unbounded(rows: Rows, positions: Int64, queries: Float64, row_ids: Int64, k: int) -> Found:
    """`rank` where rows may have any length, or none."""
    scores = rescore(rows, positions, queries)
    if scores.shape[1] > k:
        bar = -np.partition(-scores, k - 1, axis=1)[:, k - 1 : k] - 2 * rounding_of(rows.dim)
        positions = np.where(scores >= bar, positions, -1)
    known: Bool = positions >= 0
    exact = np.full(scores.shape, -np.inf)
    vectors = rows.take(positions[known])
    exact[known] = cosines(vectors, np.arange(len(vectors)), queries, np.nonzero(known)[0])
    return best(exact, row_ids, k)
