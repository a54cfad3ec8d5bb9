"""Size limits of one image, checked from its header before its pixels are decoded."""

from __future__ import annotations

from indexer.errors import PixelError
from indexer.memory.budget import MAX_IMAGE

MAX_PIXELS = 200_000_000  # of one part; the largest digital mammograms and film scans stay below 100 million
PLAIN_BYTES = 256 << 20  # of memory that decoding takes; an image that announces more is decoded in a child process
MAX_INFLATED = 4 << 30  # of a gzipped or deflated file, after decompression


def check_size(height: int, width: int) -> None:
    """Raise PixelError where a part of this size is empty or larger than the limit."""
    if height <= 0 or width <= 0:
        raise PixelError("empty image", f"{width} x {height} pixels")
    if height * width > MAX_PIXELS:
        raise PixelError("too many pixels", f"{width} x {height}, over the limit of {MAX_PIXELS:,}")


def check_bytes(nbytes: int) -> None:
    """Raise PixelError where a file of this size is empty or larger than the limit."""
    if nbytes == 0:
        raise PixelError("empty file")
    if nbytes > MAX_IMAGE:
        raise PixelError("file too large", f"{nbytes:,} bytes, over the limit of {MAX_IMAGE:,}")


def decoded_bytes(height: int, width: int) -> int:
    """Memory that Pillow takes at most for an image: four samples a pixel, and their conversion to three."""
    return 8 * height * width
