"""Stand-ins with the public interfaces, for tests of other rooms."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from indexer.errors import NoTextTower
from indexer.types import EncoderSpec, Float32, PixelSpec, UInt8

GRID = 8


class FakeEncoder:
    """Deterministic and quick: a seeded projection of the picture's 8 × 8 colour thumbnail. Like pictures lie near.

    A picture's vector does not depend on its batch. `size` must be a multiple of 8.
    """

    device = "cpu"
    text = False
    parameter_bytes = 0

    def __init__(
        self,
        dim: int = 16,
        seed: int = 0,
        *,
        size: int = 16,
        batch_size: int = 8,
        workers: int = 2,
        change: Callable[[Float32], Float32] | None = None,
    ) -> None:
        self.batch_size, self.workers = batch_size, workers
        self.calls = self.pictures = 0  # what was asked of it, padding included
        self._change = change  # spoils the vectors, for tests of what the pipeline does then
        self._lock = threading.Lock()
        self.spec = EncoderSpec(
            name="fake",
            weights=f"random:{seed}",
            pooling="pooled",
            dim=dim,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            precision="fp32",
            pixels=PixelSpec(size=size, resize=size),
        )
        self._projection = np.random.default_rng(seed).standard_normal((GRID * GRID * 3, dim)).astype(np.float32)

    def embed(self, pictures: UInt8) -> Float32:
        n, side, cell = len(pictures), self.spec.pixels.size, self.spec.pixels.size // GRID
        assert pictures.shape == (n, side, side, 3), pictures.shape
        thumbnail = pictures.reshape(n, GRID, cell, GRID, cell, 3).mean(axis=(2, 4), dtype=np.float64)
        with self._lock:
            self.calls += 1
            self.pictures += n
        centred = (thumbnail.reshape(n, -1) / 255 - 0.5).astype(np.float32)
        vectors = (
            np.stack([row @ self._projection for row in centred]) if n else np.empty((0, self.spec.dim), np.float32)
        )
        return vectors if self._change is None else self._change(vectors)

    def embed_text(self, texts: list[str]) -> Float32:
        raise NoTextTower(f"fake embeds images only, not {len(texts)} texts")


class AnyPlane(FakeEncoder):
    """As the command line loads one: it takes any plane of a volume."""

    def with_pixels(self, pixels):
        self.spec = replace(self.spec, pixels=pixels)
        return self
