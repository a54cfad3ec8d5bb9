"""Which frames of a file are wanted, through which window, and one decoded frame before it is fitted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from indexer.errors import PixelError
from indexer.pixels.window import WindowRule, parse_window
from indexer.types import UInt8


@dataclass(frozen=True)
class FrameRequest:
    """Everything but the bytes that the pixels of a frame depend on, before it is fitted to a square."""

    frames: str | int = "all"  # all | first | middle | a frame's number
    window: str = "file"
    plane: str = "axial"  # of NIfTI volumes
    isolated: bool = False  # are we in the process that may crash

    @cached_property
    def rules(self) -> tuple[WindowRule, ...]:
        return parse_window(self.window)


@dataclass(frozen=True)
class Frame:
    """A frame at its own size, already windowed to 8 bits."""

    index: int
    pixels: UInt8  # (h, w) grey or (h, w, 3) RGB
    aspect: float = 1.0  # height of a pixel over its width
    flags: tuple[str, ...] = ()


def wanted(frames: str | int, count: int) -> range:
    """The indices of `all`, the `first`, the `middle` or one numbered frame. Raises PixelError where there is none."""
    if count <= 0:
        raise PixelError("no frames")
    if frames == "all":
        return range(count)
    if frames == "first":
        return range(1)
    if frames == "middle":
        return range(count // 2, count // 2 + 1)
    if isinstance(frames, int):
        if not 0 <= frames < count:
            raise PixelError("no such frame", f"frame {frames} of {count}")
        return range(frames, frames + 1)
    raise ValueError(f"frames is {frames!r}, not all, first, middle or a number")
