"""What determines a vector, and the protocol of loaded encoders."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

from indexer.types.arrays import Float32, UInt8


@dataclass(frozen=True)
class PixelSpec:
    """How image bytes become the encoder's uint8 RGB square; every field can change a pixel."""

    size: int  # side of the encoder's square
    resize: int  # shorter side after resizing, before the centre crop; = size without a crop
    interpolation: str = "bicubic"  # bicubic | bilinear, both antialiased
    fit: str = "crop"  # crop | squash | pad
    window: str = "file"  # file | percentile | minmax | full | C,W | preset, or three of them joined by ";"
    plane: str = "axial"  # of NIfTI volumes: axial | coronal | sagittal
    decoder: str = "cpu-2"  # decode path and its version; a table has one only
    channels: int = 1  # 1: an image by itself | 3: a slice between its two neighbours along the normal


_NOT_IN_FINGERPRINT = ("licence", "source", "network")


@dataclass(frozen=True)
class EncoderSpec:
    """Everything that determines a vector."""

    name: str  # registry name, e.g. "efficientnet-lite0", "open_clip:ViT-B-32", "torchvision:resnet50"
    weights: str  # a published tag, "sha256:<hex>" of a weights file, or "random:<seed>"
    pooling: str  # projected | pooled | cls | mean
    dim: int
    mean: tuple[float, float, float]  # of pixels scaled to 0..1
    std: tuple[float, float, float]
    precision: str  # bf16 | fp16 | fp32 | int8
    pixels: PixelSpec
    licence: str = "unknown"  # of the weights; not part of the fingerprint
    source: str = ""  # path of a weights file, so that a query finds it; checked by its hash
    backend: str = "torch"  # torch | openvino, which round differently
    calibration: str = ""  # of int8: sha256 of the quantised network, whose scales come from a sample of the images
    network: str = ""  # of int8: the folder of the quantised network, beside the table; not stored

    @property
    def fingerprint(self) -> str:
        """16 hex digits of a hash over all fields that can change a vector."""
        facts = {k: v for k, v in self._stored().items() if k not in _NOT_IN_FINGERPRINT}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def random(self) -> bool:
        """Whether the weights are random and not trained, so that the vectors have no meaning."""
        return self.weights.startswith("random:")

    def to_json(self) -> str:
        return json.dumps(self._stored(), sort_keys=True)

    def _stored(self) -> dict[str, Any]:
        """The fields as they are stored; without those of newer versions at their defaults: older ones know none."""
        left_out = ("network",) if self.calibration else ("network", "calibration")
        facts = {k: v for k, v in asdict(self).items() if k not in left_out}
        if self.pixels.channels == PixelSpec.channels:
            del facts["pixels"]["channels"]
        return facts

    @classmethod
    def from_json(cls, text: str) -> EncoderSpec:
        """The inverse of `to_json`. Unknown fields (a newer writer's) raise TypeError."""
        facts = json.loads(text)
        facts["pixels"] = PixelSpec(**facts["pixels"])
        facts["mean"], facts["std"] = tuple(facts["mean"]), tuple(facts["std"])
        return cls(**facts)

    def differences(self, other: EncoderSpec) -> str:
        """The fields in which two specs differ, for an error message."""
        mine, theirs = _flat(self), _flat(other)
        return ", ".join(
            f"{k} {mine[k]} / {theirs[k]}" for k in mine if mine[k] != theirs[k] and k not in _NOT_IN_FINGERPRINT
        )


def _flat(spec: EncoderSpec) -> dict[str, Any]:
    outer = {f.name: getattr(spec, f.name) for f in fields(spec) if f.name != "pixels"}
    return outer | {f"pixels.{k}": v for k, v in asdict(spec.pixels).items()}


class Encoder(Protocol):
    """Embeds decoded images; made by `indexer.encoders.load`."""

    @property
    def spec(self) -> EncoderSpec: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def device(self) -> str: ...

    @property
    def workers(self) -> int:
        """The useful number of threads that call `embed` concurrently."""
        ...

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) uint8 RGB → (n, dim) raw vectors. Thread-safe."""
        ...
