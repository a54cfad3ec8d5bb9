"""Grey values of any depth → 8 bits: modality LUT, window, inversion and padding in one pass.

The result is a function of the stored value alone, so rasters of up to 16 bits are rendered through a table of all
possible values: exact in float64, with one lookup for each pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.pixels.window import PERCENTILES, Window, WindowRule, ramp, weighted_percentiles
from indexer.types import Float64, UInt8

MID_GREY = 128
_TABLED = (np.dtype(np.uint8), np.dtype(np.int8), np.dtype(np.uint16), np.dtype(np.int16))


def _identity(values: Float64) -> Float64:
    return values


@dataclass(frozen=True)
class GreyScale:
    """The file's rules for its grey values."""

    real: Callable[[Float64], Float64] = _identity  # stored → real values (DICOM's modality LUT)
    window: Window | Callable[[Float64], Float64] | None = None  # the file's window: real values → 0..1
    full: tuple[float, float] | None = None  # range of stored values of the format; None: the range found in the image
    expects_window: bool = False  # a missing window adds a flag
    plain: bool = False  # 8 bits, shown unchanged where the file has no window
    invert: bool = False  # low values are bright: MONOCHROME1, TIFF's WhiteIsZero
    padding: tuple[float, float] | None = None  # closed range of stored values that mark padding
    hounsfield: bool = True  # whether a CT preset may be applied
    modality: str = ""
    limits: tuple[float, float] | None = None  # real values of the percentiles, where known from a whole volume
    flags: tuple[str, ...] = ()  # unusable elements of the file


def render(stored: npt.NDArray[Any], scale: GreyScale, rules: tuple[WindowRule, ...]) -> tuple[UInt8, tuple[str, ...]]:
    """Stored values (h, w) → (h, w) uint8, or (h, w, 3) for three windows; and flags."""
    if stored.dtype.byteorder not in ("=", "|"):
        stored = stored.astype(stored.dtype.newbyteorder("="))
    levels = _levels(stored)
    flags = list(scale.flags)
    channels = [_channel(levels, scale, rule, flags) for rule in rules]
    pixels = [levels.spread(channel) for channel in channels]
    picture = pixels[0] if len(pixels) == 1 else np.stack(pixels, axis=-1)
    return picture, tuple(dict.fromkeys(flags))


@dataclass(frozen=True)
class _Levels:
    """The stored values to compute with: every value of the type with its count, or the pixels themselves."""

    stored: npt.NDArray[Any]  # (h, w)
    values: Float64  # (n,)
    counts: Float64 | None  # (n,); None where values are the pixels

    def spread(self, rendered: UInt8) -> UInt8:
        if self.counts is None:
            return rendered.reshape(self.stored.shape)
        low = np.iinfo(self.stored.dtype).min
        index = self.stored
        if low < 0:  # two's complement: negatives come last
            index, rendered = index.view(np.dtype(f"u{index.dtype.itemsize}")), np.roll(rendered, low)
        pixels: UInt8 = rendered[index]
        return pixels

    def measured(self, scale: GreyScale) -> tuple[Float64, Float64]:
        """Real values that are not padding, and their counts; both empty where all pixels are padding."""
        counts = np.ones(self.values.shape) if self.counts is None else self.counts
        keep = (counts > 0) & np.isfinite(self.values) & ~_padded(self.values, scale)
        real = scale.real(self.values[keep])
        finite = np.isfinite(real)
        return real[finite], counts[keep][finite]


def _levels(stored: npt.NDArray[Any]) -> _Levels:
    if stored.dtype not in _TABLED:
        return _Levels(stored, stored.astype(np.float64).ravel(), None)
    info = np.iinfo(stored.dtype)
    flat = stored.ravel()
    if info.min == 0:
        counts = np.bincount(flat, minlength=info.max + 1)
    else:
        unsigned = np.bincount(flat.view(np.dtype(f"u{stored.dtype.itemsize}")), minlength=2 * info.max + 2)
        counts = np.roll(unsigned, -info.min)
    return _Levels(stored, np.arange(info.min, info.max + 1, dtype=np.float64), counts.astype(np.float64))


def _padded(values: Float64, scale: GreyScale) -> npt.NDArray[np.bool_]:
    if scale.padding is None:
        return np.zeros(values.shape, bool)
    return (values >= scale.padding[0]) & (values <= scale.padding[1])


def _channel(levels: _Levels, scale: GreyScale, rule: WindowRule, flags: list[str]) -> UInt8:
    real = scale.real(levels.values)
    shade = _shade(levels, scale, rule, flags)
    unit = np.full(real.shape, MID_GREY / 255) if shade is None else shade(real)
    if scale.invert and shade is not None:
        unit = 1 - unit
    outside = _padded(levels.values, scale) | ~np.isfinite(unit)  # padding is background: black in either polarity
    pixels: UInt8 = np.rint(np.where(outside, 0.0, unit) * 255).astype(np.uint8)
    return pixels


def _shade(
    levels: _Levels, scale: GreyScale, rule: WindowRule, flags: list[str]
) -> Callable[[Float64], Float64] | None:
    """Real values → 0..1; None for a constant image without a window, which becomes mid-grey."""
    kind = rule.kind
    if rule.window is not None:
        if not rule.preset or scale.hounsfield:
            return rule.window.apply
        flags.append(f"CT preset not applied to modality {scale.modality or 'unknown'}")
        kind = "file"
    if kind == "file":
        if scale.window is not None:
            return scale.window.apply if isinstance(scale.window, Window) else scale.window
        kind = "full" if scale.plain else "percentile"
        if scale.expects_window and not scale.plain:
            flags.append("no window in file")
    ends = _ends(levels, scale, kind)
    if ends is None:
        flags.append("constant image")
        return None
    return lambda values: ramp(values, *ends)


def _ends(levels: _Levels, scale: GreyScale, kind: str) -> tuple[float, float] | None:
    if kind == "full" and scale.full is not None:
        low, high = scale.real(np.asarray(scale.full, np.float64))
        return min(low, high), max(low, high)
    if kind == "percentile" and scale.limits is not None and scale.limits[0] < scale.limits[1]:
        return scale.limits
    values, counts = levels.measured(scale)
    if len(values) == 0 or values.min() == values.max():
        return None
    if kind == "percentile":
        ends = weighted_percentiles(values, counts, PERCENTILES)
        if ends[0] < ends[1]:
            return ends
    return float(values.min()), float(values.max())  # also where nearly all pixels are equal
