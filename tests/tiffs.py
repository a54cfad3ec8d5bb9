"""TIFF files written value by value from TIFF 6.0 and its technical notes, to be read by what is tested."""

from __future__ import annotations

import io
import lzma
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

COMPRESSIONS = {
    "none": 1,
    "lzw": 5,
    "deflate": 8,
    "packbits": 32773,
    "old deflate": 32946,
    "lzma": 34925,
    "zstd": 50000,
}
_FORMATS = {"u": 1, "i": 2, "f": 3}
_BY_LIBTIFF = {"lzw": "tiff_lzw", "packbits": "packbits", "zstd": "zstd"}


def tiff_of(
    values: np.ndarray,
    photometric: int,
    *,
    order: str = "<",
    compression: str = "none",
    predictor: int = 1,
    planar: int = 1,
    tile: int = 0,
    bits: int | None = None,
    fill_order: int = 1,
    rows: int = 5,
    tags: dict[int, tuple[int, ...]] | None = None,
) -> bytes:
    """(h, w, samples) as one page of strips of `rows` rows, or of square tiles. `bits`: fewer than the type has."""
    height, width, samples = values.shape
    bits = bits or 8 * values.dtype.itemsize
    segments = []
    for plane in np.split(values, samples, axis=2) if planar == 2 else [values]:
        for top in range(0, height, tile or rows):
            for left in range(0, width, tile or width):
                block = plane[top : top + (tile or rows), left : left + (tile or width)]
                if tile:
                    edge = [(0, tile - block.shape[0]), (0, tile - block.shape[1]), (0, 0)]
                    block = np.pad(block, edge, mode="edge")
                segments.append(_packed(block, order, compression, predictor, bits, fill_order))
    entries = {
        256: (width,), 257: (height,), 258: (bits,) * samples, 259: (COMPRESSIONS[compression],), 262: (photometric,),
        266: (fill_order,), 277: (samples,), 284: (planar,), 317: (predictor,),
        339: (_FORMATS[values.dtype.kind],) * samples,
    }  # fmt: skip
    places = (322, 323, 324, 325) if tile else (None, 278, 273, 279)
    if tile:
        entries |= {322: (tile,), 323: (tile,)}
    else:
        entries |= {278: (rows,)}
    at, offsets, body = 8, [], b""
    for segment in segments:
        offsets.append(at + len(body))
        body += segment + b"\0" * (len(segment) % 2)
    entries |= {places[2]: tuple(offsets), places[3]: tuple(map(len, segments))} | (tags or {})
    return _file(order, body, entries)


def _file(order: str, body: bytes, entries: dict[int, tuple[int, ...]]) -> bytes:
    """Every value is a LONG but those that readers expect as SHORT."""
    start = 8 + len(body)
    extra, table = b"", b""
    after = start + 2 + 12 * len(entries) + 4
    for tag, numbers in sorted(entries.items()):
        long = tag in (256, 257, 273, 278, 279, 322, 323, 324, 325)
        data = struct.pack(f"{order}{len(numbers)}{'I' if long else 'H'}", *numbers)
        if len(data) <= 4:
            table += struct.pack(f"{order}HHI", tag, 4 if long else 3, len(numbers)) + data.ljust(4, b"\0")
        else:
            table += struct.pack(f"{order}HHII", tag, 4 if long else 3, len(numbers), after + len(extra))
            extra += data + b"\0" * (len(data) % 2)
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, start)
    return head + body + struct.pack(f"{order}H", len(entries)) + table + b"\0" * 4 + extra


def _packed(block: np.ndarray, order: str, compression: str, predictor: int, bits: int, fill_order: int) -> bytes:
    rows, width, samples = block.shape
    if predictor == 2:
        block = np.concatenate([block[:, :1], np.diff(block, axis=1)], axis=1).astype(block.dtype)
    if predictor == 3:
        bigs = np.ascontiguousarray(block.astype(block.dtype.newbyteorder(">"))).view(np.uint8)
        spread = bigs.reshape(rows, width * samples, -1).transpose(0, 2, 1).reshape(rows, -1, samples)
        data = np.concatenate([spread[:, :1], np.diff(spread, axis=1)], axis=1).astype(np.uint8).tobytes()
    elif bits == 8 * block.dtype.itemsize:
        data = block.astype(block.dtype.newbyteorder(order)).tobytes()
    else:
        wide = np.unpackbits(block.astype(">u4").reshape(rows, -1, 1).view(np.uint8), axis=2)[..., 32 - bits :]
        data = np.packbits(wide.reshape(rows, -1), axis=1).tobytes()
    data = compress(data, compression, rows)
    if fill_order == 2:
        data = np.packbits(
            np.unpackbits(np.frombuffer(data, np.uint8).reshape(-1, 1), axis=1)[:, ::-1], axis=1
        ).tobytes()
    return data


def compress(data: bytes, compression: str, rows: int) -> bytes:
    """`rows` rows of bytes, by zlib, xz or libtiff's own encoder."""
    if compression == "none":
        return data
    if "deflate" in compression:
        return zlib.compress(data)
    if compression == "lzma":
        return lzma.compress(data)
    file = io.BytesIO()
    width = len(data) // rows
    Image.frombytes("L", (width, rows), data).save(
        file, "TIFF", compression=_BY_LIBTIFF[compression], tiffinfo={278: rows}
    )
    tags: Any = TiffImageFile(io.BytesIO(file.getvalue())).tag_v2
    assert len(tags[273]) == 1
    return file.getvalue()[tags[273][0] : tags[273][0] + tags[279][0]]
