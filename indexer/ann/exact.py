"""Exact inner-product search over float16 rows in bounded memory, and the ordering every search result has."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import faiss
import numpy as np

from indexer.types import Float16, Float32, Int64

BLOCK_ROWS = 16_384
SMALL = 65_536  # numbers: below this FAISS's threads cost more than they save
FEW_QUERIES = 4
GEMM_QUERIES = 64  # from here on decoding a block to float32 and one BLAS product beat the SIMD float16 scan

Block = tuple[Int64, Float16]  # row ids (m,), vectors (m, dim)
Found = tuple[Float32, Int64]  # scores (q, k), row ids (q, k), best first; id -1 and score -inf where fewer exist


def exact_topk(blocks: Iterable[Block], queries: Float32, k: int) -> Found:
    """The k best rows of all blocks for each query (q, dim). Equal scores are ordered by row id."""
    found = nothing(len(queries), k)
    scanner = _BlockScanner(queries, spare(k))
    for row_ids, vectors in blocks:
        for start in range(0, len(row_ids), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            if len(row_ids[part]):
                scores, spots = scanner.scan(vectors[part])
                found = merge(found, (scores, row_ids[part][spots]), k)
    return found


def best_of_floats(row_ids: Int64, vectors: Float32, queries: Float32, k: int) -> Found:
    """The k best of rows that are float32 already."""
    scores, spots = faiss.knn(queries, vectors, min(spare(k), len(vectors)), metric=faiss.METRIC_INNER_PRODUCT)
    return best(scores, row_ids[spots], k)


def nothing(q: int, k: int) -> Found:
    return np.full((q, k), -np.inf, np.float32), np.full((q, k), -1, np.int64)


def merge(one: Found, other: Found, k: int) -> Found:
    """The k best of two results over different rows, of any widths."""
    scores = np.concatenate([one[0], other[0]], axis=1)
    ids = np.concatenate([one[1], other[1]], axis=1)
    return best(scores, ids, k)


def best(scores: Float32, ids: Int64, k: int) -> Found:
    """Sorted by score, then row id, cut to k columns and filled up with -1."""
    scores = np.where(ids >= 0, scores, -np.inf).astype(np.float32, copy=False)
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    ids, scores = np.take_along_axis(ids, order, 1), np.take_along_axis(scores, order, 1)
    if ids.shape[1] < k:
        room = k - ids.shape[1]
        ids = np.pad(ids, ((0, 0), (0, room)), constant_values=-1)
        scores = np.pad(scores, ((0, 0), (0, room)), constant_values=-np.inf)
    return scores, ids


def spare(k: int) -> int:
    """How many to fetch for k: ties at rank k must be ordered by row id, or two pages could show one row twice."""
    return 2 * k + 16


def gather(row_ids: Int64, vectors: Float16, positions: Int64) -> Iterator[Block]:
    """Blocks of the rows at these positions; `vectors` may be a memory map larger than memory."""
    for start in range(0, len(positions), BLOCK_ROWS):
        part = positions[start : start + BLOCK_ROWS]
        yield row_ids[part], vectors[part]


def rescore(vectors: Float16, positions: Int64, queries: Float32) -> Float32:
    """Inner products (q, r) of each query (q, dim) with the rows at its own positions (q, r); -inf at position -1."""
    q, r = positions.shape
    dim = vectors.shape[1]
    scores = np.empty((q, r), np.float32)
    step = max(1, BLOCK_ROWS // max(r, 1))
    for start in range(0, q, step):
        part = positions[start : start + step]
        rows = to_float32(vectors[np.maximum(part, 0).reshape(-1)]).reshape(len(part), r, dim)
        scores[start : start + step] = np.matmul(rows, queries[start : start + step, :, None])[:, :, 0]
    scores[positions < 0] = -np.inf
    return scores


def to_float32(vectors: Float16) -> Float32:
    """The rows as float32; for many rows four times faster than `astype`, which converts one number at a time."""
    if vectors.size < SMALL:
        return vectors.astype(np.float32)
    decoded: Float32 = _codec(vectors.shape[1]).sa_decode(codes_of(vectors))
    return decoded


def codes_of(vectors: Float16) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    """The rows' bytes (n, 2·dim), which are FAISS's own float16 codes."""
    flat = np.ascontiguousarray(vectors)
    return flat.view(np.uint8).reshape(len(flat), 2 * flat.shape[1])


@contextmanager
def threads_for(q: int) -> Iterator[None]:
    """FAISS's threads for this call: one where there are few queries.

    FAISS shares queries out, not rows, so more threads only wait for each other, milliseconds on a busy machine.
    OpenMP keeps the number for each calling thread, so callers do not disturb one another.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(before if q >= FEW_QUERIES else 1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


class Resident:
    """Rows held in memory, ready to be scanned by many calls without being copied for each."""

    def __init__(self, row_ids: Int64, vectors: Float16) -> None:
        self.row_ids = row_ids
        self._codec = _codec(vectors.shape[1])
        for start in range(0, len(vectors), BLOCK_ROWS):
            self._codec.add_sa_codes(codes_of(vectors[start : start + BLOCK_ROWS]))
        codes = faiss.rev_swig_ptr(self._codec.codes.data(), vectors.nbytes) if len(vectors) else np.empty(0, np.uint8)
        self.vectors: Float16 = codes.view(np.float16).reshape(vectors.shape)  # lives as long as the codec

    def search(self, queries: Float32, k: int) -> Found:
        """The k best rows of each query (q, dim)."""
        if not len(self.row_ids) or len(queries) >= GEMM_QUERIES:
            return exact_topk([(self.row_ids, self.vectors)], queries, k)
        with threads_for(len(queries)):
            scores, spots = self._codec.search(queries, min(spare(k), len(self.row_ids)))
        return best(scores, self.row_ids[spots], k)


def _codec(dim: int) -> Any:
    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


class _BlockScanner:
    """Top rows of one block after the other; keeps its FAISS object between blocks."""

    def __init__(self, queries: Float32, k: int) -> None:
        self._queries, self._k = np.ascontiguousarray(queries, np.float32), k
        self._codec = _codec(queries.shape[1])

    def scan(self, vectors: Float16) -> Found:
        k = min(self._k, len(vectors))
        if len(self._queries) >= GEMM_QUERIES:
            found: Found = faiss.knn(self._queries, to_float32(vectors), k, metric=faiss.METRIC_INNER_PRODUCT)
            return found
        self._codec.reset()
        self._codec.add_sa_codes(codes_of(vectors))
        with threads_for(len(self._queries)):
            scores, spots = self._codec.search(self._queries, k)
        return scores, spots
