"""What a cosine means in a table: how often two random images of it are closer to each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.search.snapshot import Snapshot, row_ids_of
from indexer.store.rows import vector_block
from indexer.types import Float64, Int64

SAMPLE = 1_500  # rows, which make 1.1 million pairs
SEED = 0


@dataclass(frozen=True)
class PairCosines:
    """Sorted cosines (p,) of the pairs of a seeded sample of rows."""

    cosines: Float64
    rows: int  # in the sample

    def quantiles(self, steps: int) -> list[float]:
        """The cosines below which 0/steps, 1/steps, … of the pairs lie (steps + 1); none without pairs."""
        if not len(self.cosines):
            return []
        return [float(q) for q in np.quantile(self.cosines, np.linspace(0, 1, steps + 1))]

    def share_closer(self, scores: Float64) -> Float64:
        """For each cosine the share of random pairs with a higher one; NaN without pairs."""
        if not len(self.cosines):
            return np.full(np.shape(scores), np.nan)
        above: Float64 = 1 - np.searchsorted(self.cosines, scores, side="right") / len(self.cosines)
        return above


def pair_cosines(snapshot: Snapshot) -> PairCosines:
    """Of all pairs of SAMPLE rows, or of all rows where there are fewer. Rows without a direction are left out."""
    ids = sampled_ids(snapshot, SAMPLE)
    _, rows = snapshot.view.take(ids, [], vectors=True)
    none = np.empty((0, snapshot.view.dim), np.float16)
    vectors = np.concatenate([none, *(vector_block(batch) for batch in rows.to_batches())]).astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1)
    sound = np.isfinite(lengths) & (lengths > 0)
    vectors = vectors[sound] / lengths[sound, None]
    pairs = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    return PairCosines(np.sort(pairs), len(vectors))


def sampled_ids(snapshot: Snapshot, most: int) -> Int64:
    """Ids of `most` seeded random rows, ascending; of all where there are fewer."""
    parts = [] if snapshot.fresh is None else [snapshot.fresh.row_ids]
    if snapshot.index is not None:
        parts.append(np.setdiff1d(snapshot.index.rows.row_ids, snapshot.gone))
    if not parts:
        parts = [row_ids_of(batch) for batch in snapshot.view.scan([], batch_rows=65_536)]
    ids = np.sort(np.concatenate([np.empty(0, np.int64), *parts]))
    chosen = np.random.default_rng(SEED).choice(len(ids), min(most, len(ids)), replace=False)
    return ids[np.sort(chosen)]
