"""Small plain PNGs that are decoded many at once have the pixels that each has alone."""

from __future__ import annotations

import io
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from indexer.pixels import decode
from indexer.pixels.png.small import SmallPictures
from indexer.types import PixelSpec

SPEC = PixelSpec(size=32, resize=36)


def png(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", **options)
    return file.getvalue()


def noise(*shape: int, seed: int = 5) -> np.ndarray:
    """Smooth and rough, so that the encoder takes every filter of PNG's."""
    rng = np.random.default_rng(seed)
    smooth = np.cumsum(np.cumsum(rng.integers(0, 4, shape), 0), 1)
    return np.where(rng.random(shape) < 0.5, rng.integers(0, 256, shape), smooth % 256).astype(np.uint8)


def alone(image: bytes, spec: PixelSpec) -> np.ndarray:
    return next(iter(decode(image, "png", spec))).pixels


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
def test_many_at_once_have_the_pixels_that_each_has_alone(fit: str, interpolation: str) -> None:
    spec = replace(SPEC, fit=fit, interpolation=interpolation)
    sides = [(28, 28), (28, 28), (17, 30), (30, 17), (1, 1), (1, 8), (128, 128), (36, 36), (100, 20), (40, 50), (3, 2)]
    shapes = [*sides, *((*side, 3) for side in sides), *[(28, 28)] * 20, *[(9, 9, 3)] * 9]
    images = [png(noise(*shape, seed=i)) for i, shape in enumerate(shapes)]
    together = SmallPictures(spec).squares(images)
    for image, square in zip(images, together, strict=True):
        assert square is not None
        assert (square == alone(image, spec)).all()


def test_what_is_not_a_small_plain_png_is_left_to_the_decoder_of_every_kind() -> None:
    whole = png(noise(28, 28))
    head, tail = whole.split(b"IDAT", 1)
    spoilt = bytearray(whole)
    spoilt[len(head) + 4 + len(tail) // 2] ^= 0xFF
    dicom = bytearray(png(noise(60, 60)))
    dicom[128:132] = b"DICM"
    jpeg = io.BytesIO()
    Image.fromarray(noise(28, 28)).save(jpeg, "JPEG")
    images = [
        b"", b"\x89PNG\r\n\x1a\n", whole[:-20], bytes(spoilt), bytes(dicom), jpeg.getvalue(),
        png(noise(28, 28, 4)), png(noise(28, 28) > 127), png(noise(28, 28).astype(np.uint16)),
        png(noise(129, 128)), png(noise(4, 120)), b"x" + whole[1:],
    ]  # fmt: skip
    squares = SmallPictures(SPEC).squares([*images, whole])
    assert squares[:-1] == [None] * len(images)
    assert squares[-1] is not None
    assert SmallPictures(SPEC).squares([]) == []


def test_rows_that_a_short_stream_lacks_are_black_whatever_was_decoded_before() -> None:
    pixels = noise(28, 28) | 1
    start = png(pixels).index(b"IDAT") - 4
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels[:10]))
    chunk = b"IDAT" + rows
    short = png(pixels)[:start] + len(rows).to_bytes(4, "big") + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    short += b"\0\0\0\0IEND\xaeB`\x82"
    spec = replace(SPEC, size=28, resize=28)
    expected = np.where(np.arange(28)[:, None] < 10, pixels, 0)
    for square in SmallPictures(spec).squares([png(pixels), short])[1:]:
        with Image.open(io.BytesIO(short)) as opened:
            assert (np.asarray(opened) == expected).all()
        assert square is not None
        assert (square == expected[..., None]).all()
