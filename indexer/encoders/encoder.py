"""An encoder ready to embed: the spec, the towers on their device, and the check of its precision."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from indexer.encoders.backends.cpu import CpuBackend
from indexer.encoders.families.recipe import Recipe, Tokenizer, Towers
from indexer.errors import EncoderError, NoTextTower
from indexer.types import EncoderSpec, Float32, UInt8

TEXT_BATCH = 64


class Backend(Protocol):
    """Where and how batches are computed."""

    device: str
    batch_size: int
    workers: int

    def embed(self, pictures: UInt8) -> Float32: ...


class Encoder:
    """A frozen network. Thread-safe; always in eval mode."""

    def __init__(self, recipe: Recipe, spec: EncoderSpec, towers: Towers, backend: Backend) -> None:
        self.spec = spec
        self.text = recipe.text
        self.parameter_bytes = sum(t.nbytes for t in (*towers.module.parameters(), *towers.module.buffers()))
        self._recipe, self._towers, self._backend = recipe, towers, backend
        self._tokenizer: Tokenizer | None = None
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        """cpu, or the GPUs in use ("cuda:0,cuda:1")."""
        return self._backend.device

    @property
    def batch_size(self) -> int:
        """Pictures in one full batch. Only vectors of equal batch sizes are equal bit for bit."""
        return self._backend.batch_size

    @property
    def workers(self) -> int:
        """Threads that may call `embed` at once with profit."""
        return self._backend.workers

    @property
    def logit_scale(self) -> float | None:
        """What a cosine is multiplied with for zero-shot scores (100 for CLIP); None without a text tower."""
        return self._towers.logit_scale

    @property
    def logit_bias(self) -> float | None:
        """SigLIP's bias; None for encoders trained with a softmax."""
        return self._towers.logit_bias

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) uint8 RGB → (n, dim) raw vectors, not normalised. EncoderError for another shape."""
        size = self.spec.pixels.size
        if pictures.ndim != 4 or pictures.shape[1:] != (size, size, 3) or pictures.dtype != np.uint8:
            raise EncoderError(
                f"{self.spec.name} embeds uint8 (n, {size}, {size}, 3), not {pictures.dtype} {pictures.shape}. "
                "Decode with this encoder's PixelSpec."
            )
        if self._towers.module.training:
            raise EncoderError(f"{self.spec.name} was put into train mode: its vectors would depend on the batch.")
        return self._backend.embed(pictures)

    def embed_text(self, texts: Sequence[str]) -> Float32:
        """(n, dim) raw vectors of n texts, in the space of the images. Raises NoTextTower."""
        if self._towers.text is None or self._towers.tokenizer is None:
            raise NoTextTower(
                f"{self.spec.name} embeds images only. Text needs an encoder with a text tower, "
                "e.g. clip-vit-b32 or siglip2-b16."
            )
        with self._lock:
            self._tokenizer = self._tokenizer or self._towers.tokenizer()
        device = next(self._towers.module.parameters()).device
        vectors = np.empty((len(texts), self.spec.dim), np.float32)
        for start in range(0, len(texts), TEXT_BATCH):
            tokens = self._tokenizer(list(texts[start : start + TEXT_BATCH])).to(device)
            with torch.inference_mode():
                vectors[start : start + len(tokens)] = self._towers.text(tokens).float().cpu().numpy()
        return vectors

    def in_plane(self, plane: str) -> Encoder:
        """The same encoder for NIfTI slices of another plane (axial, coronal, sagittal): another fingerprint."""
        spec = replace(self.spec, pixels=replace(self.spec.pixels, plane=plane))
        return Encoder(self._recipe, spec, self._towers, self._backend)

    def in_fp32(self) -> Encoder:
        """The same weights in fp32 on the CPU, read again from where they came."""
        towers = self._recipe.build()
        spec = replace(self.spec, precision="fp32", backend="torch")
        return Encoder(self._recipe, spec, towers, CpuBackend(towers, spec, convolutional=self._recipe.convolutional))
