"""Real photographs, from wheels that are installed anyway, laid side by side into pictures of any size.

Made-up textures compress worse than photographs, and a JPEG's decoding time goes by its bytes.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import matplotlib.cbook
import numpy as np
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_images


@lru_cache(maxsize=1)
def photographs() -> tuple[np.ndarray, ...]:
    """(h, w, 3) uint8 each, 300 to 640 pixels a side."""
    hopper = Path(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))
    return (
        *load_sample_images().images,
        data.astronaut(),
        data.chelsea(),
        data.coffee(),
        np.asarray(Image.open(hopper).convert("RGB")),
    )


def mosaic(side: int, seed: int) -> np.ndarray:
    """(side, side, 3) uint8: rows of photographs at their own size, drawn and mirrored by `seed`, cut at the border."""
    rng = np.random.default_rng(seed)
    picture = np.empty((side, side, 3), np.uint8)
    y = 0
    while y < side:
        x, height = 0, 300  # the lowest photograph's
        while x < side:
            tile = photographs()[rng.integers(len(photographs()))]
            top = rng.integers(tile.shape[0] - height + 1)
            tile = tile[top : top + height, :: rng.choice((-1, 1))][: side - y, : side - x]
            picture[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
            x += tile.shape[1]
        y += height
    return picture
