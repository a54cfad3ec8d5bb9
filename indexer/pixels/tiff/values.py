"""Reads the stored values of a TIFF page: byte order, depth, sign, predictor and planes as in TIFF 6.0.

tifffile reads the directories; `tiff.unpack` decompresses strips and tiles, so that all general-purpose compressions
share one path. JPEG and CCITT are left to Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.limits import MAX_INFLATED
from indexer.pixels.tiff.unpack import NONE, unpack
from indexer.types import UInt8

BATCH_BYTES = 4 << 20  # unpacked at once
HEADER_BYTES = 8  # of the file, before any data
SEPARATE = 2  # PlanarConfiguration
_NO_PREDICTOR, _DIFFERENCES, _FLOATING_POINT = 1, 2, 3
_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4  # SampleFormat
_REVERSED = np.packbits(np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)[:, ::-1], axis=1)[:, 0]


def page_values(page: Any, data: bytes, shift: int = 0) -> npt.NDArray[Any]:
    """(depth, h, w, samples) in native byte order; depth is 1 except for volumes. Raises PixelError.

    `shift`: offset in bytes from the page's data to those of the plane.

    Samples whose number of bits is not that of a type are held in the next larger unsigned type.
    """
    dtype = _dtype(page)
    samples = int(page.samplesperpixel)
    planes = samples if page.planarconfig == SEPARATE else 1
    together = samples // planes
    depth, height, width = int(page.imagedepth), int(page.imagelength), int(page.imagewidth)
    if depth * height * width * samples * dtype.itemsize > MAX_INFLATED:
        raise PixelError("too many pixels", f"{depth} x {height} x {width} x {samples} values in one page")
    out = np.zeros((planes, depth, height, width, together), dtype)
    for segments in _batches(_segments(page, data, planes, shift), _segment_bytes(page, together)):
        shape = (*segments[0].shape, together)
        for segment, block in zip(segments, _decoded([s.raw for s in segments], page, shape, dtype), strict=True):
            front, top, left = segment.start
            target = out[segment.plane, front : front + shape[0], top : top + shape[1], left : left + shape[2]]
            target[...] = block[: target.shape[0], : target.shape[1], : target.shape[2]]
    return np.moveaxis(out, 0, -2).reshape(depth, height, width, samples)


@dataclass(frozen=True)
class _Segment:
    """A strip or tile as it is stored."""

    plane: int
    start: tuple[int, int, int]  # front, top, left
    shape: tuple[int, int, int]  # depth, rows, columns; of a tile also where it reaches past the page
    raw: bytes


def _segments(page: Any, data: bytes, planes: int, shift: int) -> Iterator[_Segment]:
    """The strips or tiles that have data. Raises PixelError where one is cut or missing."""
    stored = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    number = -1
    for number, (plane, start, shape) in enumerate(_places(page, planes)):
        if number >= len(stored):
            raise PixelError("truncated", f"TIFF: {len(stored)} strips or tiles, and the page needs more")
        offset, nbytes = stored[number]
        if not nbytes and not offset:
            continue  # sparse, as GDAL writes it: the values are 0
        if not nbytes or offset < HEADER_BYTES:
            raise PixelError("corrupt image", f"TIFF: a segment of {nbytes} bytes at {offset}")
        raw = data[offset + shift : offset + shift + nbytes]
        if len(raw) < nbytes:
            raise PixelError("truncated", f"TIFF: {len(raw)} of {nbytes} bytes of a segment")
        yield _Segment(plane, start, shape, raw)


def _segment_bytes(page: Any, samples: int) -> int:
    """Bytes of the largest strip or tile, unpacked. Raises PixelError where that is more than any picture needs."""
    depth, rows, columns = _full_shape(page)
    nbytes = depth * rows * _row_bytes(columns * samples, int(page.bitspersample))
    if nbytes > MAX_INFLATED:
        raise PixelError("too many pixels", f"{nbytes:,} bytes in one segment")
    return nbytes


def _batches(segments: Iterator[_Segment], nbytes: int) -> Iterator[list[_Segment]]:
    """Runs of segments of one shape, of about BATCH_BYTES unpacked: a call for each segment would cost more than it."""
    most = max(1, BATCH_BYTES // max(nbytes, 1))
    for _, alike in groupby(segments, key=lambda segment: segment.shape):
        while batch := list(islice(alike, most)):
            yield batch


def _dtype(page: Any) -> np.dtype[Any]:
    bits, kind = page.bitspersample, page.sampleformat
    if not isinstance(bits, int) or not isinstance(kind, (int, np.integer)):
        raise PixelError("unsupported TIFF", f"samples of different kinds: bits {bits}, formats {kind}")
    if kind == _FLOAT and bits in (16, 32, 64):
        return np.dtype(f"f{bits // 8}")
    if kind == _FLOAT and bits == 24:
        return np.dtype("f4")
    if kind == _SIGNED and bits in (8, 16, 32, 64):
        return np.dtype(f"i{bits // 8}")
    if kind in (_UNSIGNED, _UNDEFINED) and (1 <= bits <= 32 or bits == 64):
        return np.dtype(f"u{next(n for n in (1, 2, 4, 8) if 8 * n >= bits)}")
    raise PixelError("unsupported TIFF", f"{bits} bits a sample, sample format {int(kind)}")


def _full_shape(page: Any) -> tuple[int, int, int]:
    """(depth, rows, columns) of a strip or tile. Raises PixelError."""
    height, width = int(page.imagelength), int(page.imagewidth)
    if page.is_tiled:
        shape = (max(1, int(page.tiledepth)), int(page.tilelength), int(page.tilewidth))
    else:
        shape = (1, max(1, min(int(page.rowsperstrip), height)), width)
    if min(shape) <= 0:
        raise PixelError("corrupt image", f"TIFF: tiles of {shape}")
    return shape


def _places(page: Any, planes: int) -> Iterator[tuple[int, tuple[int, int, int], tuple[int, int, int]]]:
    """Plane, start (front, top, left) and shape (depth, rows, columns) of each strip or tile in the file's order."""
    depth, height, width = int(page.imagedepth), int(page.imagelength), int(page.imagewidth)
    shape = _full_shape(page)
    for plane in range(planes):
        for front in range(0, depth, shape[0]):
            for top in range(0, height, shape[1]):
                rows = shape[1] if page.is_tiled else min(shape[1], height - top)
                for left in range(0, width, shape[2]):
                    yield plane, (front, top, left), (shape[0], rows, shape[2])


