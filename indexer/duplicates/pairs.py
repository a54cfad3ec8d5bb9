"""All pairs of rows that reach a cosine threshold, exactly, without an index.

A score is the cosine: the length of a stored row is 1 only to 5e-4, so each row is divided by its length.
The rows are rotated so that their first d axes hold most of their length; the other axes can add at most the product
of the two remainders' lengths (Cauchy–Schwarz). With that length as one more axis, a product over d + 1 axes bounds
every cosine from above, and only pairs whose bound reaches the threshold are scored in full. Near rows are put together
first, and blocks that are too far apart are left out (`order`). No pair is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from indexer.ann.exact import DECIMALS, unit_floats
from indexer.ann.half import to_float32
from indexer.cores import cores
from indexer.duplicates.order import may_pair, near_together
from indexer.progress.silent import SILENT
from indexer.types import Bool, Float16, Float32, Float64, Int64, Progress

LEFT, RIGHT = 1024, 2048  # rows of a block, whose 8 MiB of products fit into the cache
SAMPLE = 8_192  # rows from which the rotation is computed
PROBE = 1_024  # rows whose pairs estimate how many bounds reach the threshold
AXES = (8, 16, 32, 48, 64, 96, 128, 192, 256, 384)
FEW = 4  # rows for each dimension up to which all products take less time than the rotation
ORDERINGS = 4  # times that each row is read: to its cluster, to the left and right blocks, to its rotated place
BLOCKS = 8  # from so many blocks on, putting near rows together takes less time than it saves
SLACK = 1e-4  # margin for float32 rounding; candidates are scored again
# Nanoseconds on one core, measured: a product takes 0.5 + 0.0125·d, a candidate's full score about 1500.
PRODUCT, PER_AXIS, PER_CANDIDATE = 0.5, 0.0125, 1500.0
DENSE = 0.004  # share of candidates in a block above which one full product is faster

T = TypeVar("T")
Scratch = Callable[[tuple[int, ...], npt.DTypeLike], Any]
Scored = tuple[Int64, Int64, Float64]  # positions a < b of each pair, and its cosine, rounded to 1e-12


class PairSearch:
    """Finds every pair of rows (n, dim) with cosine ≥ threshold, block by block.

    `scratch(shape, kind)` gives the arrays for the rotated rows and their order, in memory or mapped.
    """

    def __init__(self, vectors: Float16, threshold: float, *, scratch: Scratch, progress: Progress = SILENT) -> None:
        """`progress` is advanced by the rows put in order, `ordered_rows` in all."""
        n, dim = vectors.shape
        order, near = np.arange(n), None
        if _is_large(n, dim):
            together = near_together(vectors, LEFT, threshold - SLACK, scratch=scratch, progress=progress)
            if together is None:
                progress.advance((ORDERINGS - 1) * n)
            else:
                order = together
                near = may_pair(vectors, order, LEFT, RIGHT, threshold - SLACK, progress=progress)
        # of the bound; dim where none is faster
        rotated, self.axes = _rotated(vectors, order, threshold, scratch, progress)
        self._work = _Work(vectors, order, rotated, near, threshold)
        self.size = self._work.size  # pairs that will be looked at; some are looked at twice
        self.candidates = 0  # pairs scored in full so far

    def blocks(self, reduce: Callable[[Scored], T], *, threads: int | None = None) -> Iterator[tuple[T, int]]:
        """`reduce` of each block's pairs, called in a worker thread, and how many pairs were looked at.

        Blocks come in order of completion, and a few at a time, so that memory is bounded.
        """
        with threadpool_limits(1), ThreadPoolExecutor(threads or cores()) as pool:
            for found, looked, scored in _in_turn(pool, self._work, reduce):
                self.candidates += scored
                yield found, looked


def ordered_rows(n: int, dim: int) -> int:
    """The rows by which the preparation of a search of n rows advances its progress: each is read several times."""
    return ORDERINGS * n if _is_large(n, dim) else n


def _is_large(n: int, dim: int) -> bool:
    return n > max(FEW * dim, BLOCKS * LEFT)


@dataclass(frozen=True)
class _Work:
    vectors: Float16
    order: Int64  # (n,) positions of the rows in the order of the blocks
    rotated: Float32  # (n, axes + 1) in that order, the last axis the remainder's length
    near: Bool | None  # (left blocks, right blocks): those that may hold a pair; None: all
    threshold: float

    @property
    def size(self) -> int:
        """The number of pairs in all blocks; blocks on the diagonal hold some pairs twice."""
        n = len(self.vectors)
        return sum(min(LEFT, n - left) * min(RIGHT, n - right) for left, right in self.blocks())

    def blocks(self) -> Iterator[tuple[int, int]]:
        n = len(self.vectors)
        for left in range(0, n, LEFT):
            for right in range(left - left % RIGHT, n, RIGHT):
                if self.near is None or self.near[left // LEFT, right // RIGHT]:
                    yield left, right

    def do(self, left: int, right: int) -> tuple[Scored, int, int]:
        """Pairs found in one block, number of pairs examined, number of candidates scored."""
        rows, columns = self.rotated[left : left + LEFT], self.rotated[right : right + RIGHT]
        bounds = rows @ columns.T
        width = bounds.shape[1]
        flat = np.flatnonzero(bounds >= self.threshold - SLACK)
        a, b = flat // width + left, flat % width + right
        later = a < b
        a, b = a[later], b[later]
        if len(flat) > DENSE * bounds.size:
            scores = self._products(left, right)[a - left, b - right]
        else:
            scores = self._scores(a, b)
        close = scores >= self.threshold
        one, other = self.order[a[close]], self.order[b[close]]
        return (np.minimum(one, other), np.maximum(one, other), scores[close]), bounds.size, len(a)

    def _products(self, left: int, right: int) -> Float64:
        blocks = (self.order[x : x + n] for x, n in ((left, LEFT), (right, RIGHT)))
        rows, columns = (unit_doubles(self.vectors[block]) for block in blocks)
        products: Float64 = np.round(rows @ columns.T, DECIMALS)
        return products

    def _scores(self, a: Int64, b: Int64) -> Float64:
        scores = np.empty(len(a))
        for start in range(0, len(a), LEFT):
            part = slice(start, start + LEFT)
            rows = (unit_doubles(self.vectors[self.order[x[part]]]) for x in (a, b))
            scores[part] = np.einsum("ij,ij->i", *rows)
        rounded: Float64 = np.round(scores, DECIMALS)
        return rounded


def unit_doubles(vectors: Float16) -> Float64:
    """Rows of length 1; zero for a row without direction, which is in no pair."""
    rows = to_float32(vectors).astype(np.float64)
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(rows, axis=1)
    good = np.isfinite(lengths) & (lengths > 0)
    rows[~good], lengths[~good] = 0, 1
    rows /= lengths[:, None]
    return rows


def _in_turn(pool: ThreadPoolExecutor, work: _Work, reduce: Callable[[Scored], T]) -> Iterator[tuple[T, int, int]]:
    """Results in order of completion; the number of submitted blocks is limited, so that memory is bounded."""

    def do(left: int, right: int) -> tuple[T, int, int]:
        pairs, looked, scored = work.do(left, right)
        return reduce(pairs), looked, scored

    pending: set[Future[tuple[T, int, int]]] = set()
    try:
        for left, right in work.blocks():
            pending.add(pool.submit(do, left, right))
            if len(pending) >= 2 * cores():
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        for future in pending:
            future.cancel()


def _rotated(
    vectors: Float16, order: Int64, threshold: float, scratch: Scratch, progress: Progress
) -> tuple[Float32, int]:
    """The rotated rows, in this order, on the number of axes that makes the search fastest, and that number."""
    n, dim = vectors.shape
    axes, basis = dim, np.empty((dim, 0), np.float32)
    if n > FEW * dim:
        rng = np.random.default_rng(0)
        sample = unit_floats(vectors[np.sort(rng.choice(n, min(n, SAMPLE), replace=False))], 0.0)
        # Not centred, since an inner product is bounded and not a covariance: the mean is a part of it.
        _, basis = np.linalg.eigh(sample.T @ sample)
        basis = np.ascontiguousarray(basis[:, ::-1])
        axes = _best_axes(sample[:PROBE] @ basis, threshold)
    out = scratch((n, axes + (axes < dim)), np.float32)
    for start in range(0, n, LEFT):
        rows = unit_floats(vectors[order[start : start + LEFT]], 0.0)
        progress.advance(len(rows))
        if axes == dim:
            out[start : start + LEFT] = rows
            continue
        head = rows @ basis[:, :axes]
        rest = (rows * rows).sum(1) - (head * head).sum(1)
        out[start : start + LEFT, :axes] = head
        out[start : start + LEFT, axes] = np.sqrt(np.maximum(rest, 0))
    return out, axes


def _best_axes(turned: Float32, threshold: float) -> int:
    """The fastest number of axes, by the share of sampled pairs whose bound reaches the threshold."""
    dim = turned.shape[1]
    costs: dict[int, float] = {dim: PRODUCT + PER_AXIS * dim}
    for axes in (a for a in AXES if a < dim):
        rest = np.sqrt(np.maximum((turned[:, axes:] ** 2).sum(1), 0))
        bounds = turned[:, :axes] @ turned[:, :axes].T + np.outer(rest, rest)
        np.fill_diagonal(bounds, -1)
        share = float((bounds >= threshold - SLACK).mean())
        costs[axes] = PRODUCT + PER_AXIS * axes + min(PER_CANDIDATE * share, PRODUCT + PER_AXIS * dim)
    return min(costs.items(), key=lambda item: item[1])[0]
