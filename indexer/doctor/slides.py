"""Tests whether whole slides can be cut into tiles here, with a tiny one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from indexer.doctor.decoders import Tried, with_version
from indexer.errors import InputError, PixelError
from indexer.slides.process import region, require_reader, slide_facts
from indexer.types import UInt8

NAME = "whole slides (--tile)"
EXTRA_MISSING = "needs the extra `wsi`: pip install 'embedding-indexer[wsi]'"
SIDE = 256  # pixels of the slide
TILE = 64
MPP = 0.5


def try_slides() -> Tried:
    """The result for a tiled TIFF that is written, opened and cut."""
    try:
        require_reader()
    except InputError:
        return Tried(NAME, False, "", EXTRA_MISSING)
    with tempfile.TemporaryDirectory() as folder:
        trouble = _trouble(Path(folder) / "slide.tif")
    return Tried(NAME, not trouble, with_version("openslide-python"), trouble)


def _trouble(path: Path) -> str:
    """Why the slide does not read, or reads wrongly; empty where it reads."""
    import tifffile

    y, x = np.mgrid[:SIDE, :SIDE].astype(np.uint8)
    picture: UInt8 = np.stack([y, x, y ^ x], axis=2)
    scale = 1e4 / MPP
    tifffile.imwrite(
        path, picture, tile=(128, 128), photometric="rgb", metadata=None, resolution=(scale, scale),
        resolutionunit="CENTIMETER",
    )  # fmt: skip
    try:
        facts = slide_facts(str(path))
        tile = region(str(path), x=TILE, y=2 * TILE, level=0, side=TILE, tile=TILE)
    except PixelError as error:
        return str(error)
    if facts.sizes[0] != (SIDE, SIDE) or not np.allclose([m or 0 for m in facts.mpp], MPP, rtol=1e-3):
        return f"reads, and wrongly: {facts.sizes[0]} pixels at {facts.mpp} micrometres"
    return "" if np.array_equal(tile, picture[2 * TILE : 3 * TILE, TILE : 2 * TILE]) else "reads, and wrongly: pixels"