def _row_bytes(values: int, bits: int) -> int:
    return -(-values * bits // 8)


def _decoded(raws: Sequence[bytes], page: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Strips or tiles (n, depth, rows, columns, samples) in native order, with their predictor undone."""
    rows, row_values, bits = shape[0] * shape[1], shape[2] * shape[3], int(page.bitspersample)
    row_bytes = _row_bytes(row_values, bits)
    if int(page.fillorder) == 2:
        raws = [_REVERSED[np.frombuffer(raw, np.uint8)].tobytes() for raw in raws]
    unpacked = unpack(raws, int(page.compression), rows, row_bytes)
    lines = np.frombuffer(unpacked, np.uint8).reshape(len(raws) * rows, row_bytes)
    order = page.parent.byteorder
    predictor = _NO_PREDICTOR if int(page.compression) == NONE else int(page.predictor)  # as in libtiff
    if predictor == _FLOATING_POINT:
        if dtype.kind != "f":
            raise PixelError("corrupt image", f"TIFF: predictor 3 with samples of type {dtype}")
        lines, order = _float_bytes(lines, shape[3], bits // 8), ">"
    values = _numbers(lines, row_values, bits, order, dtype).reshape(len(lines), shape[2], shape[3])
    if predictor == _DIFFERENCES:
        if bits not in (8, 16, 32, 64) or dtype.kind == "f":
            raise PixelError("unsupported TIFF", f"predictor 2 with {bits} bits a sample, type {dtype}")
        values = np.cumsum(values, axis=1, dtype=dtype)
    elif predictor not in (_NO_PREDICTOR, _FLOATING_POINT):
        raise PixelError("unsupported TIFF", f"predictor {predictor}")
    return values.reshape(len(raws), *shape)


def _float_bytes(lines: UInt8, samples: int, nbytes: int) -> UInt8:
    """Undo predictor 3 (Adobe Photoshop TIFF Technical Note 3): byte differences, most significant bytes first."""
    summed = np.cumsum(lines.reshape(len(lines), -1, samples), axis=1, dtype=np.uint8).reshape(len(lines), nbytes, -1)
    return np.ascontiguousarray(summed.transpose(0, 2, 1)).reshape(len(lines), -1)


def _numbers(lines: UInt8, count: int, bits: int, order: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """(rows, row bytes) → (rows, count); each row begins at a whole byte."""
    if bits in (8, 16, 32, 64):
        return (
            np.ascontiguousarray(lines).view(np.dtype(f"{order}{dtype.kind}{dtype.itemsize}")).astype(dtype, copy=False)
        )
    if bits == 24:
        wide = np.zeros((*lines.shape[:1], count, 4), np.uint8)  # big-endian
        three = lines.reshape(len(lines), count, 3)
        wide[..., 1:] = three if order == ">" else three[..., ::-1]
        whole = wide.view(">u4")[..., 0].astype(np.uint32)
        return _float24(whole) if dtype.kind == "f" else whole
    stream = np.unpackbits(lines, axis=1)[:, : count * bits].reshape(len(lines), count, bits)
    weights = (1 << np.arange(bits - 1, -1, -1, dtype=np.uint64)).astype(dtype)
    numbers: npt.NDArray[Any] = (stream * weights).sum(axis=2, dtype=dtype)
    return numbers


def _float24(whole: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
    """24-bit floats of Technical Note 3: 1 bit of sign, 7 of exponent (bias 63), 16 of mantissa."""
    sign, exponent, mantissa = whole >> 23, (whole >> 16) & 0x7F, (whole & 0xFFFF).astype(np.float64)
    size = np.where(
        exponent == 0, mantissa * 2.0 ** (-62 - 16), (1 + mantissa / 65536) * 2.0 ** (exponent.astype(float) - 63)
    )
    size = np.where(exponent == 0x7F, np.where(mantissa == 0, np.inf, np.nan), size)
    return np.where(sign == 1, -size, size).astype(np.float32)


def full_scale(bits: int, dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """The range of a sample of up to 16 bits; None for wider and floating-point samples."""
    if dtype.kind == "f" or bits > 16:
        return None
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if dtype.kind == "i" else (0.0, math.ldexp(1.0, bits) - 1)
