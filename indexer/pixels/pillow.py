"""PNG, WebP, BMP, GIF, PNM, and rare forms of JPEG and TIFF, by Pillow.

The plugins are called directly: Image.open would try every format it knows and warn about large images.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.errors import PixelError
from indexer.pixels.animation import start_seconds
from indexer.pixels.decoder_errors import DECODER_ERRORS, named, raster_errors
from indexer.pixels.grey import GreyScale, render
from indexer.pixels.limits import PLAIN_BYTES, check_size, decoded_bytes
from indexer.pixels.parts import Numbered, Raster, Rendering
from indexer.pixels.window import WindowRule
from indexer.types import UInt8

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

_DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
_PNG_DEPTH, _PNG_COLOUR = 24, 25  # bytes of the IHDR chunk
_GREY_ALPHA_16, _RGBA_8 = bytes([16, 4]), bytes([8, 6])  # depth and colour type


class PillowReader:
    """Reader by Pillow; the parts are the frames of an animation. Raises PixelError."""

    def __init__(self, data: bytes, kind: str, rendering: Rendering) -> None:
        self._kind, self._rendering = kind, rendering
        self._grey_alpha = kind == "png" and data[_PNG_DEPTH : _PNG_COLOUR + 1] == _GREY_ALPHA_16
        if self._grey_alpha:
            data = _as_rgba(data)
        try:
            self._image = _plugin(kind)(BytesIO(data))
            check_size(self._image.height, self._image.width)
            count = getattr(self._image, "n_frames", 1)
        except raster_errors() as error:
            raise named(error, kind) from error
        # Pillow keeps the upper byte of 16-bit colour
        self._deep = kind == "png" and data[_PNG_DEPTH] == 16 and data[_PNG_COLOUR] not in (0, 4)
        starts = start_seconds(kind, data) if count > 1 else {}
        self.nbytes = decoded_bytes(self._image.height, self._image.width)
        self.parts = Numbered(count, lambda position: {"time": starts[position]} if position in starts else {})

    def rasters(self, positions: Sequence[int]) -> Iterator[Raster]:
        for position in positions:
            picture, flags = _loaded(self._image, position, self._kind, isolated=self._rendering.isolated)
            if self._deep:
                flags = (*flags, "16-bit colour reduced to 8 bits")
            flat = _grey_on_black if self._grey_alpha else _flat
            pixels, more = flat(picture, self._kind, self._rendering.rules)
            yield Raster(pixels, flags=(*flags, *more))

    def close(self) -> None:
        pass


def _plugin(kind: str) -> type[ImageFile]:
    from PIL import (
        BmpImagePlugin,
        GifImagePlugin,
        JpegImagePlugin,
        PngImagePlugin,
        PpmImagePlugin,
        TiffImagePlugin,
        WebPImagePlugin,
    )

    plugins: dict[str, type[ImageFile]] = {
        "png": PngImagePlugin.PngImageFile,
        "webp": WebPImagePlugin.WebPImageFile,
        "bmp": BmpImagePlugin.BmpImageFile,
        "gif": GifImagePlugin.GifImageFile,
        "pnm": PpmImagePlugin.PpmImageFile,
        "jpeg": JpegImagePlugin.JpegImageFile,
        "tiff": TiffImagePlugin.TiffImageFile,
    }
    return plugins[kind]


def _loaded(image: ImageFile, index: int, kind: str, *, isolated: bool) -> tuple[Any, tuple[str, ...]]:
    """One frame, decoded and oriented by its EXIF."""
    try:
        if index or image.tell():
            image.seek(index)
            check_size(image.height, image.width)
            if not isolated and decoded_bytes(image.height, image.width) > PLAIN_BYTES:  # a GIF's frame may enlarge it
                raise PixelError("corrupt image", f"frame {index + 1} is far larger than its header announces")
        image.load()
    except raster_errors() as error:
        raise named(error, kind) from error
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image), ()
    except DECODER_ERRORS:
        return image, ("unreadable EXIF",)


def _flat(image: Any, kind: str, rules: tuple[WindowRule, ...]) -> tuple[UInt8, tuple[str, ...]]:
    """Any Pillow mode → (h, w) or (h, w, 3) uint8: depth windowed, palette expanded, alpha composited on black."""
    if image.mode in _DEEP_GREY:
        values, clear = np.asarray(image), image.info.get("transparency")  # of PNG: the grey value that is transparent
        whole = np.issubdtype(values.dtype, np.integer)
        if image.mode == "I" and values.size and values.min() >= 0 and values.max() <= 0xFFFF:
            values = values.astype(np.uint16)  # Pillow gives a 16-bit PGM or PNG as 32-bit integers
        full = (0.0, 65535.0) if whole and values.dtype.itemsize == 2 else None
        pixels, flags = render(values, GreyScale(full=full), rules)
        return (
            (pixels, flags) if clear is None else (over_black(pixels, 255 * (values != clear).astype(np.uint8)), flags)
        )
    try:
        if image.has_transparency_data:
            red_green_blue_alpha = np.asarray(image.convert("RGBA"))
            return over_black(red_green_blue_alpha[..., :3], red_green_blue_alpha[..., 3]), ()
        return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB")), ()
    except raster_errors() as error:
        raise named(error, kind) from error


def _as_rgba(data: bytes) -> bytes:
    """A PNG of 16-bit grey and alpha, relabelled as 8-bit RGBA: the same four bytes a pixel, and the same filters.

    Pillow would keep only the upper bytes, so that 12-bit values would be nearly black.
    """
    header = data[12:_PNG_DEPTH] + _RGBA_8 + data[_PNG_COLOUR + 1 : 29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


def _grey_on_black(image: Any, kind: str, rules: tuple[WindowRule, ...]) -> tuple[UInt8, tuple[str, ...]]:
    """Restore the 16-bit grey and alpha that `_as_rgba` relabelled: windowed, then composited on black."""
    del kind
    values = np.ascontiguousarray(np.asarray(image)).view(">u2").astype(np.uint16)  # (h, w, 2)
    pixels, flags = render(values[..., 0], GreyScale(full=(0.0, 65535.0)), rules)
    opacity = values[..., 1] / 65535.0
    shown: UInt8 = np.rint(pixels * (opacity if pixels.ndim == 2 else opacity[..., None])).astype(np.uint8)
    return shown, flags


def over_black(colour: UInt8, alpha: UInt8) -> UInt8:
    """Composite straight alpha on black: colour · alpha / 255, rounded."""
    opacity = alpha.astype(np.uint16)
    product = colour.astype(np.uint16) * (opacity if colour.ndim == 2 else opacity[..., None]) + 127
    return (product // 255).astype(np.uint8)
