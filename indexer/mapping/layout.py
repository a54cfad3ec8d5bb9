"""t-SNE of a seeded sample by openTSNE (extra `map`), and the other rows placed by their nearest sampled rows."""

from __future__ import annotations

import numpy as np

from indexer.ann.exact import Resident
from indexer.cores import cores
from indexer.errors import InputError
from indexer.mapping.principal import Plane, directed
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float16, Float64, Int64

PERPLEXITY = 30.0
NEAREST = 5  # sampled rows that place another row
LEAST_DISTANCE = 1e-6  # between unit rows: a copy of a sampled row lies where that row lies


def require_tsne() -> None:
    """Raise InputError where openTSNE is not installed. To be called before the work."""
    try:
        import openTSNE  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--method opentsne needs {error.name}: pip install 'embedding-indexer[map]', or use --method pca."
        ) from error


class Sample:
    """Rows laid out by t-SNE, which place all others."""

    def __init__(self, view: EmbeddingStore, row_ids: Int64, plane: Plane, seed: int) -> None:
        """`row_ids` (m,) of the sample ascend."""
        _, rows = view.take(row_ids, [], vectors=True)
        vectors = np.concatenate([vector_block(batch) for batch in rows.to_batches()])
        self._rows = Resident(np.arange(len(vectors)), vectors)
        self._ids = row_ids
        _, units = directed(row_ids, vectors)
        self._laid = _tsne(units, plane, seed)

    def place(self, row_ids: Int64, vectors: Float16) -> tuple[Int64, Float64]:
        """Ids and coordinates (m, 2): a sampled row its own, any other the mean of its NEAREST sampled rows,
        weighted by the inverse of their Euclidean distance.
        """
        ids, units = directed(row_ids, vectors)
        cosines, near = self._rows.search(units, NEAREST)
        distances = np.sqrt(np.maximum(0.0, 2 - 2 * cosines))
        weights = 1 / np.maximum(distances, LEAST_DISTANCE)
        placed = (self._laid[near] * weights[..., None]).sum(axis=1) / weights.sum(axis=1)[:, None]
        spots = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        own = self._ids[spots] == ids
        placed[own] = self._laid[spots[own]]
        return ids, placed


def _tsne(units: Float64, plane: Plane, seed: int) -> Float64:
    """Unit rows (m, dim) → coordinates (m, 2), begun at the plane so that the same rows give the same map."""
    from openTSNE import TSNE
    from openTSNE.initialization import rescale

    most = max(1.0, (len(units) - 1) / 3)
    fitted = TSNE(
        perplexity=min(PERPLEXITY, most),
        metric="cosine",
        initialization=rescale(plane.project(units)),
        n_jobs=cores(),
        random_state=seed,
    ).fit(units.astype(np.float32))
    return np.asarray(fitted, np.float64)
