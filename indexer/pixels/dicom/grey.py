"""Grey-value elements of a DICOM data set: modality LUT, VOI LUT or window, padding, polarity, pixel aspect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.dicom.elements import group, number, numbers
from indexer.pixels.grey import GreyScale
from indexer.pixels.window import Window
from indexer.types import Float64

BIG_ENDIAN = "1.2.840.10008.1.2.2"
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")  # PS3.3 C.11.2.1.3
_HOUNSFIELD = ("CT", "")  # CT presets apply to these modalities, also where none is given


def grey_scale(dataset: Any, index: int, dtype: npt.DTypeLike) -> GreyScale:
    """The scale of one frame: an enhanced object's per-frame and shared groups take precedence over the top level.

    Optional elements that cannot be read count as missing and add a flag.
    """
    signed = int(getattr(dataset, "PixelRepresentation", 0)) == 1
    bits = int(getattr(dataset, "BitsStored", dataset.BitsAllocated))
    order = ">" if str(dataset.file_meta.TransferSyntaxUID) == BIG_ENDIAN else "<"
    pixel_value = group(dataset, index, "PixelValueTransformationSequence")
    voi = group(dataset, index, "FrameVOILUTSequence")
    rescaled = any(word in pixel_value for word in ("RescaleSlope", "ModalityLUTSequence"))
    whole = np.issubdtype(dtype, np.integer)
    modality = str(getattr(dataset, "Modality", ""))
    full = _range(bits, signed) if whole else None
    flags: list[str] = []
    real = _modality(pixel_value, signed, order, flags)
    negative = full is None or bool(real(np.array(full)).min() < 0)
    return GreyScale(
        real=real,
        window=_voi(voi, negative, order, flags),
        full=full,
        expects_window=True,
        plain=whole and bits <= 8 and not rescaled,
        invert=str(dataset.PhotometricInterpretation) == "MONOCHROME1",
        padding=_padding(dataset, signed, bits, flags) if whole else _float_padding(dataset, flags),
        hounsfield=modality in _HOUNSFIELD,
        modality=modality,
        flags=tuple(flags),
    )


def _range(bits: int, signed: bool) -> tuple[float, float]:
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0.0, 2.0**bits - 1)


def _modality(source: Any, signed: bool, order: str, flags: list[str]) -> Callable[[Float64], Float64]:
    """Stored → real values, PS3.3 C.11.1: a table, or slope and intercept."""
    if getattr(source, "ModalityLUTSequence", None):
        table, first, _ = _table(source.ModalityLUTSequence[0], signed, order)
        return lambda values: _look_up(values, table, first)
    slope, intercept = number(source, "RescaleSlope", flags), number(source, "RescaleIntercept", flags)
    if slope == 0:
        flags.append("RescaleSlope of 0")
    factor, offset = slope or 1.0, intercept or 0.0
    return lambda values: values * factor + offset


def _voi(source: Any, negative: bool, order: str, flags: list[str]) -> Window | Callable[[Float64], Float64] | None:
    """The first VOI LUT or window of the file, PS3.3 C.11.2; None where there is none that is usable.

    `negative`: whether the input values of the LUT can be below 0.
    """
    if getattr(source, "VOILUTSequence", None):
        table, first, bits = _table(source.VOILUTSequence[0], negative, order)
        top = float(2**bits - 1)
        return lambda values: np.clip(_look_up(np.rint(values), table, first) / top, 0.0, 1.0)
    centre, width = number(source, "WindowCenter", flags), number(source, "WindowWidth", flags)
    function = str(getattr(source, "VOILUTFunction", None) or "LINEAR")
    if centre is None or width is None:
        return None
    window = Window(centre, width, function)
    if function in FUNCTIONS and window.usable():
        return window
    flags.append(f"unusable window: width {width:g}" if function in FUNCTIONS else f"unknown VOILUTFunction {function}")
    return None


def lookup_table(descriptor: Sequence[Any], data: Any, *, signed: bool, order: str) -> tuple[Float64, int, int]:
    """(entries, first value mapped, bits of an entry), PS3.3 C.11.1.1.1 and C.11.2.1.1.

    The first value mapped is signed as the input values of the table are, whatever its VR. The entries are unsigned;
    8-bit entries may be packed two to a word, the lower byte first.
    """
    entries, first, bits = (int(value) for value in descriptor)
    entries, first = (entries & 0xFFFF) or 65536, _sixteen_bits(first, signed)
    if isinstance(data, (bytes, bytearray)):
        words = np.frombuffer(data, f"{order}u2") if len(data) % 2 == 0 else np.frombuffer(data, "u1").astype("u2")
    else:
        words = (np.atleast_1d(np.asarray(data)).astype(np.int64) & 0xFFFF).astype(np.uint16)
    packed = bits <= 8 and len(words) < entries
    table = words.astype("<u2").view("u1").astype(np.float64) if packed else words.astype(np.float64)
    if len(table) < entries or not 8 <= bits <= 16:
        raise PixelError("corrupt image", f"DICOM: a LUT of {len(table)} entries, {entries} announced, {bits} bits")
    return table[:entries], first, bits


def _table(item: Any, signed: bool, order: str) -> tuple[Float64, int, int]:
    return lookup_table(item.LUTDescriptor, item.LUTData, signed=signed, order=order)


def _sixteen_bits(value: float, signed: bool) -> int:
    """Reinterpret a 16-bit number that may have been read with the wrong signedness."""
    bits = int(value) & 0xFFFF
    return bits - 65536 if signed and bits > 32767 else bits


def _look_up(values: Float64, table: Float64, first: int) -> Float64:
    """Look values up; those outside the mapped range get the first or the last entry."""
    found: Float64 = table[np.clip(np.nan_to_num(values) - first, 0, len(table) - 1).astype(np.int64)]
    return found


def _padding(dataset: Any, signed: bool, bits: int, flags: list[str]) -> tuple[float, float] | None:
    """PS3.3 C.7.5.1.1.2: one stored value, or a range with its other end; signed as the pixels are."""
    value = number(dataset, "PixelPaddingValue", flags)
    if value is None:
        return None
    limit = number(dataset, "PixelPaddingRangeLimit", flags)
    ends = [_sixteen_bits(end, signed) for end in (value, value if limit is None else limit)]
    if limit is None and signed and 2 ** (bits - 1) <= ends[0] < 2**bits:  # as the bits of a pixel, not of a word
        ends = [ends[0] - 2**bits]
    return float(min(ends)), float(max(ends))


def _float_padding(dataset: Any, flags: list[str]) -> tuple[float, float] | None:
    """As `_padding`, for floating-point pixels."""
    for words, kind in (("FloatPixelPadding", np.float32), ("DoubleFloatPixelPadding", np.float64)):
        value = number(dataset, f"{words}Value", flags)
        if value is not None:
            limit = number(dataset, f"{words}RangeLimit", flags)
            ends = [float(kind(end)) for end in (value, value if limit is None else limit)]  # rounded as the pixels
            return min(ends), max(ends)
    return None


def pixel_aspect(dataset: Any, index: int) -> tuple[float, tuple[str, ...]]:
    """Height of a pixel divided by its width, from PixelAspectRatio or the pixel spacing; and flags."""
    measures = group(dataset, index, "PixelMeasuresSequence")
    flags: list[str] = []
    for source, word in (
        (dataset, "PixelAspectRatio"),
        (measures, "PixelSpacing"),
        (dataset, "ImagerPixelSpacing"),
        (dataset, "NominalScannedPixelSpacing"),
    ):
        pair = numbers(source, word, 2, flags)
        if pair is not None:
            return (pair[0] / pair[1] if min(pair) > 0 else 1.0), tuple(flags)
    return 1.0, tuple(flags)
