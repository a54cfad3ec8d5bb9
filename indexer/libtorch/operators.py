"""The operators that the bundled encoder and its pictures need."""

from __future__ import annotations

import ctypes

import numpy as np

from indexer.libtorch.library import Handle, Int, Tensor, called, checked, ints, listed, owned, tensor
from indexer.types import UInt8


def convolution(x: Tensor, weight: Tensor, bias: Tensor, *, stride: int, padding: int, groups: int) -> Tensor:
    two, made = Int(2), Handle()
    checked(
        "aoti_torch_cpu_convolution", x.handle, weight.handle, ctypes.byref(bias.handle), ints([stride] * 2), two,
        ints([padding] * 2), two, ints([1, 1]), two, 0, ints([0, 0]), two, Int(groups), ctypes.byref(made),
    )  # fmt: skip
    return Tensor(made)


def added(x: Tensor, y: Tensor) -> Tensor:
    made = Handle()
    checked("aoti_torch_cpu_add_Tensor", x.handle, y.handle, ctypes.c_double(1), ctypes.byref(made))
    return Tensor(made)


def zero_padded(x: Tensor, before: int, after: int) -> Tensor:
    """Zeros around the last two axes."""
    made = Handle()
    sides, value = ints([before, after] * 2), ctypes.c_double(0)
    checked("aoti_torch_cpu_pad", x.handle, sides, Int(4), b"constant", ctypes.byref(value), ctypes.byref(made))
    return Tensor(made)


def relu6(x: Tensor) -> Tensor:
    """In place."""
    return called("aten::relu6_", owned(x))


def mean_of_pixels(x: Tensor) -> Tensor:
    """(n, c, h, w) → (n, c, 1, 1)"""
    return called("aten::adaptive_avg_pool2d", owned(x), listed([1, 1]))


def resized(pixels: UInt8, height: int, width: int) -> UInt8:
    """(h, w, c) → (height, width, c), bicubic and antialiased, as `torch.nn.functional.interpolate` of channels-last
    bytes.
    """
    one = np.ascontiguousarray(pixels)[None].transpose(0, 3, 1, 2)
    made = called("aten::_upsample_bicubic2d_aa", owned(tensor(one, "uint8")), listed([height, width]), 0, 0, 0)
    found: UInt8 = made.array(np.uint8)[0].transpose(1, 2, 0)
    return found
