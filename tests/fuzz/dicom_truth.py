"""What a frame of a DICOM file shows, by the formulas of PS3.3 C.7.6, C.11 and PS3.5 8, from pydicom's raw elements."""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
import pydicom.encaps
import pydicom.pixels
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.multival import MultiValue

from indexer.errors import PixelError
from indexer.pixels.decoder_errors import dicom_errors, quiet
from indexer.pixels.kinds import open_kind
from indexer.pixels.parts import Rendering
from tests.fuzz.verdict import Wrong, agree, from_ycbcr

RENDERING = Rendering()
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")
BENIGN = ("no window in file", "constant image", "16-bit colour reduced to 8 bits", "burned-in annotation")
UNCOMPRESSED = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99")
RUN_LENGTH, JPEG_LS, JPEG_2000 = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}


class NotKnown(Exception):
    """The formula does not say what this file shows."""


class Unreadable(Exception):
    """An element that is there cannot be read: the picture must be flagged."""


def dicom_attack(folder: Path) -> Callable[[list[bytes]], list[str]]:
    del folder
    quiet()
    return lambda batch: [_compared(data) for data in batch]


def _compared(data: bytes) -> str:
    """What became of the file; raises Wrong where a picture without a flag is not the one of the formulas."""
    try:
        reader = open_kind("dicom", data, RENDERING)
    except PixelError as error:
        return error.reason
    word = "equal"
    try:
        for position in range(min(3, len(reader.parts))):
            (raster,) = reader.rasters([position])
            flagged = [flag for flag in raster.flags if flag not in BENIGN]
            try:
                expected = dicom_truth(data, position)
            except Unreadable as error:
                if not flagged:
                    raise Wrong(f"{error} cannot be read, and frame {position} has no flag") from error
                word = "flagged"
                continue
            except (NotKnown, *dicom_errors()):
                word = "not read by the other"
                continue
            if flagged:
                word = "flagged"
            elif not agree(raster.pixels, np.atleast_3d(expected), 1.0):
                raise Wrong(f"frame {position}: {raster.flags}")
    except PixelError as error:
        return error.reason
    finally:
        reader.close()
    return word


def dicom_truth(data: bytes, index: int) -> np.ndarray:
    """(h, w) or (h, w, 3) in 0..255, not rounded. Raises NotKnown, Unreadable, and what pydicom raises."""
    dataset = pydicom.dcmread(io.BytesIO(data), force=True)
    photometric = str(dataset.PhotometricInterpretation)
    values = _stored(dataset, index)
    if photometric in ("RGB", "YBR_FULL") and values.ndim == 3:
        out = values.astype(np.float64) * 255 / (2 ** int(dataset.BitsStored) - 1)
        return np.clip(from_ycbcr(out) if photometric == "YBR_FULL" else out, 0, 255)
    if photometric == "PALETTE COLOR":
        return _palette(dataset, values)
    if values.ndim == 2 and photometric in ("MONOCHROME1", "MONOCHROME2"):
        return _grey(dataset, index, values, photometric == "MONOCHROME1")
    raise NotKnown(photometric)


def _stored(dataset: Any, index: int) -> np.ndarray:
    """PS3.5 8.1: the value lies in BitsStored bits below and with HighBit, in two's complement where signed."""
    allocated, stored, high = (int(dataset[word].value) for word in ("BitsAllocated", "BitsStored", "HighBit"))
    signed, samples = int(dataset.PixelRepresentation), int(dataset.SamplesPerPixel)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if not 1 <= stored <= high + 1 <= allocated or allocated not in (8, 16, 32) or samples not in (1, 3):
        raise NotKnown("cells")
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if syntax not in UNCOMPRESSED:
        return _unpacked(dataset, syntax, index, stored, signed)
    order = ">" if syntax == UNCOMPRESSED[2] else "<"
    cells = np.frombuffer(dataset.PixelData, f"{order}u{allocated // 8}")
    size = rows * columns * samples
    frame = cells[index * size : (index + 1) * size]
    if len(frame) < size:
        raise NotKnown("too few cells")
    if samples == 3:
        planar = int(dataset.get("PlanarConfiguration", 0))
        frame = np.moveaxis(frame.reshape(3, rows, columns), 0, -1) if planar else frame.reshape(rows, columns, 3)
    else:
        frame = frame.reshape(rows, columns)
    return _value(frame.astype(np.int64) >> (high + 1 - stored), stored, signed)


