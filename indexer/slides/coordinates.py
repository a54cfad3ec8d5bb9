"""Coordinates of tiles in HDF5 files, as TRIDENT and CLAM write them.

Both hold the data set `coords`, x and y in pixels of level 0. Its attributes say the size: in TRIDENT's `patch_size`
and `patch_size_level0`, in CLAM's `patch_size` and `patch_level`, the level that the patch is read from.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indexer.errors import PixelError
from indexer.slides.levels import SAME, Cut, at_level
from indexer.slides.process import SlideFacts, coordinates
from indexer.types import Int64, TileRule

ATTRIBUTES = ("patch_size", "patch_size_level0", "patch_level")
ENDINGS = (".h5", "_patches.h5", ".hdf5")  # CLAM's, TRIDENT's


def file_of(given: Path, slide: Path) -> Path | None:
    """The file with a slide's coordinates: the one that is named, or the one in this folder with the slide's name."""
    if not given.is_dir():
        return given
    names = (f"{stem}{ending}" for stem in (slide.stem, slide.name) for ending in ENDINGS)
    return next((given / name for name in names if (given / name).is_file()), None)


def read_coordinates(path: str, facts: SlideFacts, mpp0: float, rule: TileRule) -> tuple[Int64, Cut]:
    """(n, 2) corners in the file's order, and how the tiles are read. Raises PixelError where `rule` differs."""
    found, numbers = coordinates(path, ATTRIBUTES)
    tile = int(numbers.get("patch_size", 0))
    if tile != rule.tile:
        raise PixelError("coordinates of another tile size", f"patch_size {tile}, --tile {rule.tile}")
    if numbers.get("patch_size_level0", 0) > 0:
        side0 = numbers["patch_size_level0"]
        level = max(i for i, down in enumerate(facts.downsamples) if i == 0 or tile * down <= side0 * (1 + SAME))
    elif 0 <= numbers.get("patch_level", -1) < len(facts.sizes):
        level = int(numbers["patch_level"])
        side0 = tile * facts.downsamples[level]
    else:
        raise PixelError("bad coordinates", "neither patch_size_level0 nor a patch_level that the slide has")
    how = at_level(facts, mpp0, tile, level, side0)
    if abs(how.mpp - rule.mpp) > SAME * rule.mpp:
        raise PixelError("coordinates of another resolution", f"{how.mpp:g} micrometres a pixel, --mpp {rule.mpp:g}")
    outside = ((found < 0) | (found >= np.array(facts.sizes[0]))).any(axis=1)
    if outside.any():
        first = found[np.argmax(outside)].tolist()
        raise PixelError("coordinates outside the slide", f"{int(outside.sum()):,}, first {first}")
    return found, how
