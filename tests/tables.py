"""Small tables with vectors we chose, so that exact search in numpy is the truth."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.types import (
    EmbeddingBatch,
    EmbeddingRow,
    EncoderSpec,
    Float16,
    Float32,
    Int64,
    PixelSpec,
    Place,
    Shard,
    ShardResult,
)


def spec_for(dim: int) -> EncoderSpec:
    half = (0.5, 0.5, 0.5)
    return EncoderSpec("numbers", "random:0", "pooled", dim, half, half, "fp32", PixelSpec(size=8, resize=8))


def unit_rows(n: int, dim: int, seed: int = 0, *, clusters: int = 20, spread: float = 0.5) -> Float16:
    """Clustered unit rows, as embeddings are."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((clusters, dim))
    x = centres[rng.integers(0, clusters, n)] + spread * rng.standard_normal((n, dim))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)


def add_shard(
    store: EmbeddingStore,
    name: str,
    keys: Sequence[str],
    vectors: Float16,
    metadata: Sequence[Mapping[str, Any]] | None = None,
    *,
    replaces: bool = False,
    contents: Sequence[str] | None = None,
) -> None:
    """One commit: a shard of these rows."""
    contents = contents or [hashlib.sha256(key.encode()).hexdigest() for key in keys]
    fields = metadata or [{}] * len(keys)
    rows = tuple(
        EmbeddingRow(key, Place(name, f"{key}.png", 0, 0, "png"), content, dict(own))
        for key, own, content in zip(keys, fields, contents, strict=True)
    )
    batch = EmbeddingBatch(rows, vectors, np.ones(len(keys), np.float32))
    result = ShardResult(Shard(name, name, f"{name}-1"), (batch,), (), len(keys), replaces=replaces)
    with StoreWriter(store) as writer:
        writer.commit([result])
    store.refresh()


def make_table(
    folder: Path, vectors: Float16, metadata: Sequence[Mapping[str, Any]] | None = None, name: str = "t"
) -> EmbeddingStore:
    """A table with keys k0, k1, … in row order."""
    store = EmbeddingStore.create(str(folder), name, spec_for(vectors.shape[1]))
    if len(vectors):
        add_shard(store, "first", [f"k{i}" for i in range(len(vectors))], vectors, metadata)
    return store


def nearest_keys(queries: Float32, keys: Sequence[str], vectors: Float16, k: int) -> list[list[str]]:
    """Exact search in float64: keys of the k rows of the highest cosine for each query."""
    scores = cosines(queries, vectors)
    return [[keys[j] for j in np.argsort(-row, kind="stable")[:k]] for row in scores]


def cosines(queries: Float32, vectors: Float16) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(q, n) in float64; a float16 row is of length 1 to 5e-4 only, so it is divided by its length."""
    return unit(queries) @ unit(vectors).T


def unit(queries: Float32 | Float16) -> np.ndarray[Any, np.dtype[np.float64]]:
    return queries.astype(np.float64) / np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)


def keys_of(hits: Sequence[Any]) -> list[str]:
    return [hit.key for hit in hits]


def all_row_ids(store: EmbeddingStore) -> Int64:
    return store.vectors().row_ids
