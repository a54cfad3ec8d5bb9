"""What a DICOM data set says about its grey values: modality LUT, VOI LUT or window, padding, polarity, pixel shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.dicom.elements import group
from indexer.pixels.grey import GreyScale
from indexer.pixels.window import Window
from indexer.types import Float64

_HOUNSFIELD = ("CT", "")  # an unnamed modality is given the benefit of the doubt


def grey_scale(dataset: Any, index: int, dtype: npt.DTypeLike) -> GreyScale:
    """The scale of one frame: an enhanced object's per-frame and shared groups go before the top level."""
    signed = int(getattr(dataset, "PixelRepresentation", 0)) == 1
    bits = int(getattr(dataset, "BitsStored", dataset.BitsAllocated))
    pixel_value = group(dataset, index, "PixelValueTransformationSequence")
    voi = group(dataset, index, "FrameVOILUTSequence")
    rescaled = any(word in pixel_value for word in ("RescaleSlope", "ModalityLUTSequence"))
    whole = np.issubdtype(dtype, np.integer)
    modality = str(getattr(dataset, "Modality", ""))
    return GreyScale(
        real=_modality(pixel_value, signed),
        window=_voi(voi, signed),
        full=_range(bits, signed) if whole else None,
        expects_window=True,
        plain=whole and bits <= 8 and not rescaled,
        invert=str(dataset.PhotometricInterpretation) == "MONOCHROME1",
        padding=_padding(dataset),
        hounsfield=modality in _HOUNSFIELD,
        modality=modality,
    )


def _range(bits: int, signed: bool) -> tuple[float, float]:
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)


def _modality(source: Any, signed: bool) -> Callable[[Float64], Float64]:
    """Stored → real values, PS3.3 C.11.1: a table, or slope and intercept."""
    if getattr(source, "ModalityLUTSequence", None):
        table, first, _ = _table(source.ModalityLUTSequence[0], signed)
        return lambda values: _look_up(values, table, first)
    slope, intercept = _number(source, "RescaleSlope", 1.0), _number(source, "RescaleIntercept", 0.0)
    if not (math.isfinite(slope) and math.isfinite(intercept)) or slope == 0:
        raise PixelError("corrupt image", f"DICOM: rescale slope {slope}, intercept {intercept}")
    return lambda values: values * slope + intercept


def _voi(source: Any, signed: bool) -> Window | Callable[[Float64], Float64] | None:
    """The first VOI LUT or window of the file, PS3.3 C.11.2; None where it gives none that can be used."""
    if getattr(source, "VOILUTSequence", None):
        table, first, bits = _table(source.VOILUTSequence[0], signed)
        top = float(2**bits - 1)
        return lambda values: np.clip(_look_up(np.rint(values), table, first) / top, 0.0, 1.0)
    if getattr(source, "WindowCenter", None) in (None, "") or getattr(source, "WindowWidth", None) in (None, ""):
        return None
    function = str(getattr(source, "VOILUTFunction", None) or "LINEAR")
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        return None
    window = Window(_number(source, "WindowCenter", math.nan), _number(source, "WindowWidth", math.nan), function)
    return window if window.usable() else None


def _table(item: Any, signed: bool) -> tuple[Float64, int, int]:
    """(entries, first stored value mapped, bits of an entry) of a LUT item, PS3.3 C.11.1.1.1."""
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    entries = entries or 65536
    if signed and first > 32767:  # read as unsigned where the VR is ambiguous
        first -= 65536
    data = item.LUTData
    if isinstance(data, (bytes, bytearray)):
        wide = bits > 8 or len(data) >= 2 * entries
        table = np.frombuffer(data, "<u2" if wide else "u1").astype(np.float64)
    else:
        table = np.atleast_1d(np.asarray(data)).astype(np.float64)
    if len(table) < entries or not 8 <= bits <= 16:
        raise PixelError("corrupt image", f"DICOM: a LUT of {len(table)} entries, {entries} announced, {bits} bits")
    return table[:entries], first, bits


def _look_up(values: Float64, table: Float64, first: int) -> Float64:
    """Below the first mapped value the first entry, beyond the last the last one."""
    found: Float64 = table[np.clip(np.nan_to_num(values) - first, 0, len(table) - 1).astype(np.int64)]
    return found


def _number(source: Any, word: str, default: float) -> float:
    value = getattr(source, word, None)
    if value in (None, ""):
        return default
    return float(value if isinstance(value, (str, float, int)) else value[0])


def _padding(dataset: Any) -> tuple[float, float] | None:
    """PS3.3 C.7.5.1.1.2: one value, or a range with its other end."""
    value = getattr(dataset, "PixelPaddingValue", None)
    if value in (None, ""):
        return None
    limit = getattr(dataset, "PixelPaddingRangeLimit", None)
    ends = float(value), float(value if limit in (None, "") else limit)
    return min(ends), max(ends)


def pixel_aspect(dataset: Any, index: int) -> float:
    """Height of a pixel over its width, from PixelAspectRatio or the spacing between rows and columns."""
    measures = group(dataset, index, "PixelMeasuresSequence")
    for source, word in (
        (dataset, "PixelAspectRatio"),
        (measures, "PixelSpacing"),
        (dataset, "ImagerPixelSpacing"),
    ):
        pair = getattr(source, word, None)
        if pair is not None and not isinstance(pair, (str, float, int)) and len(pair) == 2:
            vertical, horizontal = float(pair[0]), float(pair[1])
            return vertical / horizontal if vertical > 0 and horizontal > 0 else 1.0
    return 1.0
