"""Runs the image tower on the CPU: as many workers as cores, one intra-op thread each.

Data parallelism over whole batches: a matrix product split over cores ends only with its slowest thread.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext

import numpy as np
import torch

from indexer.cores import cores
from indexer.encoders.backends.cpu_attention import AttentionInParts
from indexer.encoders.backends.normalise import DTYPES, Normalise
from indexer.encoders.families.definition import BATCH_SIZE_CONVOLUTIONAL, Towers
from indexer.encoders.rewritings.apply import packed
from indexer.encoders.rewritings.packed import can_pack
from indexer.types import EncoderSpec, Float32, UInt8

BATCH_SIZE = (
    16  # from 4 to 32, ViT-B/32 runs 10 % faster and ViT-L/14 10 % slower (its activations exceed the L2 cache)
)
_worker = threading.local()


class CpuBackend:
    """Implements `encoder.Backend` in the spec's precision. Changes the towers' network in place."""

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
        """(n, size, size, 3) → (n, dim), in batches of at most `batch_size`; the last one is not padded."""
        use_one_thread_beside_others()
        vectors = np.empty((len(pictures), self.dim), np.float32)
        for start in range(0, len(pictures), self.batch_size):
            batch = torch.from_numpy(np.ascontiguousarray(pictures[start : start + self.batch_size]))
            with torch.inference_mode(), AttentionInParts() if self._fast else nullcontext():
                vectors[start : start + len(batch)] = self._image(self._normalise(batch)).float().numpy()
        return vectors


def use_one_thread_beside_others() -> None:
    """Limit the calling thread, unless it is the main one, to one intra-op thread.

    Other threads are workers that share the cores; without the limit each would use a pool of all cores. The main
    thread, which embeds single queries, keeps all of them.
    """
    if threading.current_thread() is threading.main_thread() or getattr(_worker, "ready", False):
        return
    torch.get_num_threads()  # initialises the thread's own setting, which the next line then changes
    torch.set_num_threads(1)
    _worker.ready = True
