"""TIFF: tifffile for what it reads by itself (any depth, floats), Pillow's libtiff for the other compressions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.decoder_errors import DECODER_ERRORS, named
from indexer.pixels.grey import GreyScale, render
from indexer.pixels.isolated import IsolatedReader
from indexer.pixels.jpeg import orient
from indexer.pixels.limits import MAX_INFLATED, check_size
from indexer.pixels.parts import Facts, Numbered, Raster, Reader, Rendering
from indexer.pixels.pillow import PillowReader, over_black
from indexer.pixels.window import WindowRule
from indexer.types import UInt8

_NONE, _ADOBE_DEFLATE, _DEFLATE = 1, 8, 32946
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_SEPARATE = 2  # PlanarConfiguration
_ORIENTATION = 274
_STRAIGHT_ALPHA = 2
_THUMBNAIL = 1  # NewSubfileType's lowest bit: a reduced copy of another page


def open_tiff(data: bytes, rendering: Rendering) -> Reader:
    """A TIFF, opened elsewhere: a damaged directory can send tifffile through endless pages, and libtiff crashes."""
    return TiffReader(data, rendering) if rendering.isolated else IsolatedReader("tiff", data, rendering)


class TiffReader:
    """The pages of a TIFF, reduced copies left out. Raises PixelError."""

    def __init__(self, data: bytes, rendering: Rendering) -> None:
        from tifffile import TiffFile

        self._data, self._rendering = data, rendering
        try:
            self._file = TiffFile(BytesIO(data))
            self._pages = _pages(self._file)
        except DECODER_ERRORS as error:
            raise named(error, "TIFF") from error
        self.parts = Numbered(len(self._pages), self._facts)
        self._pillow: PillowReader | None = None

    def rasters(self, positions: Sequence[int]) -> Iterator[Raster]:
        for position in positions:
            page = self._pages[position]
            try:
                _check([page])
                raster = _raster(page, self._rendering.rules) if _ours(page) else None
            except DECODER_ERRORS as error:
                raise named(error, "TIFF") from error
            yield raster or self._by_pillow(page)

    def close(self) -> None:
        self._file.close()

    def _facts(self, position: int) -> Facts:
        return {"page": self._pages[position].index} if len(self._pages) > 1 else {}

    def _by_pillow(self, page: Any) -> Raster:
        if self._pillow is None:
            self._pillow = PillowReader(self._data, "tiff", self._rendering)
        (raster,) = self._pillow.rasters([page.index])
        return raster


def _pages(file: Any) -> list[Any]:
    return [page for page in file.pages if not int(getattr(page, "subfiletype", 0)) & _THUMBNAIL]


def _check(pages: Sequence[Any]) -> None:
    for page in pages:
        check_size(page.imagelength, page.imagewidth)
        if page.nbytes > MAX_INFLATED:
            raise PixelError("too many pixels", f"{page.nbytes:,} bytes in one page")


def _ours(page: Any) -> bool:
    """Is this page read by tifffile alone, without a codec that it looks for elsewhere."""
    plain = page.compression in (_NONE, _ADOBE_DEFLATE, _DEFLATE)
    return (
        plain and page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) and page.bitspersample in (8, 16, 32, 64)
    )


def _raster(page: Any, rules: tuple[WindowRule, ...]) -> Raster:
    values: npt.NDArray[Any] = np.asarray(page.asarray(maxworkers=1))
    if values.ndim == 3 and page.planarconfig == _SEPARATE:
        values = np.moveaxis(values, 0, -1)
    colours = 3 if page.photometric == _RGB else 1
    channels = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or channels not in (colours, colours + 1):
        raise PixelError("unsupported TIFF", f"a page of shape {values.shape}")
    alpha = values[..., -1] if channels > colours else None
    if values.ndim == 3:
        values = values[..., :3] if colours == 3 else values[..., 0]
    flags: tuple[str, ...] = ()
    if values.dtype == np.uint8:
        pixels = 255 - values if page.photometric == _WHITE_IS_ZERO else values
    else:
        pixels, flags = _deep(values, page, rules)
    if alpha is not None and alpha.dtype == np.uint8 and _STRAIGHT_ALPHA in page.extrasamples:
        pixels = over_black(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1), alpha)
    tag = page.tags.get(_ORIENTATION)
    return Raster(orient(pixels, int(tag.value) if tag else 1), flags=flags)


def _deep(values: npt.NDArray[Any], page: Any, rules: tuple[WindowRule, ...]) -> tuple[UInt8, tuple[str, ...]]:
    """More than 8 bits: windowed; a colour picture by its whole range unless asked otherwise, all channels alike."""
    full = None
    if np.issubdtype(values.dtype, np.integer) and values.dtype.itemsize <= 2:
        full = (float(np.iinfo(values.dtype).min), float(np.iinfo(values.dtype).max))
    scale = GreyScale(full=full, invert=page.photometric == _WHITE_IS_ZERO)
    if values.ndim == 2:
        return render(values, scale, rules)
    scale = replace(scale, plain=full is not None)
    pixels, flags = render(values.reshape(values.shape[0], -1), scale, rules[:1])
    return pixels.reshape(values.shape), ("16-bit colour reduced to 8 bits", *flags)
