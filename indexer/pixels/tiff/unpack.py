"""Decompresses strips and tiles of a TIFF page: none, deflate, LZW, PackBits, LZMA, Zstandard."""

from __future__ import annotations

import lzma
import struct
import zlib
from collections.abc import Callable, Sequence
from io import BytesIO

from indexer.errors import PixelError

_NONE, _LZW, _ADOBE_DEFLATE, _PACKBITS, _DEFLATE, _LZMA, _ZSTD = 1, 5, 8, 32773, 32946, 34925, 50000
BYTEWISE = (_NONE, _LZW, _ADOBE_DEFLATE, _PACKBITS, _DEFLATE, _LZMA, _ZSTD)
_LONG = 4  # the type of a field


def unpack(raws: Sequence[bytes], compression: int, rows: int, row_bytes: int) -> bytes:
    """The segments' bytes joined, rows * row_bytes of each. Raises PixelError, also where one holds fewer."""
    nbytes = rows * row_bytes
    ways: dict[int, Callable[[bytes], bytes]] = {
        _NONE: lambda raw: raw[:nbytes],
        _ADOBE_DEFLATE: lambda raw: zlib.decompressobj().decompress(raw, nbytes),
        _DEFLATE: lambda raw: zlib.decompressobj().decompress(raw, nbytes),
        _LZMA: lambda raw: lzma.LZMADecompressor().decompress(raw, nbytes),
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
