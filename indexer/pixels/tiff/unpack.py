"""Decompresses strips and tiles of a TIFF page: none, deflate, LZW, PackBits, LZMA, Zstandard, WebP."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO

from indexer.errors import PixelError

NONE, _LZW, _ADOBE_DEFLATE, PACKBITS, _DEFLATE, _LZMA, _ZSTD, _WEBP = 1, 5, 8, 32773, 32946, 34925, 50000, 50001
BYTEWISE = (NONE, _LZW, _ADOBE_DEFLATE, PACKBITS, _DEFLATE, _LZMA, _ZSTD, _WEBP)
_LONG = 4  # the type of a field


def unpack(raws: Sequence[bytes], compression: int, rows: int, row_bytes: int) -> bytes:
    """The segments' bytes joined, rows * row_bytes of each. Raises PixelError, also where one holds fewer."""
    nbytes = rows * row_bytes
    ways: dict[int, Callable[[bytes], bytes]] = {
        NONE: lambda raw: raw[:nbytes],
        _ADOBE_DEFLATE: lambda raw: _inflated(raw, nbytes),
        _DEFLATE: lambda raw: _inflated(raw, nbytes),
        _LZMA: lambda raw: _by_lzma(raw, nbytes),
        _WEBP: lambda raw: _by_webp(raw, rows, row_bytes),
    }
    if compression not in ways:
        return _by_libtiff(raws, compression, rows, row_bytes)
    try:
        unpacked = list(map(ways[compression], raws))
    except lzma.LZMAError as error:
        raise PixelError("corrupt image", f"TIFF: {error}") from error
    short = min(map(len, unpacked))
    if short < nbytes:
        raise PixelError("truncated", f"TIFF: {short} of {nbytes} bytes in a segment")
    return b"".join(unpacked)


def _inflated(raw: bytes, nbytes: int) -> bytes:
    """At most nbytes. Raises zlib.error, also where the checksum at the stream's end is wrong."""
    stream = zlib.decompressobj()
    data = stream.decompress(raw, nbytes)
    if not stream.eof:
        stream.decompress(stream.unconsumed_tail, 1)  # reads the checksum, where nothing comes before it
    return data


def _by_lzma(raw: bytes, nbytes: int) -> bytes:
    """As `_inflated`. Raises lzma.LZMAError."""
    stream = lzma.LZMADecompressor()
    data = stream.decompress(raw, nbytes)
    if not stream.eof and not stream.needs_input:
        stream.decompress(b"", 1)
    return data


def _by_webp(raw: bytes, rows: int, row_bytes: int) -> bytes:
    """A strip or tile that is a WebP file of its own. Raises PixelError where it has another size."""
    from PIL.WebPImagePlugin import WebPImageFile

    image = WebPImageFile(BytesIO(raw))
    modes = {3 * image.width: "RGB", 4 * image.width: "RGBA"}
    if image.height != rows or row_bytes not in modes:
        raise PixelError("corrupt image", f"TIFF: a WebP of {image.width} x {image.height} in a strip of {rows} rows")
    return image.convert(modes[row_bytes]).tobytes()


def _by_libtiff(raws: Sequence[bytes], compression: int, rows: int, row_bytes: int) -> bytes:
    """Decompress the segments as if they were the strips of one 8-bit grey image."""
    from PIL import features
    from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile

    if compression not in COMPRESSION_INFO or not features.check("libtiff"):
        raise PixelError("unsupported TIFF", f"compression {compression}")
    count = len(raws)
    offsets, end = [], 8
    for raw in raws:
        offsets.append(end)
        end += len(raw)
    lists = [struct.pack(f"<{count}I", *offsets), struct.pack(f"<{count}I", *map(len, raws))]
    places = [offsets[0], len(raws[0])] if count == 1 else [end, end + 4 * count]
    entries = {
        256: (1, row_bytes), 257: (1, rows * count), 258: (1, 8), 259: (1, compression), 262: (1, 1),
        273: (count, places[0]), 277: (1, 1), 278: (1, rows), 279: (count, places[1]),
    }  # fmt: skip
    table = b"".join(struct.pack("<HHII", tag, _LONG, n, value) for tag, (n, value) in entries.items())
    directory = struct.pack("<H", len(entries)) + table + b"\0\0\0\0"
    head = b"II*\0" + struct.pack("<I", end + 8 * count)
    image = TiffImageFile(BytesIO(b"".join([head, *raws, *lists, directory])))
    image.load()
    return image.tobytes()
