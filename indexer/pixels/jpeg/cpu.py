"""JPEG files by libjpeg-turbo, reduced while decoding where the image is far larger than the encoder's square."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from indexer.errors import PixelError
from indexer.pixels.announced import announced_bytes
from indexer.pixels.fit import is_strip, reduction
from indexer.pixels.limits import PLAIN_BYTES, check_size
from indexer.pixels.parts import Numbered, Raster, Rendering
from indexer.types import PixelSpec, UInt8

MOST_SCANS = 16  # of a large JPEG that a GPU decodes; progressive ones have some ten

_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})  # markers without a length


class JpegReader:
    """Reader of a JPEG file, which has one part. The file is read when its pixels are requested."""

    parts = Numbered(1)

    def __init__(self, data: bytes, rendering: Rendering) -> None:
        self._data, self._spec = data, rendering.fitted_to

    def rasters(self, positions: Sequence[int]) -> Iterator[Raster]:
        for _ in positions:
            yield _raster(self._data, self._spec)

    def close(self) -> None:
        pass


def _raster(data: bytes, spec: PixelSpec | None) -> Raster:
    """Decode. Raises PixelError where the file is damaged or truncated, or an unsupported kind of JPEG."""
    import simplejpeg

    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
        check_size(height, width)
        if colour in ("CMYK", "YCCK"):
            from indexer.pixels.pillow import PillowReader

            (raster,) = PillowReader(data, "jpeg", Rendering()).rasters([0])
            return raster
        orientation, flags = exif_orientation(data)
        factor = _reduction(height, width, orientation, spec) if spec else 1
        pixels = simplejpeg.decode_jpeg(
            data,
            colorspace="GRAY" if colour == "Gray" else "RGB",
            min_height=-(-height // factor) if factor > 1 else 0,
            min_width=-(-width // factor) if factor > 1 else 0,
        )
    except ValueError as error:
        reason = "truncated" if "remature end" in str(error) else "corrupt image"
        raise PixelError(reason, f"JPEG: {error}") from error
    if pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    return Raster(orient(pixels, orientation), flags=flags)


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(height, width) of a plain JPEG, which all decoders decode equally except for rounding; None for others.

    Plain: grey or YCbCr, upright, complete, within the size limits, not a strip, and without more scans than an image
    of PLAIN_BYTES takes: nothing ends a decoder on a GPU that has been given hours of work.
    """
    import simplejpeg

    if data[:3] != b"\xff\xd8\xff" or data.rstrip(b"\0")[-2:] != b"\xff\xd9":
        return None
    try:
        height, width, colour, _ = simplejpeg.decode_jpeg_header(data)
        check_size(height, width)
        work = announced_bytes("jpeg", data)
    except (ValueError, PixelError):
        return None  # `_raster` reports the error
    if work > max(PLAIN_BYTES, MOST_SCANS * height * width):
        return None
    upright = exif_orientation(data) == (1, ())
    return (height, width) if upright and colour in ("Gray", "YCbCr") and not is_strip(height, width) else None


def plain_sizes(images: Sequence[bytes]) -> dict[int, tuple[int, int]]:
    """Height and width of each plain JPEG, by its index."""
    return {i: size for i, data in enumerate(images) if (size := plain_size(data))}


def _reduction(height: int, width: int, orientation: int, spec: PixelSpec) -> int:
    if orientation >= 5:
        height, width = width, height
    return reduction(height, width, spec)


def exif_orientation(data: bytes) -> tuple[int, tuple[str, ...]]:
    """EXIF orientation 1..8 (1 where the file has none), and a flag where its EXIF block cannot be read."""
    block = _exif_block(data)
    if not block:
        return 1, ()
    from indexer.pixels.decoder_errors import DECODER_ERRORS

    try:
        from PIL import Image

        exif = Image.Exif()
        exif.load(block)
        value = exif.get(0x0112, 1)
    except DECODER_ERRORS:
        return 1, ("unreadable EXIF",)
    return (value, ()) if value in range(1, 9) else (1, ())


def _exif_block(data: bytes) -> bytes:
    """The first APP1 segment with EXIF before the image data; empty where there is none."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        if marker == _START_OF_SCAN:
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == _APP1 and data[at + 4 : at + 10] == b"Exif\0\0":
            return data[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)
    return b""


def orient(pixels: UInt8, orientation: int) -> UInt8:
    """The image turned and mirrored by its EXIF orientation 1..8 (EXIF 2.32, tag 274)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
