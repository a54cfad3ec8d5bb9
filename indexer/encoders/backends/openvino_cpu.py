"""Runs the image tower on the CPU with OpenVINO (`--device openvino`).

CPU milliseconds per image on 2 cores with AVX512-BF16, torch bf16 / OpenVINO: ViT-B/32 18.9 / 17.5, resnet50
19.6 / 17.6, EfficientNet-Lite0 4.3 / 2.8. Its sums round differently from torch's, so the backend is part of the
fingerprint.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from indexer.cores import cores
from indexer.encoders.backends.normalise import DTYPES, Normalise
from indexer.encoders.backends.openvino_graph import BATCH_SIZE, PRECISION_HINTS, compiled, imported
from indexer.encoders.families.definition import Towers
from indexer.errors import EncoderError
from indexer.types import EncoderSpec, Float32, UInt8


class OpenVinoBackend:
    """Implements `encoder.Backend`: the image tower compiled by OpenVINO, with one single-thread stream per core.

    A caller sleeps while its stream computes, so as many callers as cores keep every core busy.
    """

    device = "cpu"

    def __init__(self, towers: Towers, spec: EncoderSpec, graph: Any = None) -> None:
        """`graph`: the image tower as `image_tower` gives it, or quantised; by default it is made from `towers`."""
        if spec.precision not in PRECISION_HINTS:
            raise EncoderError(f"the OpenVINO backend computes in bf16 or fp32, not {spec.precision}. Use --precision.")
        self.batch_size, self.workers, self.dim = BATCH_SIZE, cores(), spec.dim
        self._compiled = compiled(graph or image_tower(towers, spec), spec.precision, self.workers)
        self._own = threading.local()
        towers.module.eval().requires_grad_(False)  # the text tower still runs in torch; of int8 in fp32
        towers.module.to(DTYPES.get(spec.precision))

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) → (n, dim). The graph has a fixed batch size; the last batch is padded with zeros."""
        if not hasattr(self._own, "request"):
            self._own.request = self._compiled.create_infer_request()
        vectors = np.empty((len(pictures), self.dim), np.float32)
        for start in range(0, len(pictures), self.batch_size):
            batch = np.ascontiguousarray(pictures[start : start + self.batch_size])
            n = len(batch)
            if n < self.batch_size:
                batch = np.concatenate([batch, np.zeros((self.batch_size - n, *batch.shape[1:]), np.uint8)])
            self._own.request.infer([batch])
            vectors[start : start + n] = self._own.request.get_output_tensor(0).data[:n]
        return vectors


class _WithPixels(torch.nn.Module):
    """The traced module: uint8 pictures → vectors, normalisation included, in fp32."""

    def __init__(self, towers: Towers, spec: EncoderSpec) -> None:
        super().__init__()
        self.network = towers.module
        self._image = towers.image
        self._normalise = Normalise.of(replace(spec, precision="fp32"), torch.device("cpu"))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self._image(self._normalise(pictures))


def image_tower(towers: Towers, spec: EncoderSpec) -> Any:
    """The graph from uint8 pictures (BATCH_SIZE, size, size, 3) to vectors, in fp32. Raises EncoderError."""
    openvino = imported()
    size = spec.pixels.size
    towers.module.eval().requires_grad_(False)
    example = torch.zeros((BATCH_SIZE, size, size, 3), dtype=torch.uint8)
    try:
        with _traceable():
            return openvino.convert_model(
                _WithPixels(towers, spec).eval(), example_input=example, input=[(BATCH_SIZE, size, size, 3)]
            )
    except (RuntimeError, openvino.frontend.OpConversionFailure, openvino.frontend.GeneralFailure) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EncoderError(f"OpenVINO cannot compute {spec.name}: {first}. Use --device cpu.") from error


@contextmanager
def _traceable() -> Iterator[None]:
    """Context without torch's fused attention operator, which cannot be traced."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # tracing warns of each shape it makes constant: all are meant to be
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
