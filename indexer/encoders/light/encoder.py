"""Loads the bundled encoder without importing torch, where that gives the same bits."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from indexer.encoders.families.catalogue import bundled_weights, entry
from indexer.encoders.families.definition import BATCH_SIZE_CONVOLUTIONAL, with_options
from indexer.encoders.families.efficientnet_plan import DIM, HEAD, plain_spec
from indexer.encoders.families.file_hash import verified
from indexer.encoders.light.legacy_file import read_legacy
from indexer.encoders.light.network import Network
from indexer.encoders.loading import BUNDLED
from indexer.libtorch.library import library
from indexer.types import EncoderSpec, Float32, UInt8

GPU_DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/dev/kfd"))  # where torch may choose a GPU


class LightEncoder:
    """Embeds images as `CpuBackend` does in the main thread."""

    def __init__(self, spec: EncoderSpec, network: Network) -> None:
        self.spec, self._network = spec, network

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) → (n, dim)"""
        starts = range(0, len(pictures), BATCH_SIZE_CONVOLUTIONAL)
        batches = [self._network(pictures[start : start + BATCH_SIZE_CONVOLUTIONAL]) for start in starts]
        return np.concatenate([np.empty((0, DIM), np.float32), *batches])


def light_encoder(spec: EncoderSpec, device: str = "auto") -> LightEncoder | None:
    """The encoder that a table's `spec` describes; None where it is another than the bundled one, on a GPU, or where
    torch is imported already or has another form here. `loading.load_spec` then loads it.

    Raises WeightsMismatch for a damaged file.
    """
    listed, path = entry(BUNDLED), bundled_weights()
    if listed is None or path is None or with_options(plain_spec(listed), spec).fingerprint != spec.fingerprint:
        return None
    if spec.precision not in ("bf16", "fp32") or device not in ("auto", "cpu"):
        return None
    if device == "auto" and any(driver.exists() for driver in GPU_DRIVERS):
        return None
    if "torch" in sys.modules or library() is None:
        return None
    try:
        network = Network(list(read_legacy(verified(path)).values())[:-HEAD], spec.precision)
    except ValueError:  # another version of the package
        return None
    return LightEncoder(spec, network)
