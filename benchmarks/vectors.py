"""Made-up embeddings of two kinds, so that no figure stands on one shape of data alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from indexer.types import Float16

BLOCK = 16_384
KINDS = ("clustered", "overlapping")


def blocks(kind: str, n: int, dim: int, seed: int) -> Iterator[Float16]:
    """Unit rows in blocks of (≤ BLOCK, dim). Blocks of one seed continue one distribution.

    clustered: 2000 Gaussian clusters, as of an archive with many near-equal series.
    overlapping: a curved 24-dimensional sheet in noise, as of one organ that varies gradually: no cluster to find.
    """
    shape, rng = np.random.default_rng(7), np.random.default_rng(seed)
    centres = shape.standard_normal((2_000, dim)).astype(np.float32)
    spread = shape.standard_normal((24, dim)).astype(np.float32) / np.sqrt(24)
    mix = shape.standard_normal((dim, dim)).astype(np.float32) / np.sqrt(dim)
    for start in range(0, n, BLOCK):
        m = min(BLOCK, n - start)
        noise = rng.standard_normal((m, dim)).astype(np.float32)
        if kind == "clustered":
            x = centres[rng.integers(0, len(centres), m)] + 0.7 * noise
        else:
            x = np.tanh(2 * rng.standard_normal((m, 24)).astype(np.float32) @ spread) @ mix + 0.1 * noise
        yield (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)
