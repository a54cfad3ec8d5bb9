"""What is wanted of a file: which frames, through which window."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from indexer.pixels.window import WindowRule, parse_window


@dataclass(frozen=True)
class Request:
    """Everything but the bytes that the pixels of a frame depend on, before it is fitted to a square."""

    frames: str | int = "all"  # all | first | middle | a frame's number
    window: str = "file"
    plane: str = "axial"  # of NIfTI volumes
    isolated: bool = False  # are we in the process that may crash

    @cached_property
    def rules(self) -> tuple[WindowRule, ...]:
        return parse_window(self.window)
