"""A tile's place in its slide, drawn for people."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from indexer.errors import PixelError
from indexer.slides.process import SlideFacts, overview, slide_facts
from indexer.slides.tile import Tile
from indexer.types import UInt8

FRAME = (220, 0, 0)  # colour of the tile's frame
LEAST = 6  # pixels of the frame's side, so that a small tile is seen
MOST_READ = 64 << 20  # pixels of a level: a slide without a pyramid would take minutes for one picture


def in_its_slide(tile: Tile, side: int) -> UInt8:
    """(side, side, 3): the whole slide on white, the tile framed. Raises PixelError."""
    facts, whole, scale = _whole(tile.path, Path(tile.path).stat().st_mtime_ns, side)
    if tile.level >= len(facts.downsamples):
        raise PixelError("no such level", f"{tile.level} of {len(facts.downsamples)}: the slide is another one now")
    picture = whole.copy()
    side0 = tile.side * facts.downsamples[tile.level]
    left, top = ((side - length) // 2 for length in _drawn(facts, scale))
    x, y = left + int(tile.x / scale), top + int(tile.y / scale)
    long = max(LEAST, round(side0 / scale))
    x, y = min(x, side - long), min(y, side - long)
    for edge in (slice(0, 2), slice(long - 2, long)):
        picture[y : y + long, x : x + long][edge] = FRAME
        picture[y : y + long, x : x + long][:, edge] = FRAME
    return picture


@lru_cache(maxsize=64)
def _whole(path: str, changed: int, side: int) -> tuple[SlideFacts, UInt8, float]:
    """The slide's facts, its picture fitted to a square, and pixels of level 0 a pixel of that."""
    del changed
    facts = slide_facts(path)
    scale = max(1.0, max(facts.sizes[0]) / side)
    level = max(i for i, down in enumerate(facts.downsamples) if down <= scale * (1 + 1e-6))
    width, height = facts.sizes[level]
    if width * height > MOST_READ:
        raise PixelError("no overview", f"its coarsest level has {width} x {height} pixels")
    found = overview(path, facts, scale)[:side, :side]
    canvas = np.full((side, side, 3), 255, np.uint8)
    left, top = ((side - length) // 2 for length in _drawn(facts, scale))
    canvas[top : top + found.shape[0], left : left + found.shape[1]] = found
    return facts, canvas, scale


def _drawn(facts: SlideFacts, scale: float) -> tuple[int, int]:
    """Width and height of the slide at this scale, as `overview` has them."""
    width, height = (max(1, int(np.ceil(length / scale - 1e-6))) for length in facts.sizes[0])
    return width, height
