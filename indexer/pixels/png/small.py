"""Small plain PNGs, many at once: at 28 px, what each costs besides its resizing took longer than that."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from indexer.pixels.fit import is_strip, squares
from indexer.pixels.png.plain import pixels_of, plain_png
from indexer.pixels.sniff import by_magic
from indexer.types import PixelSpec, UInt8

SMALL_PIXELS = 128 * 128  # of a larger picture, decoding and resizing are nearly all
SMALL_BYTES = 1 << 17  # of its file: the pixels uncompressed, and what stands around them
AT_ONCE = 8  # squares resized by one call: what they take stays in the cache


class SmallPictures:
    """Implements `pipeline.worker.Decoder`: the small plain PNGs of a chunk, to the same bits as one by one.

    Each call of the decoder's and of torch's lets other threads run, and waits for its turn again: with pictures of
    28 px two threads then waited for most of their time.
    """

    difference: float | None = None
    at_once = 64

    def __init__(self, spec: PixelSpec) -> None:
        self._spec = spec

    def squares(self, images: Sequence[bytes]) -> list[UInt8 | None]:
        """Pixels (size, size, 3) of each small plain PNG, None for any other image, and for one that is damaged."""
        found: list[UInt8 | None] = [None] * len(images)
        rasters = defaultdict[tuple[int, ...], list[tuple[int, UInt8]]](list)
        for i, image in enumerate(images):
            if len(image) <= SMALL_BYTES and by_magic(image) == "png" and (pixels := _pixels(image)) is not None:
                rasters[pixels.shape].append((i, pixels))
        for own in rasters.values():
            for start in range(0, len(own), AT_ONCE):
                some = own[start : start + AT_ONCE]
                fitted = squares([pixels for _, pixels in some], self._spec)
                for (i, _), square in zip(some, fitted, strict=True):
                    found[i] = square
        return found


def _pixels(image: bytes) -> UInt8 | None:
    content = plain_png(image)
    if content is None or content.width * content.height > SMALL_PIXELS or is_strip(content.height, content.width):
        return None
    return pixels_of(content)
