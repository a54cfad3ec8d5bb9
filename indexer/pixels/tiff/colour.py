"""Converts the stored values of a TIFF page to 8 bits: polarity, palette, colour model, alpha, window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.grey import GreyScale, render
from indexer.pixels.tiff.fields import BLACK_IS_ZERO, CMYK, PALETTE, RGB, WHITE_IS_ZERO, YCBCR, fractions, photometric
from indexer.pixels.tiff.values import full_scale
from indexer.pixels.window import WindowRule
from indexer.types import UInt8

_COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
_ITU_601 = (0.299, 0.587, 0.114)  # YCbCrCoefficients where the page has none
_FULL_RANGE = (0.0, 255.0, 128.0, 255.0, 128.0, 255.0)  # ReferenceBlackWhite
_STRAIGHT_ALPHA = 2  # ExtraSamples; associated alpha (1) is premultiplied, i.e. already composited on black


def shown(values: npt.NDArray[Any], page: Any, rules: tuple[WindowRule, ...]) -> tuple[UInt8, tuple[str, ...]]:
    """(h, w, samples) → (h, w) grey or (h, w, 3) RGB, and flags. Raises PixelError for other colour models."""
    (model, guessed), bits = photometric(page), int(page.bitspersample)
    colours = _COLOURS.get(model)
    if colours is None:
        raise PixelError("unsupported TIFF", f"photometric interpretation {model}")
    if values.shape[-1] < colours:
        raise PixelError("corrupt image", f"TIFF: {values.shape[-1]} samples a pixel for {colours} colours")
    colour = values[..., :colours] if colours > 1 else values[..., 0]
    flags: tuple[str, ...] = ()
    if model == PALETTE:
        pixels = _looked_up(colour, page, bits)
    elif values.dtype == np.uint8:
        pixels = _eight_bits(colour, bits)
        pixels = 255 - pixels if model == WHITE_IS_ZERO else pixels
    else:
        pixels, flags = _deep(colour, bits, rules, invert=model == WHITE_IS_ZERO)
    if model == CMYK:
        pixels = _from_cmyk(pixels, page)
    if model == YCBCR:
        pixels, flags = _from_ycbcr(pixels, page)
    if values.shape[-1] > colours and int(next(iter(page.extrasamples), 0)) == _STRAIGHT_ALPHA:
        pixels = _over_black(pixels, values[..., colours], bits)
    return pixels, (*guessed, *flags)


def _eight_bits(values: UInt8, bits: int) -> UInt8:
    """Scale 1 to 8 bits to 0..255."""
    if bits == 8:
        return values
    scaled: UInt8 = np.rint(np.arange(256) * (255.0 / (2**bits - 1))).clip(0, 255).astype(np.uint8)[values]
    return scaled


def _deep(
    values: npt.NDArray[Any], bits: int, rules: tuple[WindowRule, ...], *, invert: bool
) -> tuple[UInt8, tuple[str, ...]]:
    """More than 8 bits, windowed; colour by its whole range unless a window is given, equally for all channels."""
    full = full_scale(bits, values.dtype)
    scale = GreyScale(full=full, invert=invert)
    if values.ndim == 2:
        return render(values, scale, rules)
    flat = np.ascontiguousarray(values).reshape(values.shape[0], -1)
    pixels, flags = render(flat, replace(scale, plain=full is not None), rules[:1])
    return pixels.reshape(values.shape), ("16-bit colour reduced to 8 bits", *flags)


def _looked_up(indices: npt.NDArray[Any], page: Any, bits: int) -> UInt8:
    """Look indices up in ColorMap: 16-bit values, or 8-bit where none is larger, as in libtiff."""
    if page.colormap is None or indices.dtype.kind != "u" or bits > 16:
        raise PixelError("corrupt image", "TIFF: a palette picture without a palette that fits it")
    table = np.asarray(page.colormap, np.uint16).reshape(3, -1)
    if table.shape[1] < 2**bits:
        raise PixelError("corrupt image", f"TIFF: {table.shape[1]} colours for {bits} bits")
    eight_bits = table.astype(np.uint8) if table.max() < 256 else (table >> 8).astype(np.uint8)
    colours: UInt8 = eight_bits.T[indices]
    return colours


def _from_cmyk(inks: UInt8, page: Any) -> UInt8:
    """Inks (h, w, 4), 255 full → RGB without a profile: (255 - ink) * (255 - black) / 255."""
    tag = page.tags.get(332)  # InkSet
    if tag is not None and int(tag.value) != 1:
        raise PixelError("unsupported TIFF", f"ink set {tag.value}")
    left = 255 - inks.astype(np.float64)
    pixels: UInt8 = np.rint(left[..., :3] * left[..., 3:] / 255).astype(np.uint8)
    return pixels


def _from_ycbcr(values: UInt8, page: Any) -> tuple[UInt8, tuple[str, ...]]:
    """TIFF 6.0 sections 20 and 21: by the page's coefficients and reference values, else those of ITU-R 601 and the
    full range; and a flag where they cannot be used.
    """
    (red, green, blue), unread = fractions(page, "YCbCrCoefficients", _ITU_601)
    ends, more = fractions(page, "ReferenceBlackWhite", _FULL_RANGE)
    low, high = np.array(ends[::2]), np.array(ends[1::2])
    if min(red, green, blue) <= 0 or (low == high).any():
        (red, green, blue), low, high = _ITU_601, np.array(_FULL_RANGE[::2]), np.array(_FULL_RANGE[1::2])
        more = ("unusable YCbCrCoefficients or ReferenceBlackWhite",)
    y, b, r = np.moveaxis((values.astype(np.float64) - low) * ((255.0, 127.0, 127.0) / (high - low)), -1, 0)
    first, last = y + r * (2 - 2 * red), y + b * (2 - 2 * blue)
    colours = np.stack([first, (y - blue * last - red * first) / green, last], axis=-1)
    pixels: UInt8 = np.rint(colours.clip(0, 255)).astype(np.uint8)
    return pixels, (*unread, *more)


def _over_black(pixels: UInt8, alpha: npt.NDArray[Any], bits: int) -> UInt8:
    """Composite straight alpha on black: colour times alpha divided by its maximum, which is 1 for floating point."""
    full = full_scale(bits, alpha.dtype)
    top = 1.0 if alpha.dtype.kind == "f" else full[1] if full else float(np.iinfo(alpha.dtype).max)
    opacity = (alpha.astype(np.float64) / top).clip(0, 1)
    opacity = opacity if pixels.ndim == 2 else opacity[..., None]
    product: UInt8 = np.rint(pixels * np.nan_to_num(opacity)).astype(np.uint8)
    return product
