"""The colour model of a decoder's output. By PS3.5 8.2 the codestream decides, not the header."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.dicom.grey import BIG_ENDIAN, lookup_table
from indexer.types import UInt8

PARTIAL = "YBR_PARTIAL_422"
_JPEG_DCT = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
_FULL = ("YBR_FULL", "YBR_FULL_422")
_PARTIAL = (PARTIAL, "YBR_PARTIAL_420")
_TRANSFORMED = ("YBR_ICT", "YBR_RCT")  # JPEG 2000's component transformations, which its decoders invert


def colour_model(dataset: Any) -> tuple[str, tuple[str, ...]]:
    """The photometric interpretation to decode with, and flags.

    Raises PixelError where header and transfer syntax conflict.
    """
    said = str(dataset.PhotometricInterpretation)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if int(getattr(dataset, "SamplesPerPixel", None) or 1) != 3 or said == "RGB":
        return said, ()
    if syntax in _JPEG_2000 and _has_colour_transform(dataset):
        return "RGB", ()
    if said.startswith("YBR") and said not in _TRANSFORMED and int(dataset.BitsAllocated) > 8:
        raise PixelError("unsupported photometric interpretation", f"{said} of more than 8 bits")
    if syntax in _JPEG_DCT:  # full-range YCbCr, as in every JPEG file
        return "YBR_FULL_422" if said in (*_PARTIAL, *_TRANSFORMED) else said, ()
    if syntax in _JPEG_2000:
        return "YBR_FULL" if said in (*_FULL, *_PARTIAL) else said, ()
    if said in _PARTIAL and not (said == PARTIAL and syntax in _UNCOMPRESSED):
        raise PixelError("unsupported photometric interpretation", f"{said} in transfer syntax {syntax}")
    # Other codestreams have no such transformation: left behind by a program that decoded JPEG 2000
    return said, (f"{said} without JPEG 2000, shown as RGB",) if said in _TRANSFORMED else ()


def _has_colour_transform(dataset: Any) -> bool:
    """Whether the first frame's main header has a multiple component transformation: ISO 15444-1, A.6.1."""
    from pydicom.encaps import get_frame

    stream = get_frame(dataset.PixelData, 0, number_of_frames=int(getattr(dataset, "NumberOfFrames", None) or 1))
    at = stream.find(b"\xff\x4f\xff\x51")  # SOC and SIZ, also inside the boxes of a JP2 file
    at = at + 2 if at >= 0 else len(stream)
    while at + 4 <= len(stream) and stream[at] == 0xFF:
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == 0x52:  # COD: coding style, progression order, two bytes of layers, then the transformation
            return at + 9 <= len(stream) and stream[at + 8] == 1
        at += 2 + max(length, 2)
    return False


def palette_colours(
    stored: npt.NDArray[Any], dataset: Any
) -> tuple[npt.NDArray[Any], int, tuple[str, ...]]:  # fmt: skip
    """Indices (h, w) → RGB (h, w, 3), the bits of a value, and flags. PS3.3 C.7.6.3.1.5 and .6."""
    if "RedPaletteColorLookupTableData" not in dataset:  # segmented tables
        from pydicom.pixels import apply_color_lut

        expanded: npt.NDArray[Any] = apply_color_lut(stored, dataset)[..., :3]
        return expanded, 8 * expanded.dtype.itemsize, ()
    order = ">" if str(dataset.file_meta.TransferSyntaxUID) == BIG_ENDIAN else "<"
    signed = int(dataset.PixelRepresentation) == 1
    channels, bits, largest = [], 8, 0
    for colour in ("Red", "Green", "Blue"):
        table, first, depth = _palette_table(dataset, colour, signed=signed, order=order)
        bits, largest = max(bits, depth), max(largest, int(table.max()))
        channels.append(table[np.clip(stored.astype(np.int64) - first, 0, len(table) - 1)])
    flags: tuple[str, ...] = ()
    if bits > 8 and largest < 256:  # as libtiff takes such a palette: it would be nearly black
        bits, flags = 8, (f"palette of 8-bit values in {bits}-bit entries",)
    return np.stack(channels, axis=-1).astype(np.uint8 if bits == 8 else np.uint16), bits, flags


def _palette_table(dataset: Any, colour: str, *, signed: bool, order: str) -> tuple[npt.NDArray[np.int64], int, int]:
    """(entries, first index mapped, bits of an entry) of one colour."""
    descriptor = [int(n) for n in dataset[f"{colour}PaletteColorLookupTableDescriptor"].value]
    data = dataset[f"{colour}PaletteColorLookupTableData"].value
    if isinstance(data, bytes) and len(data) == ((descriptor[0] & 0xFFFF) or 65536):
        descriptor[2] = 8  # a byte an entry, whatever the descriptor says
    entries, first, bits = lookup_table(descriptor, data, signed=signed, order=order)
    table = entries.astype(np.int64)
    if bits == 8:  # in words of their own: the value is in the lower byte, else in both or in the upper one
        table = table & 0xFF if (table & 0xFF).any() else table >> 8
    return table, first, bits


def from_partial_range(values: npt.NDArray[Any]) -> UInt8:
    """YBR_PARTIAL (h, w, 3) uint8 → RGB, PS3.3 C.7.6.3.1.2: luminance 16..235, chrominance 16..240."""
    y, b, r = np.moveaxis(values.astype(np.float64) - (16, 128, 128), -1, 0)
    y *= 255 / 219
    b, r = b * 255 / 224, r * 255 / 224
    colours = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=-1)
    pixels: UInt8 = np.rint(colours.clip(0, 255)).astype(np.uint8)
    return pixels
