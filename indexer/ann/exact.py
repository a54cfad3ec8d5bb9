"""Exact cosine search over float16 rows in bounded memory, and the order of every search result.

A stored row is a unit vector rounded to float16, so its length is 1 only to about 5e-4. A score is always the cosine:
the product with the stored row, divided by that row's length, in float64, rounded to 1e-12 so that equal rows tie.
Equal scores are ordered by row id. Scans in float32 only propose candidates; an upper bound on the cosines of all other
rows decides for which queries a block must be searched densely.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from indexer.ann.half import to_float32
from indexer.types import Bool, Float16, Float32, Float64, Int64

BLOCK_ROWS = 16_384
FEW_QUERIES = 4
GEMM_QUERIES = 64  # from so many on, a block in float32 and one BLAS product beat FAISS's float16 scan
DENSE_QUERIES = 64  # queries whose scores with a whole block are held at once
PRODUCTS = 256  # queries whose products with a whole block are compared at once: 16 MB
PAIRS = 8_192  # rows converted to float64 at once
DECIMALS = 12  # float64 products of unit vectors agree to about 1e-15 whatever the order of summation
ROUNDING = 2.0**-10  # twice the largest change of a unit row's length by rounding to float16

Block = tuple[Int64, Float16]  # row ids (m,), vectors (m, dim)
Found = tuple[Float64, Int64]  # scores (q, ≤ k), row ids (q, ≤ k), best first; id -1 and score -inf where fewer exist


def exact_topk(blocks: Iterable[Block], queries: Float64, k: int, slack: float | None = None) -> Found:
    """The k best rows of all blocks for each unit query (q, dim); the result has min(k, rows) columns.

    `slack` is an upper bound on the difference of a row's length from 1; None where it is unknown, which is slower.
    """
    found = no_hits(len(queries), 0)
    codec = None if slack is None or len(queries) >= GEMM_QUERIES else _codec(queries.shape[1])
    for row_ids, vectors in blocks:
        for start in range(0, len(row_ids), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            block = (row_ids[part], vectors[part])
            above = _with_better(found, block, queries, k) if len(queries) >= GEMM_QUERIES else None
            found = _with_block(found, block, queries, k, codec, slack or 0.0) if above is None else above
    return found


def no_hits(q: int, k: int) -> Found:
    """An empty result (q, k)."""
    return np.full((q, k), -np.inf), np.full((q, k), -1, np.int64)


def merge(one: Found, other: Found, k: int) -> Found:
    """The k best of two sorted results over different rows, of any widths."""
    for empty, full in ((one, other), (other, one)):
        if not empty[1].shape[1]:
            return full[0][:, :k], full[1][:, :k]
    return best(np.concatenate([one[0], other[0]], axis=1), np.concatenate([one[1], other[1]], axis=1), k)


def best(scores: Float64, ids: Int64, k: int) -> Found:
    """Sorted by score, then row id, cut to k columns. An entry without score (-inf) gets id -1, and vice versa."""
    known = (ids >= 0) & (scores > -np.inf)
    scores, ids = np.where(known, scores, -np.inf), np.where(known, ids, -1)
    order, rows = np.lexsort((ids, -scores), axis=1)[:, :k], np.arange(len(ids))[:, None]
    return scores[rows, order], ids[rows, order]


def padded(found: Found, k: int) -> Found:
    """`found`, padded with empty entries to at least k columns."""
    if found[1].shape[1] >= k:
        return found
    room = ((0, 0), (0, k - found[1].shape[1]))
    return np.pad(found[0], room, constant_values=-np.inf), np.pad(found[1], room, constant_values=-1)


def replaced(found: Found, which: Bool, others: Found) -> Found:
    """`found` with the results of the queries at `which` (q,) replaced by `others`."""
    width = max(found[1].shape[1], others[1].shape[1])
    found, others = padded(found, width), padded(others, width)
    found[0][which], found[1][which] = others
    return found


def kth_score(found: Found, k: int) -> Float64:
    """Each query's k-th best score (q,), which another row must reach; -inf where fewer than k were found."""
    scores: Float64 = found[0][:, k - 1] if found[0].shape[1] >= k else np.full(len(found[0]), -np.inf)
    return scores


def spare(k: int) -> int:
    """Candidates to fetch for k hits, so that the bound on the other rows seldom requires a dense search."""
    return 2 * k + 16


def cosines(vectors: Float16, positions: Int64, queries: Float64, which: Int64) -> Float64:
    """Cosine (p,) of each row at `positions` (p,) with its unit query `queries[which]`; -inf for a row without one."""
    scores = np.empty(len(positions))
    for start in range(0, len(positions), PAIRS):
        part = slice(start, start + PAIRS)
        scores[part] = cosines_of(to_float32(vectors[positions[part]]), queries[which[part]])
    return scores


