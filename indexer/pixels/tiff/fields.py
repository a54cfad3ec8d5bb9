"""Fields of a TIFF directory that are missing or cannot be read: tifffile passes over these and takes the default."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from indexer.errors import PixelError

ORIENTATION, _PHOTOMETRIC = 274, 262
_NEEDED = {  # without them the values would be decoded in another way than they were written
    256: "ImageWidth", 257: "ImageLength", 258: "BitsPerSample", 259: "Compression", 262: "PhotometricInterpretation",
    266: "FillOrder", 273: "StripOffsets", 277: "SamplesPerPixel", 278: "RowsPerStrip", 279: "StripByteCounts",
    284: "PlanarConfiguration", 292: "T4Options", 317: "Predictor", 320: "ColorMap", 322: "TileWidth",
    323: "TileLength", 324: "TileOffsets", 325: "TileByteCounts", 332: "InkSet", 338: "ExtraSamples",
    339: "SampleFormat", 347: "JPEGTables", 529: "YCbCrCoefficients", 530: "YCbCrSubSampling",
    532: "ReferenceBlackWhite", 32997: "ImageDepth",
}  # fmt: skip
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, MASK, CMYK, YCBCR = 0, 1, 2, 3, 4, 5, 6  # PhotometricInterpretation


def refuse_unread(page: Any, data: bytes) -> None:
    """Raise PixelError where the directory holds a field that decides the values and tifffile could not read it."""
    lost = [_NEEDED[code] for code in sorted(_codes(page, data) - _read(page)) if code in _NEEDED]
    if lost:
        raise PixelError("corrupt image", f"TIFF: unreadable {', '.join(lost)}")


def orientation(page: Any, data: bytes) -> tuple[int, tuple[str, ...]]:
    """1 to 8, and a flag where the field is there without such a value."""
    tag = page.tags.get(ORIENTATION)
    if tag is not None and isinstance(tag.value, int) and 1 <= int(tag.value) <= 8:
        return int(tag.value), ()
    return 1, ("unreadable Orientation",) if ORIENTATION in _codes(page, data) else ()


def photometric(page: Any) -> tuple[int, tuple[str, ...]]:
    """PhotometricInterpretation; where it is missing, as libtiff guesses, and a flag."""
    if _PHOTOMETRIC in page.tags:
        return int(page.photometric), ()
    guess = RGB if int(page.samplesperpixel) >= 3 else BLACK_IS_ZERO
    return guess, ("no PhotometricInterpretation in file",)


def fractions(page: Any, name: str, default: tuple[float, ...]) -> tuple[tuple[float, ...], tuple[str, ...]]:
    """The values of a RATIONAL field, `default` where there is none; and a flag where they are of another kind."""
    tag = page.tags.get(name)
    if tag is None:
        return default, ()
    pairs = np.asarray(tag.value, np.float64).reshape(-1, 2) if len(np.ravel(tag.value)) == 2 * len(default) else None
    if pairs is None or not pairs[:, 1].all():
        return default, (f"unreadable {name}",)
    return tuple((pairs[:, 0] / pairs[:, 1]).tolist()), ()


def _read(page: Any) -> set[int]:
    return {tag.code for tag in page.tags}


def _codes(page: Any, data: bytes) -> set[int]:
    """The codes of all entries of the page's directory."""
    form = page.parent.tiff
    (count,) = struct.unpack_from(form.tagnoformat, data, page.offset)
    start = page.offset + form.tagnosize
    return {
        struct.unpack_from(f"{form.byteorder}H", data, start + i * form.tagsize)[0]
        for i in range(min(count, (len(data) - start) // form.tagsize))
    }
