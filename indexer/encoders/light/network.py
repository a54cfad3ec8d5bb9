"""EfficientNet-Lite0 by the operators of torch's library: `families/efficientnet_lite0`, step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from indexer.encoders.families.efficientnet_plan import DIM, EPSILON, HALF, STAGES, STEM, padding
from indexer.libtorch import operators
from indexer.libtorch.library import Tensor, bfloat16, from_bfloat16, tensor
from indexer.types import Float32, UInt8

TENSORS = 6  # of a convolution in the file: its weight, and scale, shift, mean, variance and a count of its norm


@dataclass(frozen=True)
class _Layer:
    """A convolution with its norm folded in, and whether ReLU6 follows."""

    weight: Tensor
    bias: Tensor
    kernel: int
    stride: int
    groups: int
    active: bool

    def __call__(self, x: Tensor) -> Tensor:
        before, after = padding(self.kernel, self.stride)
        if before != after:
            x, before = operators.zero_padded(x, before, after), 0
        made = operators.convolution(x, self.weight, self.bias, stride=self.stride, padding=before, groups=self.groups)
        return operators.relu6(made) if self.active else made


@dataclass(frozen=True)
class _Block:
    layers: tuple[_Layer, ...]
    residual: bool

    def __call__(self, x: Tensor) -> Tensor:
        made = x
        for layer in self.layers:
            made = layer(made)
        return operators.added(made, x) if self.residual else made


class Network:
    """(n, size, size, 3) → (n, DIM), in one precision: bf16 or fp32."""

    def __init__(self, tensors: Sequence[np.ndarray], precision: str) -> None:
        """`tensors` are the file's in order, without the classifier. Raises ValueError for those of another network."""
        self._bf16 = precision == "bf16"
        self._weights = iter(tensors)
        self._blocks = tuple(self._made())
        if next(self._weights, None) is not None:
            raise ValueError("there are more tensors than the network has")
        half = np.array(HALF)
        self._scale, self._shift = (1 / (255 * half)).astype(np.float32), (half / half).astype(np.float32)

    def __call__(self, pictures: UInt8) -> Float32:
        pixels = pictures.astype(np.float32)
        pixels *= self._scale
        pixels -= self._shift
        x = self._tensor(pixels.transpose(0, 3, 1, 2))
        for block in self._blocks:
            x = block(x)
        pooled = operators.mean_of_pixels(x)
        if not self._bf16:
            return pooled.array(np.float32).reshape(len(pictures), DIM)
        return from_bfloat16(pooled.array(np.uint16)).reshape(len(pictures), DIM)

    def _made(self) -> Iterator[_Block]:
        yield _Block((self._layer(3, STEM, 3, stride=2),), residual=False)
        inner = STEM
        for kernel, first, expansion, outer, blocks in STAGES:
            for number in range(blocks):
                stride, wide = 1 if number else first, inner * expansion
                layers = [self._layer(inner, wide, 1)] if expansion > 1 else []
                layers.append(self._layer(wide, wide, kernel, stride=stride, groups=wide))
                layers.append(self._layer(wide, outer, 1, active=False))
                yield _Block(tuple(layers), stride == 1 and inner == outer)
                inner = outer
        yield _Block((self._layer(inner, DIM, 1),), residual=False)

    def _layer(
        self, inner: int, outer: int, kernel: int, *, stride: int = 1, groups: int = 1, active: bool = True
    ) -> _Layer:
        """As `torch.nn.utils.fusion.fuse_conv_bn_weights`."""
        own = list(islice(self._weights, TENSORS))
        shapes = [values.shape for values in own]
        if shapes != [(outer, inner // groups, kernel, kernel), *[(outer,)] * (TENSORS - 2), ()]:
            raise ValueError(f"the tensors of a layer have the shapes {shapes}")
        weight, scale, shift, mean, variance, _ = own
        root: Float32 = (1 / np.sqrt(variance + np.float32(EPSILON))).astype(np.float32)
        folded: Float32 = weight * (scale * root).reshape(-1, 1, 1, 1)
        bias: Float32 = (np.zeros_like(mean) - mean) * root * scale + shift
        last = np.ascontiguousarray(folded.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
        return _Layer(self._tensor(last), self._tensor(bias), kernel, stride, groups, active)

    def _tensor(self, values: Float32) -> Tensor:
        return tensor(bfloat16(values), "bfloat16") if self._bf16 else tensor(values, "float32")
