"""Which level of a slide its tiles are read from, and where they lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.errors import PixelError
from indexer.slides.process import SlideFacts
from indexer.types import Int64, TileRule

SAME = 0.02  # scanners state .2475 to .2525 for .25: so near the pixels are taken as they are
SOUND_MPP = (0.02, 20.0)  # of level 0; 72 dots an inch, which programs write without knowing, are 353
BLOCK = 8  # tiles of a block's side: neighbours are read together, since they share the file's own tiles


@dataclass(frozen=True)
class Cut:
    """How tiles are read from one slide."""

    level: int
    side: int  # pixels of the level that become one tile
    tile: int  # pixels of a tile's side
    side0: float  # pixels of level 0
    mpp: float  # micrometres a pixel of a tile


def resolution(facts: SlideFacts, given: float | None) -> float:
    """Micrometres a pixel of level 0: the file's, else the user's. Raises PixelError; a magnification is no measure."""
    low, high = SOUND_MPP
    stated = [value for value in facts.mpp if value is not None]
    if len(stated) == 2 and all(low <= value <= high for value in stated):
        if abs(stated[0] - stated[1]) > SAME * max(stated):
            raise PixelError("pixels that are not square", f"{stated[0]:g} by {stated[1]:g} micrometres")
        return (stated[0] + stated[1]) / 2
    if given is not None:
        return given
    words = " by ".join(f"{value:g}" for value in stated)
    if words:
        raise PixelError("absurd resolution", f"{words} micrometres a pixel. Give the right one with --mpp-of")
    raise PixelError("no resolution in the file", "give its micrometres a pixel with --mpp-of")


def cut(facts: SlideFacts, mpp0: float, rule: TileRule) -> Cut:
    """Tiles from the coarsest level that is at least as fine as the rule asks. Raises PixelError where none is."""
    fine = [level for level, down in enumerate(facts.downsamples) if mpp0 * down <= rule.mpp * (1 + SAME)]
    if not fine:
        raise PixelError(
            "no level fine enough", f"the finest has {mpp0:g} micrometres a pixel, --mpp asks {rule.mpp:g}"
        )
    level = max(fine, key=lambda number: facts.downsamples[number])
    return at_level(facts, mpp0, rule.tile, level, rule.tile * rule.mpp / mpp0)


def at_level(facts: SlideFacts, mpp0: float, tile: int, level: int, side0: float) -> Cut:
    """Tiles of about `side0` pixels of level 0, read from `level`: as they are, or resized if off by more than SAME."""
    down = facts.downsamples[level]
    side = round(side0 / down)
    if abs(side - tile) <= SAME * tile:
        side = tile
    return Cut(level, side, tile, side * down, mpp0 * down * side / tile)


def corners(facts: SlideFacts, how: Cut) -> Int64:
    """(n, 2) x and y in level 0 of the upper left corners of whole tiles, side by side, in blocks of BLOCK x BLOCK."""
    width, height = facts.sizes[how.level]
    columns, rows = np.arange(width // how.side), np.arange(height // how.side)
    row, column = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    order = np.lexsort((column, row, column // BLOCK, row // BLOCK))
    numbers = np.stack([column[order], row[order]], axis=1)
    found: Int64 = np.floor(numbers * how.side0 + 0.5).astype(np.int64)
    return found