def cosines_of(rows: Float32, queries: Float64) -> Float64:
    """Cosine (m,) of each row (m, dim) with the unit query (m, dim) at its place; -inf for a row without one."""
    doubles = rows.astype(np.float64)
    with np.errstate(all="ignore"):
        scores = np.einsum("ij,ij->i", doubles, queries) / np.sqrt(np.einsum("ij,ij->i", doubles, doubles))
    scores[~np.isfinite(scores)] = -np.inf
    rounded: Float64 = np.round(scores, DECIMALS)
    return rounded


def unit_floats(vectors: Float16, without_direction: float = np.nan) -> Float32:
    """The rows as float32 of length 1; a row that is zero or not finite is filled with `without_direction`."""
    rows = to_float32(vectors)
    lengths = lengths_of(rows)
    good = np.isfinite(lengths) & (lengths > 0)
    if not good.all():
        rows[~good], lengths[~good] = without_direction, 1
    rows /= lengths[:, None]
    return rows


def lengths_of(rows: Float32) -> Float32:
    """(m, dim) → lengths (m,)."""
    with np.errstate(all="ignore"):
        lengths: Float32 = np.sqrt(np.einsum("ij,ij->i", rows, rows))
    return lengths


def slack_of(vectors: Float16) -> float:
    """The most by which a row's length differs from 1. Rows without a direction are never found and do not count."""
    slack = 0.0
    for start in range(0, len(vectors), BLOCK_ROWS):
        lengths = lengths_of(to_float32(vectors[start : start + BLOCK_ROWS]))
        lengths = lengths[np.isfinite(lengths) & (lengths > 0)]
        slack = max(slack, float(np.abs(lengths - 1).max(initial=0)))
    return slack


def rounding_of(dim: int) -> float:
    """Upper bound on the error of a float32 sum over `dim` products of unit vectors, with a margin."""
    return 2.0**-24 * (64 + dim / 2)


def codes_of(vectors: Float16) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The rows' bytes (n, 2·dim), which are FAISS's float16 codes."""
    flat = np.ascontiguousarray(vectors)
    return flat.view(np.uint8).reshape(len(flat), 2 * flat.shape[1])


@contextmanager
def threads_for(q: int) -> Iterator[None]:
    """Sets the number of FAISS's threads inside the context: one where there are few queries.

    FAISS divides the queries among threads, not the rows, so further threads only add waiting, milliseconds on a busy
    machine. OpenMP keeps the number for each calling thread, so callers do not affect one another.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before if q >= FEW_QUERIES else 1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class Resident:
    """Rows held in memory for many scans, without a copy for each."""

    def __init__(self, row_ids: Int64, vectors: Float16) -> None:
        self.row_ids = row_ids
        self._codec = _codec(vectors.shape[1])
        for start in range(0, len(vectors), BLOCK_ROWS):
            self._codec.add_sa_codes(codes_of(vectors[start : start + BLOCK_ROWS]))
        codes = faiss.rev_swig_ptr(self._codec.codes.data(), vectors.nbytes) if len(vectors) else np.empty(0, np.uint8)
        self.vectors: Float16 = codes.view(np.float16).reshape(vectors.shape)  # lives as long as the codec
        self.slack = slack_of(self.vectors)

    def search(self, queries: Float64, k: int) -> Found:
        """The k best rows of each unit query (q, dim)."""
        if not len(self.row_ids) or len(queries) >= GEMM_QUERIES:
            return exact_topk([(self.row_ids, self.vectors)], queries, k)
        with threads_for(len(queries)):
            fetched = self._codec.search(queries.astype(np.float32), min(spare(k), len(self.row_ids)))
        rows = (self.row_ids, self.vectors)
        found, left = settle(no_hits(len(queries), 0), rows, fetched, queries, k, self.slack)
        if left.any():
            found = replaced(found, left, exact_topk([rows], queries[left], k))
        return found


