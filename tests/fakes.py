"""Stand-ins that tests and benchmarks of other rooms use in place of a real network."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from indexer.types import EncoderSpec, Float32, PixelSpec, UInt8


class FakeEncoder:
    """A fixed random projection of an 8 × 8 mean of the picture: deterministic, cheap, and different for each image."""

    device = "cpu"
    text = False

    def __init__(
        self,
        *,
        dim: int = 16,
        size: int = 16,
        seed: int = 0,
        batch_size: int = 8,
        workers: int = 2,
        change: Callable[[Float32], Float32] | None = None,
    ) -> None:
        self.spec = EncoderSpec(
            f"fake-{dim}", f"random:{seed}", "pooled", dim, (0.0,) * 3, (1.0,) * 3, "fp32", PixelSpec(size, size)
        )
        self.batch_size, self.workers = batch_size, workers
        self.calls = 0
        self.pictures = 0
        self._lock = threading.Lock()
        self._change = change
        self._matrix = np.random.default_rng(seed).normal(size=(8 * 8 * 3, dim)).astype(np.float32)

    def embed(self, pictures: UInt8) -> Float32:
        n, size = len(pictures), self.spec.pixels.size
        cells = pictures.reshape(n, 8, size // 8, 8, size // 8, 3).mean(axis=(2, 4), dtype=np.float32)
        with self._lock:
            self.calls += 1
            self.pictures += n
        # einsum, not BLAS: the same bits whatever the number of rows
        vectors = np.einsum("nk,kd->nd", cells.reshape(n, -1) - 100, self._matrix, optimize=False)
        return vectors if self._change is None else self._change(vectors)
