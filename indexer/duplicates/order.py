"""An order of rows in which near rows stand together, and the blocks of them between which no pair can be.

Two directions at angles α and β to a third are at least |α - β| apart (the triangle inequality on the sphere). So two
blocks hold no pair where their rows' angles to one direction, the mean of the first block, are further apart than a
pair may be. On vectors that fall into clusters nearly all blocks are left out; where they vary gradually, few.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.ann.engines.routing import train_centroids
from indexer.ann.exact import unit_floats
from indexer.duplicates.scratch import chunks
from indexer.progress.silent import SILENT
from indexer.types import Bool, Float16, Float32, Int64, Progress

EACH = 32  # sample rows for each cluster
ROWS = 2_048  # converted to float32 at once
CLUSTERS = 256  # compared with each other by their sampled rows
WITHIN_REACH = 0.9  # share of pairs of clusters above which comparing all pairs takes less time than the order
# Radians. Float32 products of unit rows err by less than 3e-5, which at 0° is an angle of 0.008.
MARGIN = 0.02


def near_together(
    vectors: Float16,
    rows: int,
    threshold: float,
    *,
    scratch: Callable[[tuple[int, ...], npt.DTypeLike], Any],
    progress: Progress = SILENT,
) -> Int64 | None:
    """The positions (n,) of the rows in an order in which k-means clusters of about `rows` rows follow each other.

    None where a sample shows that nearly every cluster may hold a pair with every other, so that no order pays.
    """
    n = len(vectors)
    clusters = max(1, n // rows)
    picked = np.sort(np.random.default_rng(0).choice(n, min(n, EACH * clusters), replace=False))
    points = unit_floats(vectors[picked], 0.0)
    centroids = train_centroids(points, clusters)
    if _within_reach(points, centroids, threshold) > WITHIN_REACH:
        return None
    centroids = _in_turn(centroids)
    nearest, order = scratch((n,), np.int32), scratch((n,), np.int64)
    for part in chunks(n, ROWS):
        nearest[part] = (unit_floats(vectors[part], 0.0) @ centroids.T).argmax(1)
        progress.advance(part.stop - part.start)
    order[:] = np.argsort(nearest, kind="stable")
    found: Int64 = order
    return found


def _within_reach(points: Float32, centroids: Float32, threshold: float) -> float:
    """At least this share of the pairs of clusters may hold a pair: of some clusters, by the sampled points in them."""
    own = np.concatenate([(points[part] @ centroids.T).argmax(1) for part in chunks(len(points), ROWS)])
    some = np.random.default_rng(1).permutation(np.unique(own))[:CLUSTERS]
    inside = np.flatnonzero(np.isin(own, some))
    inside = inside[np.argsort(own[inside], kind="stable")]
    kinds, starts = np.unique(own[inside], return_index=True)
    angles = _angles(points[inside] @ centroids[kinds].T)
    least, most = (reduce.reduceat(angles, starts, axis=0) for reduce in (np.minimum, np.maximum))  # (cluster, pivot)
    gaps = np.maximum(least - np.diag(most), np.diag(least) - most)
    return float((gaps <= _reach(threshold)).mean())


def may_pair(
    vectors: Float16, order: Int64, left: int, right: int, threshold: float, *, progress: Progress = SILENT
) -> Bool:
    """Whether a pair may reach the cosine `threshold` (blocks of `left` rows, blocks of `right` rows, in this order).

    False only where none can.
    """
    n = len(order)
    pivots, spans = [], []
    for part in chunks(n, left):
        rows = unit_floats(vectors[order[part]], 0.0)
        mean = rows.mean(0)
        pivots.append(mean / max(float(np.linalg.norm(mean)), np.finfo(np.float32).tiny))
        angles = _angles(rows @ pivots[-1])
        spans.append((angles.min(), angles.max()))
        progress.advance(part.stop - part.start)
    toward, (least, most) = np.stack(pivots), np.array(spans).T
    furthest = _reach(threshold)
    columns = []
    for part in chunks(n, right):
        angles = _angles(unit_floats(vectors[order[part]], 0.0) @ toward.T)
        columns.append(np.maximum(angles.min(0) - most, least - angles.max(0)) <= furthest)
        progress.advance(part.stop - part.start)
    return np.stack(columns, 1)


def _reach(threshold: float) -> float:
    """The largest angle of a pair; any angle where the threshold, less its margin for rounding, is below -1."""
    return float(np.arccos(np.clip(threshold, -1, 1))) + MARGIN


def _angles(cosines: Float32) -> Float32:
    angles: Float32 = np.arccos(np.clip(cosines, -1, 1))
    return angles


def _in_turn(centroids: Float32) -> Float32:
    """The centroids, each followed by the nearest of those that are left."""
    near = centroids @ centroids.T
    turn, left = [0], np.ones(len(centroids), bool)
    left[0] = False
    while left.any():
        turn.append(int(np.where(left, near[turn[-1]], -np.inf).argmax()))
        left[turn[-1]] = False
    return centroids[turn]
