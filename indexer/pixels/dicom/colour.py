"""The colour model of a decoder's output. By PS3.5 8.2 the codestream decides, not the header."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.types import UInt8

PARTIAL = "YBR_PARTIAL_422"
_JPEG_DCT = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{n}" for n in (90, 91, 201, 202, 203))
_UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_FULL = ("YBR_FULL", "YBR_FULL_422")
_PARTIAL = (PARTIAL, "YBR_PARTIAL_420")
_TRANSFORMED = ("YBR_ICT", "YBR_RCT")  # JPEG 2000's component transformations, which its decoders invert


def colour_model(dataset: Any) -> str:
    """The photometric interpretation to decode with. Raises PixelError where header and transfer syntax conflict."""
    said = str(dataset.PhotometricInterpretation)
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if int(getattr(dataset, "SamplesPerPixel", 1)) != 3 or said == "RGB":
        return said
    if syntax in _JPEG_DCT:  # full-range YCbCr, as in every JPEG file
        return "YBR_FULL_422" if said in (*_PARTIAL, *_TRANSFORMED) else said
    if syntax in _JPEG_2000:
        if _has_colour_transform(dataset):
            return "RGB"
        return "YBR_FULL" if said in (*_FULL, *_PARTIAL) else said
    if said in _PARTIAL and not (said == PARTIAL and syntax in _UNCOMPRESSED):
        raise PixelError("unsupported photometric interpretation", f"{said} in transfer syntax {syntax}")
    return said


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


def palette_colours(stored: npt.NDArray[Any], dataset: Any) -> npt.NDArray[Any]:
    """Indices (h, w) → RGB (h, w, 3) uint8 or uint16, PS3.3 C.7.9."""
    from pydicom.pixels import apply_color_lut

    if str(dataset.file_meta.TransferSyntaxUID) == _BIG_ENDIAN:  # pydicom reads plain tables as little-endian
        swapped = dataset.group_dataset(0x0028)  # a data set of its own
        for word in (f"{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue", "Alpha")):
            table = getattr(dataset, word, None)
            if table:
                swapped.add_new(word, "OW", np.frombuffer(table, ">u2").astype("<u2").tobytes())
        swapped.file_meta = dataset.file_meta
        dataset = swapped
    colours: npt.NDArray[Any] = apply_color_lut(stored, dataset)[..., :3]
    return colours


def from_partial_range(values: npt.NDArray[Any]) -> UInt8:
    """YBR_PARTIAL (h, w, 3) uint8 → RGB, PS3.3 C.7.6.3.1.2: luminance 16..235, chrominance 16..240."""
    y, b, r = np.moveaxis(values.astype(np.float64) - (16, 128, 128), -1, 0)
    y *= 255 / 219
    b, r = b * 255 / 224, r * 255 / 224
    colours = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], axis=-1)
    pixels: UInt8 = np.rint(colours.clip(0, 255)).astype(np.uint8)
    return pixels