def _unpacked(dataset: Any, syntax: str, index: int, stored: int, signed: int) -> np.ndarray:
    """The values of a compressed frame by imagecodecs, of run lengths by pydicom itself."""
    if syntax == RUN_LENGTH:
        values = np.asarray(pydicom.pixels.pixel_array(dataset, index=index, raw=True, decoding_plugin="pydicom"))
        return values if values.ndim == 3 else _value(values.astype(np.int64), stored, signed)
    decoders = {JPEG_LS: imagecodecs.jpegls_decode, JPEG_2000: imagecodecs.jpeg2k_decode}
    if syntax not in decoders:
        raise NotKnown(syntax)
    count = int(dataset.get("NumberOfFrames") or 1)
    stream = pydicom.encaps.get_frame(dataset.PixelData, index, number_of_frames=count)
    values = np.asarray(decoders[syntax](stream))
    if values.shape[:2] != (dataset.Rows, dataset.Columns):
        raise NotKnown("size")
    if np.issubdtype(values.dtype, np.unsignedinteger) and values.max() >= 2**stored:
        raise Unreadable("BitsStored")  # the codestream holds more
    return _value(values.astype(np.int64), stored, signed)


def _value(cells: np.ndarray, stored: int, signed: int) -> np.ndarray:
    values = cells & (2**stored - 1)
    return np.where(values >= 2 ** (stored - 1), values - 2**stored, values) if signed else values


def _group(dataset: Any, index: int, name: str) -> Any:
    for word, at in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(word)
        if items and at < len(items) and items[at].get(name):
            return items[at].get(name)[0]
    return dataset


def _numbers(source: Any, word: str) -> list[float]:
    """The element's values from its bytes, [] where it is missing or empty."""
    tag = tag_for_keyword(word)
    if tag not in source:
        return []
    item = source.get_item(tag)
    if not isinstance(item, RawDataElement):  # of a sequence that pydicom has parsed
        value = item.value
        several = isinstance(value, (list, MultiValue))
        texts = [] if value in (None, "") else list(value) if several else [value]
        return [_number(str(text), word) for text in texts]
    vr = item.VR or dictionary_VR(tag)
    raw = item.value or b""
    if vr == "US or SS":
        vr = "US"
    if vr in BINARY:
        size = struct.calcsize(BINARY[vr])
        if len(raw) % size:
            raise NotKnown(word)
        return list(struct.unpack(f"{'<' if item.is_little_endian else '>'}{len(raw) // size}{BINARY[vr]}", raw))
    text = raw.decode("latin-1").strip(" \0")
    return [_number(part, word) for part in text.split("\\")] if text else []


def _number(text: str, word: str) -> float:
    text = text.strip(" \0")
    if not NUMBER.fullmatch(text) or not np.isfinite(float(text.replace(",", "."))):
        raise Unreadable(word)
    return float(text.replace(",", "."))


def _first(source: Any, word: str) -> float | None:
    return next(iter(_numbers(source, word)), None)


def _signed16(value: float, signed: bool) -> int:
    bits = int(value) & 0xFFFF
    return bits - 65536 if signed and bits > 32767 else bits


def _table(item: Any, signed: bool, values: np.ndarray) -> tuple[np.ndarray, int]:
    entries, first, bits = (int(v) for v in item.LUTDescriptor)
    data = np.asarray(item.LUTData).astype(np.int64) & 0xFFFF
    if len(data) != (entries or 65536) or not 8 <= bits <= 16:
        raise NotKnown("LUT")
    return data[np.clip(values - _signed16(first, signed), 0, len(data) - 1).astype(int)], bits


