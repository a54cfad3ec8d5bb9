"""`decode`: any image's bytes → the encoder's square, a frame at a time."""

from __future__ import annotations

from collections.abc import Iterator

from indexer.errors import PixelError
from indexer.pixels.decoder_errors import quiet
from indexer.pixels.fit import square
from indexer.pixels.frames import Frame, FrameRequest
from indexer.pixels.kinds import frames_of
from indexer.pixels.limits import check_bytes
from indexer.pixels.sniff import sniff
from indexer.types import Picture, PixelSpec


def decode(data: bytes, suffix: str, spec: PixelSpec, *, frames: str | int = "all") -> Iterator[Picture]:
    """The wanted frames (all, first, middle, or one by its number), windowed and fitted to (size, size, 3) RGB.

    The kind is told by the bytes, by `suffix` (lower case, no dot) only where they say nothing. The same bytes and
    spec give the same pixels in every thread. Raises PixelError, for anything that is no readable image, and
    WindowError for a `spec.window` outside the documented forms; a damaged multi-frame file may give frames first.
    """
    request = FrameRequest(frames, spec.window, spec.plane)
    _ = request.rules  # a window that cannot be read is an error of the request, not of this image
    check_bytes(len(data))
    quiet()
    for frame in _frames(data, suffix, spec, request):
        yield Picture(frame.index, square(frame.pixels, spec, frame.aspect), frame.flags)


def _frames(data: bytes, suffix: str, spec: PixelSpec, request: FrameRequest) -> Iterator[Frame]:
    kind = sniff(data, suffix)
    if kind == "jpeg":
        from indexer.pixels.jpeg import jpeg_frames

        return jpeg_frames(data, spec)
    if kind:
        return frames_of(kind, data, request)
    raise PixelError("not an image", f"no image format begins with {data[:8].hex(' ')}")
