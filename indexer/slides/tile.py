"""A tile of a slide: read by whoever decodes it, and found again by the name that its row has."""

from __future__ import annotations

import re
from dataclasses import dataclass

from indexer.errors import ReadError
from indexer.slides.process import region
from indexer.types import UInt8

SUFFIX = "tile"  # Place.suffix; the bytes of a tile are those of a PPM file of its pixels
MOST_PIXELS = 1 << 15  # of a region's side
_MEMBER = re.compile(r"(\d{1,9}),(\d{1,9}) level (\d{1,2}) (\d{1,5})>(\d{1,5})")


@dataclass(frozen=True)
class Tile:
    """Implements `types.LateImage`."""

    path: str
    x: int  # of the upper left corner, in pixels of level 0
    y: int
    level: int
    side: int  # pixels of the level
    tile: int  # pixels of the tile's side

    @property
    def member(self) -> str:
        """Its name in the slide, from which `named_tile` makes it again."""
        return f"{self.x},{self.y} level {self.level} {self.side}>{self.tile}"

    @property
    def nbytes(self) -> int:
        """Of `read`."""
        return len(_header(self.tile)) + 3 * self.tile * self.tile

    def pixels(self) -> UInt8:
        """(tile, tile, 3) RGB. Raises PixelError."""
        return region(self.path, x=self.x, y=self.y, level=self.level, side=self.side, tile=self.tile)

    def read(self) -> bytes:
        return _header(self.tile) + self.pixels().tobytes()


def named_tile(path: str, member: str) -> Tile:
    """Raises ReadError for a name that no tile has."""
    found = _MEMBER.fullmatch(member)
    numbers = [int(text) for text in found.groups()] if found else []
    if not numbers or not all(0 < side <= MOST_PIXELS for side in numbers[3:]):
        raise ReadError(f"{member} names no tile of {path}")
    return Tile(path, *numbers)


def _header(side: int) -> bytes:
    return f"P6\n{side} {side}\n255\n".encode()