def _grey(dataset: Any, index: int, values: np.ndarray, negative: bool) -> np.ndarray:
    signed, stored = int(dataset.PixelRepresentation) == 1, int(dataset.BitsStored)
    transformation = _group(dataset, index, "PixelValueTransformationSequence")
    voi = _group(dataset, index, "FrameVOILUTSequence")
    padding = _numbers(dataset, "PixelPaddingValue")
    limit = _numbers(dataset, "PixelPaddingRangeLimit") if padding else []
    ends = [_signed16(v, signed) for v in (*padding[:1], *limit[:1])]
    padded = (values >= min(ends)) & (values <= max(ends)) if ends else np.zeros(values.shape, bool)
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1) if signed else (0, 2**stored - 1)
    rescaled = "RescaleSlope" in transformation or "ModalityLUTSequence" in transformation
    if transformation.get("ModalityLUTSequence"):
        real = _table(transformation.ModalityLUTSequence[0], signed, values)[0].astype(np.float64)
        negative_input = False
    else:
        slope, intercept = _first(transformation, "RescaleSlope"), _first(transformation, "RescaleIntercept")
        if slope == 0:
            raise Unreadable("RescaleSlope")
        real = values * (slope or 1.0) + (intercept or 0.0)
        negative_input = min(low * (slope or 1.0), high * (slope or 1.0)) + (intercept or 0.0) < 0
    unit = _windowed(voi, real, negative_input)
    if unit is None and stored <= 8 and not rescaled:
        ends = sorted(v * 1.0 + (_first(transformation, "RescaleIntercept") or 0.0) for v in (low, high))
        unit = (real - ends[0]) / (ends[1] - ends[0])
    elif unit is None:
        seen = real[~padded]
        if not seen.size or seen.min() == seen.max():
            return np.where(padded, 0.0, 128.0)
        bottom, top = np.percentile(seen, (0.5, 99.5))
        bottom, top = (bottom, top) if bottom < top else (seen.min(), seen.max())
        unit = (real - bottom) / (top - bottom)
    unit = np.clip(unit, 0, 1)
    return np.where(padded, 0, (1 - unit if negative else unit) * 255)


def _windowed(voi: Any, real: np.ndarray, negative: bool) -> np.ndarray | None:
    if voi.get("VOILUTSequence"):
        found, bits = _table(voi.VOILUTSequence[0], negative, np.rint(real))
        return found / (2**bits - 1)
    centre, width = _first(voi, "WindowCenter"), _first(voi, "WindowWidth")
    function = str(voi.get("VOILUTFunction") or "LINEAR").strip()
    if centre is None or width is None:
        return None
    if function == "SIGMOID" and width > 0:
        return 1 / (1 + np.exp(np.clip(-4 * (real - centre) / width, -700, 700)))
    if function == "LINEAR_EXACT" and width > 0:
        return np.clip((real - centre) / width + 0.5, 0, 1)
    if function == "LINEAR" and width > 1:
        return np.clip((real - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    if function == "LINEAR" and width == 1:
        return np.where(real <= centre - 0.5, 0.0, 1.0)
    raise Unreadable("the window")


def _palette(dataset: Any, values: np.ndarray) -> np.ndarray:
    channels = []
    for colour in ("Red", "Green", "Blue"):
        entries, first, bits = (int(v) for v in dataset[f"{colour}PaletteColorLookupTableDescriptor"].value)
        order = ">" if str(dataset.file_meta.TransferSyntaxUID) == UNCOMPRESSED[2] else "<"
        table = np.frombuffer(dataset[f"{colour}PaletteColorLookupTableData"].value, f"{order}u2")
        if bits != 16 or len(table) != entries:
            raise NotKnown("palette")
        channels.append(table[np.clip(values - first, 0, entries - 1).astype(int)] / 257)
    return np.stack(channels, -1)
