"""Decodes the stored values of a DICOM file's frames with the decoders of its transfer syntax."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.decoder_errors import dicom_errors, named
from indexer.pixels.dicom.colour import PARTIAL, from_partial_range
from indexer.pixels.dicom.gdcm_12bit import gdcm_frames
from indexer.pixels.dicom.jpeg_8bit import jpeg_frames
from indexer.pixels.dicom.parse import DEFLATED

# pydicom plugins in the order in which they are tried: fixed, so that further installed ones do not change pixels.
GDCM_ITSELF, LIBJPEG_ITSELF = "gdcm itself", "simplejpeg"  # called directly, not through pydicom
PLUGINS: dict[str, tuple[str, ...]] = {
    "1.2.840.10008.1.2.4.50": (LIBJPEG_ITSELF, "pillow"),  # libjpeg-turbo is robust enough for the calling process
    "1.2.840.10008.1.2.4.51": ("pillow", GDCM_ITSELF, "pylibjpeg"),  # Pillow for 8 bits, GDCM for 12
    "1.2.840.10008.1.2.4.57": ("gdcm", "pylibjpeg"),
    "1.2.840.10008.1.2.4.70": ("gdcm", "pylibjpeg"),
    "1.2.840.10008.1.2.4.80": ("pyjpegls", "gdcm", "pylibjpeg"),
    "1.2.840.10008.1.2.4.81": ("pyjpegls", "gdcm", "pylibjpeg"),
    "1.2.840.10008.1.2.4.90": ("pylibjpeg", "pillow", "gdcm"),
    "1.2.840.10008.1.2.4.91": ("pylibjpeg", "pillow", "gdcm"),
    "1.2.840.10008.1.2.4.201": ("pylibjpeg",),
    "1.2.840.10008.1.2.4.202": ("pylibjpeg",),
    "1.2.840.10008.1.2.4.203": ("pylibjpeg",),
    "1.2.840.10008.1.2.5": ("pydicom",),
}
RUN_LENGTH = "1.2.840.10008.1.2.5"
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", DEFLATED)
# Decoders in C++ that damaged files have crashed.
RISKY = frozenset(PLUGINS) - {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.5"}
EXTRA = "pip install 'embedding-indexer[dicom]'"

Stored = tuple[int, npt.NDArray[Any]]


def stored_frames(data: bytes, dataset: Any, indices: Sequence[int]) -> Iterator[Stored]:
    """(index, stored values (h, w) or (h, w, 3)) of each requested frame; YBR becomes RGB. Raises PixelError."""
    yield from decoded(data, dataset, indices, decoders_for(dataset))


def decoders_for(dataset: Any) -> tuple[str, ...]:
    """The installed plugins that decode this data set, ("",) where it is not compressed. Raises PixelError."""
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if syntax in UNCOMPRESSED:
        return ("",)
    here = available(syntax)
    if not here:
        name = getattr(dataset.file_meta.TransferSyntaxUID, "name", syntax)
        way = f"needs one of {', '.join(PLUGINS[syntax])}: {EXTRA}" if syntax in PLUGINS else "no decoder is known here"
        raise PixelError("unsupported transfer syntax", f"{syntax} ({name}); {way}")
    return here


def available(syntax: str) -> tuple[str, ...]:
    """The plugins of `PLUGINS[syntax]` that are installed, in order."""
    from pydicom.pixels import get_decoder

    if syntax not in PLUGINS:
        return ()
    installed = {*get_decoder(syntax).available_plugins, LIBJPEG_ITSELF}
    if find_spec("gdcm") is not None:
        installed.add(GDCM_ITSELF)
    return tuple(name for name in PLUGINS[syntax] if name in installed)


def decoded(data: bytes, dataset: Any, indices: Sequence[int], plugins: Sequence[str]) -> Iterator[Stored]:
    """The frames, decoded by the first plugin; where it fails, the next one continues at that frame."""
    done = 0
    failures: tuple[type[BaseException], ...] = (PixelError, *dicom_errors())
    for attempt, plugin in enumerate(plugins):
        try:
            for stored in _by(plugin, data, dataset, indices[done:]):
                yield stored
                done += 1
        except failures as error:
            if attempt + 1 == len(plugins):
                raise named(error, "DICOM") from error
        if done == len(indices):
            return
    raise PixelError("truncated", f"DICOM: {done} of {len(indices)} frames")


def _by(plugin: str, data: bytes, dataset: Any, indices: Sequence[int]) -> Iterator[Stored]:
    if plugin == GDCM_ITSELF:
        yield from gdcm_frames(data, dataset, indices)
        return
    if plugin == LIBJPEG_ITSELF:
        yield from jpeg_frames(dataset, indices)
        return
    from pydicom.pixels import iter_pixels

    partial = str(dataset.PhotometricInterpretation) == PARTIAL
    shift = _bits_below(dataset)
    # Options of pydicom go before the elements of the data set; a copy of it would share them and change both
    options: dict[str, Any] = {"photometric_interpretation": "YBR_FULL_422"} if partial else {}  # which is laid out so
    if shift:
        options["bits_stored"] = int(dataset.HighBit) + 1  # pydicom removes bits above
    frames = map(np.asarray, iter_pixels(dataset, raw=partial, indices=indices, decoding_plugin=plugin, **options))
    for index, frame in zip(indices, frames, strict=False):  # the caller checks their number
        yield index, from_partial_range(frame) if partial else frame >> shift if shift else frame


def _bits_below(dataset: Any) -> int:
    """Unused bits below the pixel value in a stored value, PS3.5 8.1.1: HighBit - (BitsStored - 1).

    Applies to native pixel cells only; a codestream has its own precision.
    """
    allocated, stored, high = _native_bits(dataset) or (0, 1, 0)
    return high + 1 - stored if stored <= high < allocated else 0


def _native_bits(dataset: Any) -> tuple[int, int, int] | None:
    """BitsAllocated, BitsStored and HighBit of native pixel cells; None of other data."""
    if str(dataset.file_meta.TransferSyntaxUID) not in (*UNCOMPRESSED, RUN_LENGTH) or "PixelData" not in dataset:
        return None
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = getattr(dataset, "HighBit", None)
    return allocated, stored, stored - 1 if high is None else int(high)


def contradictory_bits(dataset: Any) -> tuple[str, ...]:
    """A flag where HighBit has no room for BitsStored below it, or lies outside the cell; it is then passed over."""
    allocated, stored, high = _native_bits(dataset) or (1, 1, 0)
    return () if stored - 1 <= high < allocated else (f"HighBit {high} contradicts BitsStored {stored}",)


def beyond_bits(dataset: Any, stored: npt.NDArray[Any]) -> tuple[str, ...]:
    """A flag where a codestream holds values that BitsStored has no room for, so that header and pixels contradict."""
    if str(dataset.file_meta.TransferSyntaxUID) in UNCOMPRESSED or stored.dtype.kind not in "ui" or not stored.size:
        return ()
    bits = int(getattr(dataset, "BitsStored", 8 * stored.dtype.itemsize))
    if bits >= 8 * stored.dtype.itemsize:
        return ()
    signed = stored.dtype.kind == "i"
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return ("values beyond BitsStored",) if stored.min() < low or stored.max() > high else ()