def settle(
    found: Found, block: Block, fetched: tuple[Float32, Int64], queries: Float64, k: int, slack: float
) -> tuple[Found, Bool]:
    """`found` merged with a block's candidates, and a mask (q,) of queries for which the block may hold better rows.

    `fetched` holds each query's highest float32 products (q, m), best first, and their positions in the block. The
    cosine of a row is its product divided by its length, which is 1 ± slack: that bounds all other rows from above.
    """
    (row_ids, vectors), (products, spots) = block, fetched
    high, low = _bounds(products, slack, rounding_of(vectors.shape[1]))
    bar = kth_score(found, k)
    if products.shape[1] >= k:
        bar = np.fmax(bar, np.where(spots[:, k - 1] >= 0, low[:, k - 1], -np.inf))
    keep = (spots >= 0) & ~(high < bar[:, None])
    scores = np.full(products.shape, -np.inf)
    scores[keep] = cosines(vectors, spots[keep], queries, np.nonzero(keep)[0])
    merged = merge(found, best(scores, row_ids[spots], k), k)
    left: Bool = (keep & (scores == -np.inf)).any(1)  # a row without a cosine may have displaced others
    if products.shape[1] < len(vectors):
        left |= (spots[:, -1] >= 0) & ~(high[:, -1] < kth_score(merged, k))
    return merged, left


def _bounds(products: Float32, slack: float, rounding: float) -> tuple[Float64, Float64]:
    """Upper and lower bounds (q, m) of the cosines, from float32 products with rows of length 1 ± slack."""
    p = products.astype(np.float64)
    with np.errstate(all="ignore"):
        longest, shortest = p / (1 + slack), p / (1 - slack) if slack < 1 else np.sign(p) * np.inf
        return np.maximum(longest, shortest) + rounding, np.minimum(longest, shortest) - rounding


def _with_block(found: Found, block: Block, queries: Float64, k: int, codec: Any | None, slack: float) -> Found:
    """`found` merged with the best rows of one block. `codec` scans them as stored; without it they are normalised."""
    vectors = block[1]
    floats = queries.astype(np.float32)
    m = min(spare(k), len(vectors))
    rows = None
    if codec is not None:
        codec.reset()
        codec.add_sa_codes(codes_of(vectors))
        with threads_for(len(queries)):
            fetched = codec.search(floats, m)
    else:
        rows = unit_floats(vectors)
        fetched = faiss.knn(floats, rows, m, metric=faiss.METRIC_INNER_PRODUCT)
    merged, left = settle(found, block, fetched, queries, k, slack)
    if not left.any():
        return merged
    rows = unit_floats(vectors) if rows is None else rows
    merged = padded(merged, min(k, found[0].shape[1] + len(vectors)))
    open_queries = np.flatnonzero(left)
    for start in range(0, len(open_queries), DENSE_QUERIES):
        some = open_queries[start : start + DENSE_QUERIES]
        for query, scores in zip(some, floats[some] @ rows.T, strict=True):
            one = _dense((found[0][[query]], found[1][[query]]), block, scores, queries[[query]], k)
            merged[0][query], merged[1][query] = (x[0] for x in padded(one, merged[0].shape[1]))
    return merged


def _with_better(found: Found, block: Block, queries: Float64, k: int) -> Found | None:
    """`found` merged with the rows of a block that reach its k-th scores; None where it has none, or they are many.

    After some blocks few rows do, so that one product and one comparison take a quarter of the time of a search for the
    best of each block.
    """
    (row_ids, vectors), bar = block, kth_score(found, k)
    if not np.isfinite(bar).all():
        return None
    rows, least = unit_floats(vectors), (bar - 2 * rounding_of(vectors.shape[1])).astype(np.float32)
    which, spots = [], []
    for start in range(0, len(queries), PRODUCTS):
        some = slice(start, start + PRODUCTS)
        reached = (queries[some].astype(np.float32) @ rows.T >= least[some, None]).nonzero()
        which.append(reached[0] + start)
        spots.append(reached[1])
        if sum(map(len, spots)) > len(queries) * spare(k):
            return None
    one, at = np.concatenate(which), np.concatenate(spots)
    counts = np.bincount(one, minlength=len(queries))
    scores, ids = no_hits(len(queries), int(counts.max()))
    column = np.arange(len(one)) - np.repeat(np.cumsum(counts) - counts, counts)
    scores[one, column], ids[one, column] = cosines(vectors, at, queries, one), row_ids[at]
    return merge(found, best(scores, ids, k), k)


def _dense(found: Found, block: Block, scores: Float32, query: Float64, k: int) -> Found:
    """One query's result (1, ≤ k) merged with a block, from the float32 cosines (m,) of all its rows."""
    row_ids, vectors = block
    bar = kth_score(found, k)[0]
    if len(scores) >= k:
        bar = np.fmax(bar, -np.partition(-scores, k - 1)[k - 1])
    spots = np.flatnonzero(scores >= bar - 2 * rounding_of(vectors.shape[1]))
    exact = cosines(vectors, spots, query, np.zeros(len(spots), np.int64))
    return merge(found, best(exact[None], row_ids[spots][None], k), k)


def _codec(dim: int) -> Any:
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
