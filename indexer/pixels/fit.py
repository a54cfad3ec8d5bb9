"""Fits a raster of any size to the encoder's RGB square."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from platform import machine
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from indexer.libtorch.library import library
from indexer.libtorch.operators import resized as resized_by_library
from indexer.types import PixelSpec, UInt8

if TYPE_CHECKING:
    import torch

LONGEST = 8  # a crop resizes at most this many shorter sides: a strip 1 pixel high must not become gigapixels
THINNEST = 50  # a larger ratio of a pixel's sides is taken for an error in the header
RESIZED_PIXELS = 32 << 20  # of pictures that a GPU resizes together: 400 MB as floats of three colours
KEPT = 3  # at 2, vectors change more than by bf16; at 3, half as much
# Up to so many grey pixels are spread to three channels before resizing, to the same bits: torch resizes three
# interleaved channels faster than one, and the square need not be spread. At 28 px 2.3 times as fast, at 512 px 1.2.
SPREAD_PIXELS = 512 * 512
SQUARE_PIXELS = 0.01  # pixels with a smaller relative difference of sides count as square


def square(pixels: UInt8, spec: PixelSpec, aspect: float = 1.0) -> UInt8:
    """(h, w) or (h, w, 3) → (size, size, 3), antialiased, on uint8.

    `aspect` is the height of one pixel divided by its width. Fit "crop": the shorter side to `resize`, then a centre
    crop; "squash": both sides to `size`; "pad": the longer side to `size`, centred on black.
    """
    if abs(aspect - 1) < SQUARE_PIXELS or not 1 / THINNEST < aspect < THINNEST:
        aspect = 1.0
    if spec.fit == "crop":
        pixels = _trim(pixels, aspect)
    if pixels.ndim == 2 and pixels.size <= SPREAD_PIXELS:
        pixels = np.repeat(pixels[..., None], 3, 2)
    height, width = _target(pixels.shape[0] * aspect, pixels.shape[1], spec)
    resized = pixels if pixels.shape[:2] == (height, width) else _resized(pixels, height, width, spec.interpolation)
    return _fitted(resized if resized.ndim == 3 else resized[..., None], np.empty, spec)


def squares(pictures: Sequence[UInt8], spec: PixelSpec) -> list[UInt8]:
    """Small pictures of one shape (h, w) or (h, w, 3), no strips → (size, size, 3) each, as `square` fits it. They may
    be views of one array.
    """
    import torch

    together = np.stack(pictures)
    if together.ndim == 3:
        together = np.repeat(together[..., None], 3, 3)
    height, width = _target(together.shape[1], together.shape[2], spec)
    if together.shape[1:3] != (height, width):
        planes = torch.from_numpy(together).permute(0, 3, 1, 2)
        together = _resize(planes, height, width, spec.interpolation).permute(0, 2, 3, 1).numpy()
    return list(_centre(together, spec) if spec.fit == "crop" else _fitted(together, np.empty, spec))


def squares_of_planes(pictures: Sequence[torch.Tensor], spec: PixelSpec) -> torch.Tensor:
    """(1 or 3, h, w) uint8 each → (n, size, size, 3) on the same device, those of one shape together: on a GPU the
    calls for one picture take longer than its resizing. Strips must be trimmed before.
    """
    shapes = defaultdict[tuple[int, ...], list[int]](list)
    for i, planes in enumerate(pictures):
        shapes[tuple(planes.shape)].append(i)
    found = pictures[0].new_empty((len(pictures), spec.size, spec.size, 3))
    for shape, own in shapes.items():
        at_once = max(1, RESIZED_PIXELS // (shape[1] * shape[2]))
        for start in range(0, len(own), at_once):
            some = own[start : start + at_once]
            resized = _resized_planes([pictures[i] for i in some], spec)
            found[some] = _fitted(resized, resized.new_empty, spec)
    return found


def _resized_planes(pictures: Sequence[torch.Tensor], spec: PixelSpec) -> torch.Tensor:
    """(c, h, w) each, of one shape → (n, height, width, c)"""
    import torch

    together = torch.stack(list(pictures))
    height, width = _target(together.shape[2], together.shape[3], spec)
    if together.shape[2:] != (height, width):
        together = _resize(together, height, width, spec.interpolation)
    return together.permute(0, 2, 3, 1)


_Pixels = TypeVar("_Pixels", UInt8, "torch.Tensor")


def _fitted(resized: _Pixels, empty: Callable[..., _Pixels], spec: PixelSpec) -> _Pixels:
    """(…, height, width, 1 or 3) → (…, size, size, 3): its centre, or all of it centred on black. Always a copy."""
    canvas = empty((*resized.shape[:-3], spec.size, spec.size, 3), dtype=resized.dtype)
    if spec.fit == "crop":
        canvas[...] = _centre(resized, spec)
        return canvas
    height, width = resized.shape[-3:-1]
    top, left = round((spec.size - height) / 2.0), round((spec.size - width) / 2.0)
    canvas[...] = 0
    canvas[..., top : top + height, left : left + width, :] = resized
    return canvas


def _centre(resized: _Pixels, spec: PixelSpec) -> _Pixels:
    """A view, as torchvision's CenterCrop: round half to even of the difference."""
    height, width = resized.shape[-3:-1]
    top, left = round((height - spec.size) / 2.0), round((width - spec.size) / 2.0)
    return resized[..., top : top + spec.size, left : left + spec.size, :]


