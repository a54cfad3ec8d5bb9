"""Made-up embeddings in a table: patients with a class each, several images a patient, overlapping classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.types import (
    EmbeddingBatch,
    EmbeddingRow,
    EncoderSpec,
    Float32,
    Int64,
    PixelSpec,
    Place,
    Shard,
    ShardResult,
)

TABLE = "vectors"
BLOCK = 16_384  # rows of a shard
IMAGES = 5  # a patient has 1 … 9, five on average
SIGNAL = 0.3  # length of the class part, in spreads of a patient in its strongest direction


def patients(rows: int, classes: int) -> tuple[Int64, Int64]:
    """Patient of each row (rows,), in order, and class of each patient. The first class is the most frequent."""
    rng = np.random.Generator(np.random.PCG64(1))
    counts = rng.integers(1, 2 * IMAGES, rows)
    owner = np.repeat(np.arange(rows), counts)[:rows]
    share = 1 / np.arange(2, classes + 2)
    return owner, rng.choice(classes, int(owner[-1]) + 1, p=share / share.sum())


def blocks(owner: Int64, classes: Int64, dim: int) -> Iterator[tuple[int, Float32]]:
    """(first row, unit rows (m, dim)) of the patients' images.

    As of a real encoder, all rows share a mean and the spread falls off as a power of the direction's rank. Half of the
    variance is the patient's, half the image's; the classes differ in sixteen directions among the first hundred.
    """
    shape = np.random.Generator(np.random.PCG64(2))
    spread = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
    mixed = np.linalg.qr(shape.standard_normal((dim, dim)))[0].astype(np.float32)
    common = 2 * shape.standard_normal(dim).astype(np.float32) / np.sqrt(dim)
    means = np.zeros((int(classes.max()) + 1, dim), np.float32)
    told = shape.choice(min(100, dim), 16, replace=False)
    means[:, told] = SIGNAL * shape.standard_normal((len(means), 16)) * spread[told]
    for start in range(0, len(owner), BLOCK):
        own = owner[start : start + BLOCK]
        first = int(own[0])  # a patient that began in the block before keeps its part: it is drawn from its number
        patient = np.stack([np.random.Generator(np.random.PCG64([3, p])).standard_normal(dim, np.float32)
                            for p in range(first, int(own[-1]) + 1)])  # fmt: skip
        image = np.random.Generator(np.random.PCG64([4, start])).standard_normal((len(own), dim), np.float32)
        x = (means[classes[own]] + np.sqrt(0.5) * (patient[own - first] + image) * spread + common) @ mixed
        yield start, x / np.linalg.norm(x, axis=1, keepdims=True)


def fill(path: Path, rows: int, dim: int, classes: int) -> None:
    """A table of unit rows with columns `label`, `patient` and `site`, written through the store."""
    half = (0.5, 0.5, 0.5)
    spec = EncoderSpec("made-patients", "random:2", "pooled", dim, half, half, "fp32", PixelSpec(size=8, resize=8))
    store = EmbeddingStore.create(str(path), TABLE, spec)
    owner, of_patient = patients(rows, classes)
    with StoreWriter(store) as writer:
        for start, vectors in blocks(owner, of_patient, dim):
            name = f"s{start}"
            place = Place(name, "", 0, 0, "png")
            made = tuple(
                EmbeddingRow(
                    f"k{i:07d}", place, f"{i:064x}",
                    {"label": f"c{of_patient[owner[i]]}", "patient": f"p{owner[i]}", "site": f"s{owner[i] % 4}"},
                )
                for i in range(start, start + len(vectors))
            )  # fmt: skip
            batch = EmbeddingBatch(made, vectors, np.ones(len(vectors), np.float32))
            writer.commit([ShardResult(Shard(name, name, "1"), (batch,), (), len(vectors))])
        writer.optimize()
