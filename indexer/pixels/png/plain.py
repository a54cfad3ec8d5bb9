"""Small PNGs that hold nothing but 8-bit grey or RGB pixels, without Pillow's file layers, which take longer than them.

Pillow's zlib decoder is called directly, so the pixels are the same. Everything else, and every file in which something
is amiss, is left to `PillowReader`.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.pixels.parts import Numbered, Raster, Rendering
from indexer.pixels.pillow import PillowReader
from indexer.types import UInt8

MOST_PIXELS = 1 << 20  # of a larger picture the layers are no matter
_MODES = {0: ("L", 1), 2: ("RGB", 3)}  # by PNG's colour type: Pillow's mode, and samples a pixel
_HARMLESS = {b"gAMA": 4, b"sRGB": 1, b"pHYs": 9, b"cHRM": 32}  # chunks that Pillow notes without using them, and sizes
_HEADER_END = 33  # of the signature and IHDR


@dataclass(frozen=True)
class PlainPng:
    """A whole file's pixels, still compressed."""

    width: int
    height: int
    colour: int  # PNG's colour type
    packed: bytes


def plain_png(data: bytes) -> PlainPng | None:
    """The content of such a file, by PNG third edition, 5.3 and 11.2; None for any other."""
    if data[8:16] != b"\0\0\0\x0dIHDR" or len(data) < _HEADER_END:
        return None
    width, height, *kind, crc = struct.unpack_from(">II5BI", data, 16)
    depth, colour, *rest = kind
    if depth != 8 or colour not in _MODES or any(rest) or not 0 < width * height <= MOST_PIXELS:
        return None
    if zlib.crc32(data[12:29]) != crc:
        return None
    at, packed = _HEADER_END, list[bytes]()
    while at + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            return None
        if name == b"IDAT":
            packed.append(data[at + 8 : end - 4])
        elif name == b"IEND":
            return PlainPng(width, height, colour, b"".join(packed)) if packed else None
        elif packed or _HARMLESS.get(name) != length or zlib.crc32(data[at + 4 : end - 4]) != _crc(data, end):
            return None
        at = end
    return None


def _crc(data: bytes, end: int) -> int:
    return int.from_bytes(data[end - 4 : end], "big")


class PlainPngReader:
    """Implements `parts.Reader` for `plain_png`'s. Raises PixelError as Pillow's reader does."""

    def __init__(self, data: bytes, content: PlainPng, rendering: Rendering) -> None:
        self._data, self._content, self._rendering = data, content, rendering
        self.parts = Numbered(1)

    def rasters(self, positions: Sequence[int]) -> Iterator[Raster]:
        for position in positions:
            pixels = pixels_of(self._content)
            if pixels is None:
                yield from PillowReader(self._data, "png", self._rendering).rasters([position])
            else:
                yield Raster(pixels)

    def close(self) -> None:
        pass


def pixels_of(png: PlainPng) -> UInt8 | None:
    """(h, w) or (h, w, 3); None where the decoder reports a fault."""
    from PIL import Image

    mode, samples = _MODES[png.colour]
    # Not by Image.frombytes, which fills it first and lets other threads run for that. Rows that a short stream lacks
    # stay zero as in a file that Pillow opens.
    image = Image.new(mode, (png.width, png.height), None)
    try:
        image.frombytes(png.packed, "zip", mode, 0)
    except (ValueError, MemoryError):
        return None
    pixels = np.frombuffer(image.tobytes(), np.uint8)
    return pixels.reshape((png.height, png.width) if samples == 1 else (png.height, png.width, samples))