def is_strip(height: int, width: int) -> bool:
    """Whether the image is so long that a crop trims its ends before resizing."""
    return max(height, width) > LONGEST * min(height, width)


def _target(height: float, width: float, spec: PixelSpec) -> tuple[int, int]:
    """Height and width after resizing, rounded as by torchvision's Resize: the longer side is truncated."""
    if spec.fit == "squash":
        return spec.size, spec.size
    if spec.fit == "pad":
        longer = max(height, width)
        return max(1, round(spec.size * height / longer)), max(1, round(spec.size * width / longer))
    if spec.fit != "crop":
        raise ValueError(f"fit is {spec.fit!r}, not crop, squash or pad")
    side = max(spec.resize, spec.size)
    if height <= width:
        return side, int(side * width / height)
    return int(side * height / width), side


def _trim(pixels: UInt8, aspect: float) -> UInt8:
    """Trims both ends of a very long strip equally, far outside the centre crop."""
    height, width = pixels.shape[:2]
    longest_width = max(1, round(LONGEST * max(1.0, height * aspect)))
    longest_height = max(1, round(LONGEST * max(1.0, width / aspect)))
    if width > longest_width:
        left = (width - longest_width) // 2
        return pixels[:, left : width - left]
    if height > longest_height:
        top = (height - longest_height) // 2
        return pixels[top : height - top]
    return pixels


def _resized(pixels: UInt8, height: int, width: int, interpolation: str) -> UInt8:
    """(h, w) or (h, w, 3) → (height, width) or (height, width, 3), without importing torch where it can be."""
    if "torch" not in sys.modules and interpolation == "bicubic" and pixels.ndim == 3 and library():
        return resized_by_library(pixels, height, width)
    import torch

    planes = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))  # torch warns about read-only memory
    planes = planes[None] if planes.ndim == 2 else planes.permute(2, 0, 1)  # (c, h, w); colour stays channels-last
    resized = _resize_one(planes, height, width, interpolation)
    found: UInt8 = (resized[0] if pixels.ndim == 2 else resized.permute(1, 2, 0)).numpy()
    return found


def _resize_one(planes: torch.Tensor, height: int, width: int, interpolation: str) -> torch.Tensor:
    """(c, h, w) → (c, height, width)"""
    channels, was_height, was_width = planes.shape
    if (was_height, was_width) == (height, width):
        return planes
    # A batch of one whose strides say channels-last, else torch makes a result in the other order (pytorch #68430)
    one = planes.as_strided((1, channels, was_height, was_width), (planes.numel(), *planes.stride()))
    return _resize(one, height, width, interpolation)[0]


def _resize(planes: torch.Tensor, height: int, width: int, interpolation: str) -> torch.Tensor:
    """(n, c, h, w) → (n, c, height, width), as torchvision's `resize_image` with antialiasing, bit for bit, without
    the import of torchvision.
    """
    import torch
    from torch.nn.functional import interpolate

    native = planes.device.type == "cpu" and (interpolation == "bicubic" or _has_vector_resize())
    given = planes if native else planes.to(torch.float32)
    resized: torch.Tensor = interpolate(
        given, size=[height, width], mode=interpolation, align_corners=False, antialias=True
    )
    return resized if native else resized.clamp_(0, 255).round_().to(torch.uint8)


def _has_vector_resize() -> bool:
    """Whether torch resizes uint8 bilinearly without a detour by floats on this processor."""
    import torch

    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512") or machine() in ("aarch64", "arm64")


def reduction(height: int, width: int, spec: PixelSpec) -> int:
    """1, 2, 4 or 8: the factor by which a decoder may reduce the image and keep KEPT times the target size."""
    target = _target(height, width, spec)
    for factor in (8, 4, 2):
        if height >= KEPT * factor * target[0] and width >= KEPT * factor * target[1]:
            return factor
    return 1
