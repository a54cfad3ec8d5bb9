"""Reads only the vectors of the rows that a probe needs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indexer.errors import ProbeError
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float16, Int64
from probes.cohort.cache import cached_vectors
from probes.cohort.scaling import BLOCK, Vectors

TAKEN = 8192  # rows in one read by id
ALIKE = 1 - 1e-6  # length of the mean vector relative to a row's, above which rows differ by rounding only
CACHED_FROM = 0.25  # share of the filter's rows from which reading and caching all of them is faster


def read_vectors(store: EmbeddingStore, where: str | None, row_ids: Int64, matched: int) -> Float16:
    """Unit vectors (n, dim) of `row_ids`, in that order; `matched` is the number of rows that match `where`.

    A small share is read by row id, so that a hundred labels in a large table take the memory and reads of a hundred
    rows. Raises ProbeError for an id that this version of the table lacks.
    """
    if len(row_ids) >= CACHED_FROM * matched:
        return cached_vectors(store, where, row_ids)
    out = np.empty((len(row_ids), store.dim), np.float16)
    for start in range(0, len(row_ids), TAKEN):
        part = row_ids[start : start + TAKEN]
        found, rows = store.take(part, [], vectors=True)
        if not found.all():
            raise ProbeError(f"{int((~found).sum())} rows of table {store.name} are gone. Run the probe again.")
        done = start
        for batch in rows.to_batches():
            out[done : done + batch.num_rows] = vector_block(batch)
            done += batch.num_rows
    return out


def check_vectors(vectors: Vectors, keys: Sequence[str]) -> None:
    """Raise ProbeError for NaN or zero rows, with their keys, and where all vectors are equal up to rounding."""
    bad: list[int] = []
    total = np.zeros(vectors.dim)
    for start in range(0, len(keys), BLOCK):
        block = vectors.unit[start : start + BLOCK].astype(np.float32)
        bad.extend((np.flatnonzero(~(np.abs((block**2).sum(1) - 1) < 0.05)) + start).tolist())
        total += block.sum(0, dtype=np.float64)
    if bad:
        named = ", ".join(keys[i] for i in bad[:5])
        raise ProbeError(f"{len(bad)} vectors are zero or not finite (keys {named}). Index those images again.")
    if len(keys) > 1 and np.linalg.norm(total) / len(keys) > ALIKE * np.linalg.norm(vectors.unit[0].astype(np.float64)):
        raise ProbeError("all vectors are alike: the encoder says nothing about these images. Choose another encoder.")
