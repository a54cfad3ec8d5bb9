"""Routing by k-means: which inverted list a row lies in, and how many lists a query must search."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from indexer.ann.engines.protocol import FloatBlock, Neighbours
from indexer.ann.exact import unit_floats
from indexer.ann.vectors import Rows
from indexer.types import Float32, Float64, Int64

# Measured on 200,000 rows of either data kind of benchmarks/vectors: twice the iterations on a quarter more points took
# three times as long and changed recall at equal nprobe by less than its standard error.
KMEANS_ROUNDS = 5
POINTS_PER_CENTROID = 32
FEW_ROWS = 200_000


def lists_for(rows: int) -> int:
    """The number of inverted lists: √rows; for larger tables 447 · (rows / 200,000)^⅔, which is 1,308 for a million.

    More lists scan fewer rows at equal recall, but each is compared with every query, and in a build with every row,
    which is most of its time. At 200,000 rows √rows is the quickest to search; at a million 1.25 to 1.5 times as many
    take a twelfth off a query and add a fifth to the build.
    """
    return max(1, round(math.sqrt(rows) * math.pow(max(1.0, rows / FEW_ROWS), 1 / 6)))


def train_centroids(points: Float32, nlist: int, seed: int = 0) -> Float32:
    """Centroids (nlist, dim) of spherical k-means over points (n, dim), on a GPU where FAISS has one."""
    gpu = bool(faiss.get_num_gpus())
    kmeans = faiss.Kmeans(
        points.shape[1],
        nlist,
        niter=KMEANS_ROUNDS,
        spherical=True,
        seed=seed + 1,  # 0 makes FAISS seed from the clock
        gpu=gpu,
        min_points_per_centroid=1,
        max_points_per_centroid=POINTS_PER_CENTROID,
    )
    kmeans.train(points)
    centroids: Float32 = kmeans.centroids
    return centroids


def lists_needed(index: Any, neighbours: Neighbours) -> Int64:
    """The smallest nprobe (q, K) at which each neighbour's list is searched; 0 where there is no neighbour."""
    quantizer, nlist = index.quantizer, index.nlist
    q, k, dim = neighbours.vectors.shape
    lists = quantizer.assign(neighbours.vectors.reshape(q * k, dim), 1).reshape(q, k)
    order = quantizer.search(neighbours.queries.astype(np.float32), nlist)[1]
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(nlist), order.shape), 1)
    needed: Int64 = np.where(neighbours.known, np.take_along_axis(ranks, lists, 1) + 1, 0)
    return needed


def float_blocks(rows: Rows, block_rows: int) -> Iterator[FloatBlock]:
    """All rows as unit float32 vectors in blocks; a row without direction is zero and ranks last."""
    for row_ids, vectors in rows.scan(block_rows):
        yield row_ids, unit_floats(vectors, 0.0)


def sure(each: Float64) -> float:
    """Mean minus two standard errors: a lower confidence bound of the recall of other queries."""
    return float(each.mean() - 2 * each.std() / np.sqrt(len(each)))


def list_widths(index: Any, neighbours: Neighbours, target: float) -> list[int]:
    """From the smallest nprobe whose lists hold the target share of the true neighbours, which bounds recall."""
    needed = lists_needed(index, neighbours)
    enough = (p for p in ladder(1, index.nlist) if sure((needed <= p).mean(1)) >= target)
    return ladder(next(enough, index.nlist), index.nlist)


def ladder(bottom: int, top: int) -> list[int]:
    """Integers from bottom to top in steps of about a tenth."""
    steps = [bottom]
    while steps[-1] < top:
        steps.append(min(max(steps[-1] + 1, round(steps[-1] * 1.1)), top))
    return steps
