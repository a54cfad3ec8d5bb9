"""A loaded encoder: its spec, its image and text towers, and the backend that runs the image tower."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from indexer.encoders.backends.cpu import CpuBackend
from indexer.encoders.families.definition import EncoderDefinition, Tokenizer, Towers
from indexer.errors import EncoderError, NoTextTower
from indexer.types import EncoderSpec, Float32, PixelSpec, UInt8

TEXT_BATCH = 64
CHECKED_PICTURES = 16  # a batch of an encoder that others are compared with


class Backend(Protocol):
    """Runs the image tower on one kind of device."""

    device: str
    batch_size: int
    workers: int

    def embed(self, pictures: UInt8) -> Float32: ...


class LoadedEncoder:
    """Implements `types.Encoder`, and embeds text. The network is frozen and in eval mode. Thread-safe."""

    def __init__(self, definition: EncoderDefinition, spec: EncoderSpec, towers: Towers, backend: Backend) -> None:
        self.spec = spec
        self.text = definition.text
        self.parameter_bytes = sum(t.nbytes for t in (*towers.module.parameters(), *towers.module.buffers()))
        self._definition, self._towers, self._backend = definition, towers, backend
        self._tokenizer: Tokenizer | None = None
        self._lock = threading.Lock()

    @property
    def device(self) -> str:
        """cpu, or the GPUs in use ("cuda:0,cuda:1")."""
        return self._backend.device

    @property
    def batch_size(self) -> int:
        """Pictures in a full batch. Vectors are bit-identical only between runs of the same batch size."""
        return self._backend.batch_size

    @property
    def workers(self) -> int:
        """Number of threads that should call `embed` concurrently for full throughput."""
        return self._backend.workers

    @property
    def device_seconds(self) -> float | None:
        """For which its GPUs have computed since it was loaded, added; None without a GPU."""
        return getattr(self._backend, "busy_seconds", None)

    @property
    def logit_scale(self) -> float | None:
        """Factor from cosine similarity to zero-shot logit (100 for CLIP); None without a text tower."""
        return self._towers.logit_scale

    @property
    def logit_bias(self) -> float | None:
        """Bias added to the logit (SigLIP); None for encoders trained with a softmax loss."""
        return self._towers.logit_bias

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) uint8 RGB → (n, dim) float32 vectors, not normalised.

        Raises EncoderError for another shape or dtype, and for a network in train mode.
        """
        size = self.spec.pixels.size
        if pictures.ndim != 4 or pictures.shape[1:] != (size, size, 3) or pictures.dtype != np.uint8:
            raise EncoderError(
                f"{self.spec.name} embeds uint8 (n, {size}, {size}, 3), not {pictures.dtype} {pictures.shape}. "
                "Decode with this encoder's PixelSpec."
            )
        if self._towers.module.training:
            raise EncoderError(
                f"{self.spec.name} is in train mode, in which a vector depends on the rest of the batch. Load it again."
            )
        return self._backend.embed(pictures)

    def embed_text(self, texts: Sequence[str]) -> Float32:
        """(n, dim) float32 vectors of n texts, not normalised, comparable with `embed`'s. Raises NoTextTower."""
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

    def with_pixels(self, pixels: PixelSpec) -> LoadedEncoder:
        """The same weights for pictures made in another way, of the same size; the fingerprint differs."""
        spec = replace(self.spec, pixels=pixels)
        return LoadedEncoder(self._definition, spec, self._towers, self._backend)

    def in_fp32(self) -> LoadedEncoder:
        """The same encoder in fp32, on its first GPU or on the CPU. Reads the weights again from their source."""
        towers = self._definition.build()
        spec = replace(self.spec, precision="fp32", backend="torch", calibration="", network="")
        backend = self._gpu_in_fp32(towers, spec) or CpuBackend(
            towers, spec, convolutional=self._definition.convolutional
        )
        return LoadedEncoder(self._definition, spec, towers, backend)

    def _gpu_in_fp32(self, towers: Towers, spec: EncoderSpec) -> Backend | None:
        """None without a GPU, or where it lacks the memory. On a CPU, 8 pictures of a ViT-L/14 took 17 s."""
        if not self.device.startswith("cuda"):
            return None
        from indexer.encoders.backends.cuda import CudaLane
        from indexer.encoders.backends.slots import SlottedBackend

        gpu = torch.device(self.device.split(",")[0])
        try:
            lane = CudaLane(towers, spec, gpu, channels_last=self._definition.convolutional, compiled=False)
            return SlottedBackend([lane], dim=spec.dim, largest=CHECKED_PICTURES)
        except (EncoderError, torch.OutOfMemoryError):
            towers.module.to("cpu")
            return None
