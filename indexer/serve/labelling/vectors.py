"""Unit vectors of rows in memory: those of labelled rows and of the candidates, each read once."""

from __future__ import annotations

import numpy as np

from indexer.serve.labelling.rows import LabelRows
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float32, Int64

MOST_KEPT = 40_000  # vectors; more are read anew


class VectorCache:
    """Vectors by position, MOST_KEPT at most: no more may be asked for at once. Not thread-safe."""

    def __init__(self, view: EmbeddingStore, rows: LabelRows) -> None:
        self.view, self._rows = view, rows
        self._place = np.full(len(rows.row_ids), -1)
        self._kept = np.empty((0, view.dim), np.float32)
        self._count = 0

    def of(self, spots: Int64) -> Float32:
        """Unit vectors (n, dim) of rows; zeros where a row has no direction."""
        missing = np.unique(spots[self._place[spots] < 0])
        if len(missing):
            if self._count + len(missing) > MOST_KEPT:
                self._place[:], self._count = -1, 0
                missing = np.unique(spots)
            self._keep(missing, self._read(missing))
        found: Float32 = self._kept[self._place[spots]]
        return found

    def _keep(self, spots: Int64, vectors: Float32) -> None:
        end = self._count + len(spots)
        if end > len(self._kept):  # doubled, so that many small batches copy little
            grown = np.empty((max(end, 2 * len(self._kept)), self.view.dim), np.float32)
            grown[: self._count] = self._kept[: self._count]
            self._kept = grown
        self._kept[self._count : end] = vectors
        self._place[spots] = np.arange(self._count, end)
        self._count = end

    def _read(self, spots: Int64) -> Float32:
        _, found = self.view.take(self._rows.row_ids[spots], [], vectors=True)
        x: Float32 = np.concatenate([vector_block(batch) for batch in found.to_batches()]).astype(np.float32)
        lengths = np.linalg.norm(x, axis=1, keepdims=True)
        x /= np.where(lengths > 0, lengths, 1)
        return x
