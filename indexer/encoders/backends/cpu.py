"""Embedding on the CPU: one intra-op thread a worker, as many workers as cores.

A matrix product split over cores waits at its end for the slowest; whole batches side by side do not.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext

import numpy as np
import torch

from indexer.cores import cores
from indexer.encoders.backends.cpu_attention import AttentionInParts
from indexer.encoders.backends.normalise import DTYPES, Normalise
from indexer.encoders.families.recipe import Towers
from indexer.encoders.rewritings.apply import packed
from indexer.encoders.rewritings.packed import can_pack
from indexer.types import EncoderSpec, Float32, UInt8

BATCH_SIZE = 16  # from 4 to 32 ViT-B/32 gains a tenth, ViT-L/14 loses one: activations leave the core's cache
BATCH_SIZE_CONVOLUTIONAL = 8  # resnet50: 53, 43, 33, 31; a batch's activations should stay in the core's cache
_worker = threading.local()


class CpuBackend:
    """Weights in the spec's precision in main memory."""

    device = "cpu"

    def __init__(self, towers: Towers, spec: EncoderSpec, *, convolutional: bool) -> None:
        self.batch_size = BATCH_SIZE_CONVOLUTIONAL if convolutional else BATCH_SIZE
        self.workers = cores()
        self._image = towers.image
        self._normalise = Normalise.of(spec, torch.device("cpu"))
        module = towers.module.eval().requires_grad_(False).to(DTYPES[spec.precision])
        if convolutional:
            module.to(memory_format=torch.channels_last)
        self._fast = spec.precision == "bf16" and can_pack()
        if self._fast:
            packed(towers.vision, spec.pixels.size)
        self.dim = spec.dim

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) → (n, dim), in batches of at most `batch_size`; no batch is padded."""
        use_one_thread_beside_others()
        vectors = np.empty((len(pictures), self.dim), np.float32)
        for start in range(0, len(pictures), self.batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(pictures[start : start + self.batch_size]))
            with torch.inference_mode(), AttentionInParts() if self._fast else nullcontext():
                vectors[start : start + len(batch)] = self._image(self._normalise(batch)).float().numpy()
        return vectors


def use_one_thread_beside_others() -> None:
    """In any thread but the main one: one intra-op thread from now on.

    Threads beside the main one are workers among others; without this each would start a pool as large as the machine.
    The main thread, which embeds a query alone, keeps every core.
    """
    if threading.current_thread() is threading.main_thread() or getattr(_worker, "ready", False):
        return
    torch.get_num_threads()  # initialises this thread's own setting, which the next line then changes
    torch.set_num_threads(1)
    _worker.ready = True
