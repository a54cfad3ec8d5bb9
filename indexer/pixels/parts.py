"""The protocol of image readers: the parts listed in the header, and the 8-bit pixels of each part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, overload

from indexer.errors import PixelError
from indexer.pixels.window import WindowRule, parse_window
from indexer.types import FIRST_PART, Fact, Part, PixelSpec, UInt8

Facts = Mapping[str, Fact]


@dataclass(frozen=True)
class Rendering:
    """The options that determine the pixels of a part before it is fitted to the square."""

    window: str = "file"
    plane: str = "axial"  # of NIfTI volumes
    isolated: bool = False  # True inside a decoder process
    fitted_to: PixelSpec | None = None  # a JPEG may be decoded at a smaller size that suffices for this square

    @cached_property
    def rules(self) -> tuple[WindowRule, ...]:
        return parse_window(self.window)


@dataclass(frozen=True)
class Raster:
    """A part at its original size, windowed to 8 bits."""

    pixels: UInt8  # (h, w) grey or (h, w, 3) RGB
    aspect: float = 1.0  # height of a pixel divided by its width
    flags: tuple[str, ...] = ()


class Reader(Protocol):
    """One open image file. The constructor raises PixelError where the header cannot be read."""

    @property
    def parts(self) -> Numbered: ...

    def rasters(self, positions: Sequence[int]) -> Iterator[Raster]:
        """The parts at these positions of `parts`, in the order given. Raises PixelError."""
        ...

    def close(self) -> None: ...


def no_facts(position: int) -> Facts:
    del position
    return {}


class Numbered(Sequence[Part]):
    """`count` parts named "0", "1", …, or one part named "". Their facts are read from the header on access.

    In a series of volumes (NIfTI 4-D) the `in_volume` parts of the first come first, named as if it were alone.
    """

    def __init__(self, count: int, facts: Callable[[int], Facts] = no_facts, in_volume: int | None = None) -> None:
        if count <= 0:
            raise PixelError("no frames")
        self._count, self._facts = count, facts
        self.in_volume = in_volume or count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> Part: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Part]: ...
    def __getitem__(self, at: int | slice) -> Part | Sequence[Part]:
        if isinstance(at, slice):
            return [self[position] for position in range(self._count)[at]]
        position = range(self._count)[at]
        return Part(str(position) if position or self.in_volume > 1 else "", self._facts(position))

    def position(self, name: str) -> int:
        """The index of the part with this name; "" and "0" both name the first. Raises PixelError for other names."""
        if name in FIRST_PART:
            return 0
        if name.isdecimal() and str(int(name)) == name and int(name) < self._count:
            return int(name)
        raise PixelError("no such part", f"part {name!r} of {self._count}")


def wanted(frames: str, time: str, parts: Numbered) -> Iterator[int]:
    """The positions selected by `frames` (all, first, middle) in each volume that `time` (first, all) selects."""
    count = parts.in_volume
    if frames not in ("all", "first", "middle"):
        raise ValueError(f"frames is {frames!r}, not all, first or middle")
    if time not in ("first", "all"):
        raise ValueError(f"time is {time!r}, not first or all")
    first = count // 2 if frames == "middle" else 0
    chosen = range(first, count if frames == "all" else first + 1)
    if time == "first":
        return iter(chosen)
    return (start + position for start in range(0, len(parts), count) for position in chosen)
