"""uint8 pixels → network input: (x / 255 − mean) / std in fp32, then cast to the precision of the weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from indexer.types import EncoderSpec

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Normalise:
    """Per-channel constants of one encoder on one device, folded into x · scale − shift."""

    scale: torch.Tensor  # (3, 1, 1): 1 / (255 · std)
    shift: torch.Tensor  # (3, 1, 1): mean / std
    dtype: torch.dtype

    @classmethod
    def of(cls, spec: EncoderSpec, device: torch.device) -> Normalise:
        mean = torch.tensor(spec.mean, dtype=torch.float64).view(3, 1, 1)
        std = torch.tensor(spec.std, dtype=torch.float64).view(3, 1, 1)
        scale, shift = (1 / (255 * std)).float(), (mean / std).float()
        return cls(scale.to(device), shift.to(device), DTYPES[spec.precision])

    def __call__(self, pictures: torch.Tensor) -> torch.Tensor:
        """(n, h, w, 3) uint8 → (n, 3, h, w) in channels_last memory format, which is the order of the input bytes."""
        pixels = pictures.permute(0, 3, 1, 2).to(torch.float32)
        return pixels.mul_(self.scale).sub_(self.shift).to(self.dtype)
