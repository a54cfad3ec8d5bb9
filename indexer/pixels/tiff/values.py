"""Reads the stored values of a TIFF page: byte order, depth, sign, predictor and planes as in TIFF 6.0.

tifffile reads the directories; strips and tiles are decompressed here, so that all general-purpose compressions (none,
deflate, LZW, PackBits, LZMA, Zstandard) share one path. Image compressions (JPEG, CCITT, WebP) are left to Pillow.
"""

from __future__ import annotations

import lzma
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.limits import MAX_INFLATED
from indexer.types import UInt8

_NONE, _LZW, _ADOBE_DEFLATE, _PACKBITS, _DEFLATE, _LZMA, _ZSTD = 1, 5, 8, 32773, 32946, 34925, 50000
BYTEWISE = (_NONE, _LZW, _ADOBE_DEFLATE, _PACKBITS, _DEFLATE, _LZMA, _ZSTD)
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
    segments = zip(page.dataoffsets, page.databytecounts, strict=False)
    for (offset, nbytes), (plane, front, top, left, shape) in zip(segments, _places(page, planes), strict=False):
        if not nbytes:
            continue  # sparse: the values are 0
        raw = data[offset + shift : offset + shift + nbytes]
        if len(raw) < nbytes:
            raise PixelError("truncated", f"TIFF: {len(raw)} of {nbytes} bytes of a segment")
        block = _segment(raw, page, (*shape, together), dtype)
        part = out[plane, front : front + shape[0], top : top + shape[1], left : left + shape[2]]
        part[...] = block[: part.shape[0], : part.shape[1], : part.shape[2]]
    return np.moveaxis(out, 0, -2).reshape(depth, height, width, samples)


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


def _places(page: Any, planes: int) -> Iterator[tuple[int, int, int, int, tuple[int, int, int]]]:
    """Plane, front, top, left and shape (depth, rows, columns) of each strip or tile in the file's order."""
    depth, height, width = int(page.imagedepth), int(page.imagelength), int(page.imagewidth)
    if page.is_tiled:
        shape = (max(1, int(page.tiledepth)), int(page.tilelength), int(page.tilewidth))
    else:
        shape = (1, max(1, min(int(page.rowsperstrip), height)), width)
    if min(shape) <= 0:
        raise PixelError("corrupt image", f"TIFF: tiles of {shape}")
    for plane in range(planes):
        for front in range(0, depth, shape[0]):
            for top in range(0, height, shape[1]):
                rows = shape[1] if page.is_tiled else min(shape[1], height - top)
                for left in range(0, width, shape[2]):
                    yield plane, front, top, left, (shape[0], rows, shape[2])


def _segment(raw: bytes, page: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A strip or tile (depth, rows, columns, samples), decompressed, in native order, with its predictor undone."""
    rows, row_values, bits = shape[0] * shape[1], shape[2] * shape[3], int(page.bitspersample)
    row_bytes = -(-row_values * bits // 8)
    if rows * row_bytes > MAX_INFLATED:
        raise PixelError("too many pixels", f"{rows} x {row_bytes} bytes in one segment")
    if int(page.fillorder) == 2:
        raw = _REVERSED[np.frombuffer(raw, np.uint8)].tobytes()
    unpacked = _unpacked(raw, int(page.compression), rows, row_bytes)
    if len(unpacked) < rows * row_bytes:
        raise PixelError("truncated", f"TIFF: {len(unpacked)} of {rows * row_bytes} bytes in a segment")
    lines = np.frombuffer(unpacked, np.uint8, rows * row_bytes).reshape(rows, row_bytes)
    order, predictor = page.parent.byteorder, int(page.predictor)
    if predictor == _FLOATING_POINT:
        lines, order = _float_bytes(lines, shape[3], bits // 8), ">"
    values = _numbers(lines, row_values, bits, order, dtype).reshape(rows, shape[2], shape[3])
    if predictor == _DIFFERENCES:
        if bits not in (8, 16, 32, 64) or dtype.kind == "f":
            raise PixelError("unsupported TIFF", f"predictor 2 with {bits} bits a sample, type {dtype}")
        values = np.cumsum(values, axis=1, dtype=dtype)
    elif predictor not in (_NO_PREDICTOR, _FLOATING_POINT):
        raise PixelError("unsupported TIFF", f"predictor {predictor}")
    return values.reshape(shape)


def _float_bytes(lines: UInt8, samples: int, nbytes: int) -> UInt8:
    """Undo predictor 3 (Adobe Photoshop TIFF Technical Note 3): byte differences, most significant bytes first."""
    summed = np.cumsum(lines.reshape(len(lines), -1, samples), axis=1, dtype=np.uint8).reshape(len(lines), nbytes, -1)
    return np.ascontiguousarray(summed.transpose(0, 2, 1)).reshape(len(lines), -1)


def _numbers(lines: UInt8, count: int, bits: int, order: str, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """(rows, row bytes) → (rows, count); each row begins at a whole byte."""
    if bits in (8, 16, 32, 64):
        return np.ascontiguousarray(lines).view(np.dtype(f"{order}{dtype.kind}{dtype.itemsize}")).astype(dtype)
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


def _unpacked(raw: bytes, compression: int, rows: int, row_bytes: int) -> bytes:
    """Decompress at most rows * row_bytes bytes."""
    most = rows * row_bytes
    unpack: dict[int, Callable[[], bytes]] = {
        _NONE: lambda: raw,
        _ADOBE_DEFLATE: lambda: zlib.decompressobj().decompress(raw, most),
        _DEFLATE: lambda: zlib.decompressobj().decompress(raw, most),
        _LZMA: lambda: lzma.LZMADecompressor().decompress(raw, most),
    }
    try:
        return unpack[compression]() if compression in unpack else _by_libtiff(raw, compression, rows, row_bytes)
    except lzma.LZMAError as error:
        raise PixelError("corrupt image", f"TIFF: {error}") from error


def _by_libtiff(raw: bytes, compression: int, rows: int, row_bytes: int) -> bytes:
    """Decompress one segment as if it were an 8-bit grey image of one strip."""
    from PIL import features
    from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile

    if compression not in COMPRESSION_INFO or not features.check("libtiff"):
        raise PixelError("unsupported TIFF", f"compression {compression}")
    entries = {256: row_bytes, 257: rows, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: rows, 279: len(raw)}
    padded = raw + b"\0" * (len(raw) % 2)
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries.items())
    head = b"II*\0" + struct.pack("<I", 8 + len(padded))
    directory = struct.pack("<H", len(entries)) + table + b"\0\0\0\0"
    image = TiffImageFile(BytesIO(head + padded + directory))
    image.load()
    return image.tobytes()


def full_scale(bits: int, dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """The range of a sample of up to 16 bits; None for wider and floating-point samples."""
    if dtype.kind == "f" or bits > 16:
        return None
    return (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if dtype.kind == "i" else (0.0, math.ldexp(1.0, bits) - 1)
