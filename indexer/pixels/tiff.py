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
from indexer.pixels.frames import Frame, FrameRequest, wanted
from indexer.pixels.grey import GreyScale, render
from indexer.pixels.isolated import isolated_frames
from indexer.pixels.jpeg import orient
from indexer.pixels.limits import MAX_INFLATED, check_size
from indexer.pixels.raster import over_black, raster_frames
from indexer.pixels.window import WindowRule
from indexer.types import UInt8

_NONE, _ADOBE_DEFLATE, _DEFLATE = 1, 8, 32946
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB = 0, 1, 2
_SEPARATE = 2  # PlanarConfiguration
_ORIENTATION = 274
_STRAIGHT_ALPHA = 2
_THUMBNAIL = 1  # NewSubfileType's lowest bit: a reduced copy of another page


def tiff_frames(data: bytes, request: FrameRequest) -> Iterator[Frame]:
    """The pages of a TIFF, reduced copies left out, decoded elsewhere. Raises PixelError.

    A damaged directory can send tifffile through endless pages, and libtiff has a history of its own.
    """
    if not request.isolated:
        yield from isolated_frames("tiff", data, request)
        return
    from tifffile import TiffFile

    try:
        with TiffFile(BytesIO(data)) as file:
            pages = _pages(file)
            indices = wanted(request.frames, len(pages))
            chosen = [pages[index] for index in indices]
            _check(chosen)
            if all(_ours(page) for page in chosen):
                for index, page in zip(indices, chosen, strict=True):
                    yield _frame(index, page, request.rules)
                return
    except DECODER_ERRORS as error:
        raise named(error, "TIFF") from error
    yield from raster_frames(data, "tiff", request)


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


def _frame(index: int, page: Any, rules: tuple[WindowRule, ...]) -> Frame:
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
    return Frame(index, orient(pixels, int(tag.value) if tag else 1), flags=flags)


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
