"""Reads DICOM: refuses objects that are not images, and converts each frame from stored values to 8 bits.

The order is the standard's: palette or colour → RGB; grey → modality LUT → VOI window → inversion (MONOCHROME1).
Overlays are ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.decoder_errors import dicom_errors, named
from indexer.pixels.dicom.colour import colour_model, palette_colours
from indexer.pixels.dicom.encapsulated import add_offset_table
from indexer.pixels.dicom.facts import FrameFacts
from indexer.pixels.dicom.grey import grey_scale, pixel_aspect
from indexer.pixels.dicom.parse import parsed
from indexer.pixels.dicom.stored import RISKY, beyond_bits, contradictory_bits, stored_frames
from indexer.pixels.grey import GreyScale, render
from indexer.pixels.isolated import IsolatedReader
from indexer.pixels.limits import MAX_INFLATED, PLAIN_BYTES, check_size
from indexer.pixels.parts import Numbered, Raster, Rendering
from indexer.pixels.window import WindowRule, parse_window
from indexer.types import UInt8

PIXEL_KEYWORDS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_NOT_IMAGES = {  # SOP classes whose pixel data are not an image of the patient
    "1.2.840.10008.5.1.4.1.1.66.4": "segmentation, not an image",
    "1.2.840.10008.5.1.4.1.1.66.7": "segmentation, not an image",
    "1.2.840.10008.5.1.4.1.1.481.2": "dose grid, not an image",
}
_MAMMOGRAM_FOR_PROCESSING = "1.2.840.10008.5.1.4.1.1.1.2.1"
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_422", "YBR_PARTIAL_420")
_FULL = parse_window("full")
_NEEDED_OF_INTEGERS = ("SamplesPerPixel", "BitsStored", "PixelRepresentation")


class DicomReader:
    """Reader of a DICOM file. Raises PixelError with the reason for a refused file."""

    def __init__(self, data: bytes, rendering: Rendering) -> None:
        self._data, self._rendering = data, rendering
        self._dataset = read_dataset(data)
        try:
            refuse(self._dataset)
            count = int(getattr(self._dataset, "NumberOfFrames", None) or 1)
            self._dataset.PhotometricInterpretation, colour = colour_model(self._dataset)
            add_offset_table(self._dataset, count)
            burned_in = str(getattr(self._dataset, "BurnedInAnnotation", "")) == "YES"
            bits = contradictory_bits(self._dataset)
        except dicom_errors() as error:
            raise named(error, "DICOM") from error
        if count > len(data):
            raise PixelError("corrupt image", f"DICOM: {count:,} frames announced in {len(data):,} bytes")
        burned = ("burned-in annotation",) if burned_in else ()
        self._flags = (*burned, *colour, *bits)
        self.parts = Numbered(count, FrameFacts(self._dataset, count))
        self._isolated: IsolatedReader | None = None

    def rasters(self, positions: Sequence[int]) -> Iterator[Raster]:
        nbytes = int(self._dataset.Rows) * int(self._dataset.Columns) * 8  # of a frame in float64
        risky = nbytes > PLAIN_BYTES or str(self._dataset.file_meta.TransferSyntaxUID) in RISKY
        if risky and not self._rendering.isolated:
            if self._isolated is None:
                self._isolated = IsolatedReader("dicom", self._data, self._rendering, self.parts, announced=nbytes)
            yield from self._isolated.rasters(positions)
            return
        for index, stored in stored_frames(self._data, self._dataset, positions):
            try:
                pixels, flags = _picture(self._dataset, index, stored, self._rendering.rules)
                aspect, unread = pixel_aspect(self._dataset, index)
                unread = (*beyond_bits(self._dataset, stored), *unread)
            except dicom_errors() as error:
                raise named(error, "DICOM") from error
            yield Raster(pixels, aspect, (*self._flags, *flags, *unread))

    def close(self) -> None:
        if self._isolated is not None:
            self._isolated.close()


def read_dataset(data: bytes) -> Any:
    """The parsed data set, also from a file without preamble or file meta. Raises PixelError."""
    try:
        import pydicom  # noqa: F401 - is it there
    except ImportError as error:
        raise PixelError("decoder not installed", "DICOM needs: pip install 'embedding-indexer[dicom]'") from error
    try:
        dataset = parsed(BytesIO(data), limit=MAX_INFLATED)
        if "SOPClassUID" not in dataset and not any(keyword in dataset for keyword in (*PIXEL_KEYWORDS, "Rows")):
            raise PixelError("not an image", "not a DICOM data set, or one without a SOP class")
        if "TransferSyntaxUID" not in dataset.file_meta:  # the syntax with which pydicom read it
            implicit, little = dataset.original_encoding
            dataset.file_meta.TransferSyntaxUID = _plain_syntax(bool(implicit), bool(little))
    except dicom_errors() as error:
        raise named(error, "DICOM") from error
    return dataset


def _plain_syntax(implicit: bool, little: bool) -> Any:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def refuse(dataset: Any) -> None:
    """Raise PixelError where the header shows that the object is not an image to embed, or is too large."""
    sop_class = str(getattr(dataset, "SOPClassUID", ""))
    if sop_class in _NOT_IMAGES:
        raise PixelError(_NOT_IMAGES[sop_class], sop_class)
    if not any(keyword in dataset for keyword in PIXEL_KEYWORDS):
        raise PixelError("no pixel data", f"SOP class {getattr(dataset.get('SOPClassUID'), 'name', '') or 'not named'}")
    processing = str(getattr(dataset, "PresentationIntentType", "")) == "FOR PROCESSING"
    mammogram = str(getattr(dataset, "Modality", "")) == "MG" or "1.1.1.2" in sop_class
    if sop_class == _MAMMOGRAM_FOR_PROCESSING or (processing and mammogram):
        raise PixelError("mammogram for processing", "raw detector values, not meant to be looked at")
    needed = ("Rows", "Columns", "BitsAllocated", *(_NEEDED_OF_INTEGERS if "PixelData" in dataset else ()))
    missing = [word for word in needed if getattr(dataset, word, None) is None]
    if missing:
        raise PixelError("corrupt image", f"DICOM: no {', '.join(missing)}")
    check_size(int(dataset.Rows), int(dataset.Columns))
    photometric = str(getattr(dataset, "PhotometricInterpretation", ""))
    if photometric not in (*_GREY, *_COLOUR, "PALETTE COLOR"):
        raise PixelError("unsupported photometric interpretation", photometric or "none given")


def _picture(
    dataset: Any, index: int, stored: npt.NDArray[Any], rules: tuple[WindowRule, ...]
) -> tuple[UInt8, tuple[str, ...]]:
    photometric = str(dataset.PhotometricInterpretation)
    if stored.ndim == 3 and photometric in _GREY:
        raise PixelError("corrupt image", f"DICOM: {photometric} with {stored.shape[-1]} samples a pixel")
    if stored.ndim == 3 and photometric != "PALETTE COLOR":
        pixels = _colour(stored, int(getattr(dataset, "BitsStored", 8)))
        return pixels, () if stored.dtype == np.uint8 else ("16-bit colour reduced to 8 bits",)
    if photometric == "PALETTE COLOR":
        red_green_blue, bits, flags = palette_colours(stored, dataset)
        return _colour(red_green_blue, bits), flags
    if photometric not in _GREY:
        raise PixelError("corrupt image", f"DICOM: {photometric} with one sample a pixel")
    return render(stored, grey_scale(dataset, index, stored.dtype), rules)


def _colour(values: npt.NDArray[Any], bits: int) -> UInt8:
    """Colour of more than 8 bits, scaled by its whole range; windows apply to grey only."""
    if values.dtype == np.uint8:
        return values[..., :3]
    flat = values[..., :3].reshape(values.shape[0], -1)
    pixels, _ = render(flat, GreyScale(full=(0.0, float(2**bits - 1))), _FULL)
    return pixels.reshape(*values.shape[:2], 3)
