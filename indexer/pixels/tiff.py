"""TIFF: tifffile for what it reads by itself (any depth, floats), Pillow's libtiff for the other compressions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.failing import DECODER_ERRORS, named
from indexer.pixels.frames import Frame, wanted
from indexer.pixels.grey import GreyScale, render
from indexer.pixels.jpeg import orient
from indexer.pixels.limits import MAX_INFLATED, check_size
from indexer.pixels.raster import over_black, raster_frames
from indexer.pixels.window import WindowRule
from indexer.types import UInt8

_NONE, _DEFLATE, _ADOBE_DEFLATE = 1, 32946, 8
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_ORIENTATION = 274
_STRAIGHT_ALPHA = 2
_THUMBNAIL = 1  # NewSubfileType's lowest bit: a reduced copy of another page


def tiff_frames(data: bytes, frames: str | int, rules: tuple[WindowRule, ...]) -> Iterator[Frame]:
    """The pages of a TIFF, reduced copies left out. Raises PixelError."""
    from tifffile import TiffFile

    try:
        with TiffFile(BytesIO(data)) as file:
            pages = [page for page in file.pages if not int(getattr(page, "subfiletype", 0)) & _THUMBNAIL]
            indices = wanted(frames, len(pages))
            for page in (pages[index] for index in indices):
                check_size(page.imagelength, page.imagewidth)
            ours = all(_ours(pages[index]) for index in indices)
            if ours:
                for index in indices:
                    pixels, flags = _picture(_stored(pages[index]), pages[index], rules)
                    yield Frame(index, pixels, flags=flags)
    except DECODER_ERRORS as error:
        raise named(error, "TIFF") from error
    if not ours:
        yield from raster_frames(data, "tiff", frames, rules)


def _ours(page: Any) -> bool:
    """Is this page read by tifffile alone, without the codecs it has no licence-free copy of."""
    plain = page.compression in (_NONE, _DEFLATE, _ADOBE_DEFLATE)
    return (
        plain and page.photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB) and page.bitspersample in (8, 16, 32, 64)
    )


def _stored(page: Any) -> npt.NDArray[Any]:
    """(h, w) or (h, w, channels) as stored."""
    if page.nbytes > MAX_INFLATED:
        raise PixelError("too many pixels", f"{page.nbytes:,} bytes in one page")
    values: npt.NDArray[Any] = np.asarray(page.asarray(maxworkers=1))
    if values.ndim == 3 and page.planarconfig == 2:
        values = np.moveaxis(values, 0, -1)
    if values.ndim not in (2, 3):
        raise PixelError("unsupported TIFF", f"a page of shape {values.shape}")
    tag = page.tags.get(_ORIENTATION)
    turned: npt.NDArray[Any] = orient(values, int(tag.value) if tag else 1)
    return turned


def _picture(values: npt.NDArray[Any], page: Any, rules: tuple[WindowRule, ...]) -> tuple[UInt8, tuple[str, ...]]:
    channels = 1 if values.ndim == 2 else values.shape[2]
    colours = 3 if page.photometric == _RGB else 1
    if channels not in (colours, colours + 1):
        raise PixelError("unsupported TIFF", f"{channels} channels")
    alpha = values[..., -1] if channels > colours else None
    values = values if values.ndim == 2 else values[..., :colours]
    if values.ndim == 3 and colours == 1:
        values = values[..., 0]
    flags: tuple[str, ...] = ()
    if values.dtype == np.uint8:
        pixels = 255 - values if page.photometric == _WHITE_IS_ZERO else values
    else:
        pixels, flags = _deep(values, page, rules)
    if alpha is not None and alpha.dtype == np.uint8 and _STRAIGHT_ALPHA in page.extrasamples:
        pixels = over_black(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, -1), alpha)
    return pixels, flags


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
