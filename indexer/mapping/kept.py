"""How many true neighbours a map keeps: without that number a map misleads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from indexer.ann.exact import cosines, exact_topk
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float16, Float64, Int64, Progress

K = 10
TESTED = 1_000  # rows


@dataclass(frozen=True)
class Kept:
    """The share of rows' K nearest by cosine that are among their K nearest on the map, exact on both sides.

    A row on the map that is as near as the K-th true neighbour counts as one, so that copies are not held against a
    map. `by_chance` is the share that random places would keep.
    """

    share: float | None  # mean over the tested rows; None for a map of one row
    by_chance: float | None
    tested: int
    k: int  # K, or all other rows where there are fewer


def kept(view: EmbeddingStore, row_ids: Int64, places: Float64, seed: int, progress: Progress) -> Kept:
    """Measured on a seeded sample of the rows (n,) at `places` (n, 2), against one scan of all of them."""
    n = len(row_ids)
    k = min(K, n - 1)
    if k < 1:
        return Kept(None, None, 0, 0)
    asked = np.sort(np.random.default_rng(seed).choice(n, min(TESTED, n), replace=False))
    own = row_ids[asked]
    vectors = _vectors(view, own)
    queries = vectors.astype(np.float64)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    scores, ids = exact_topk(_blocks(view, row_ids, progress), queries, k + 1)
    last = _without(own, scores, ids)[:, k - 1]
    _, spots = cKDTree(places).query(places[asked], k + 1)
    near = row_ids[_without_spots(asked, spots, k)]
    unique, back = np.unique(near, return_inverse=True)
    which = np.repeat(np.arange(len(asked)), k)
    found = cosines(_vectors(view, unique), back.ravel(), queries, which).reshape(len(asked), k)
    return Kept(float((found >= last[:, None] - 1e-9).mean()), k / (n - 1), len(asked), k)


def _blocks(view: EmbeddingStore, row_ids: Int64, progress: Progress) -> Iterator[tuple[Int64, Float16]]:
    known = np.sort(row_ids)
    for batch in view.scan([], vectors=True):
        ids, vectors = batch.column("_rowid").to_numpy().astype(np.int64), vector_block(batch)
        mapped = known[np.minimum(np.searchsorted(known, ids), len(known) - 1)] == ids
        progress.advance(batch.num_rows)
        yield ids[mapped], vectors[mapped]


def _vectors(view: EmbeddingStore, row_ids: Int64) -> Float16:
    _, rows = view.take(row_ids, [], vectors=True)
    return np.concatenate([vector_block(batch) for batch in rows.to_batches()])


def _without(own: Int64, scores: Float64, ids: Int64) -> Float64:
    """Scores (q, k) without each query's own row; without the last where copies pushed it out."""
    drop = ids == own[:, None]
    drop[~drop.any(axis=1), -1] = True
    others: Float64 = scores[~drop].reshape(len(own), -1)
    return others


def _without_spots(own: Int64, spots: Int64, k: int) -> Int64:
    """Positions (q, k) without each query's own; without the last where rows at the same place pushed it out."""
    drop = spots == own[:, None]
    drop[~drop.any(axis=1), -1] = True
    others: Int64 = spots[~drop].reshape(len(own), k)
    return others
