"""Which part of a slide is tissue, by a fixed rule on an overview of about 8 micrometres a pixel.

A pixel is tissue where the median of the saturation over the 7 x 7 pixels around it is above a threshold, as in CLAM's
segmentation (Lu et al. 2021), and where it is not nearly black, as unscanned areas of some scanners are. Saturation is
that of HSV, 255 (max - min) / max. All of it is computed in integers: the median of 49 values is above a threshold
where at least 25 of them are.
"""

from __future__ import annotations

import io
import math

import numpy as np

from indexer.slides.process import SlideFacts
from indexer.types import Bool, Float64, Int32, Int64, UInt8

MPP = 8.0  # micrometres a pixel of the overview
MOST_PIXELS = 16 << 20  # of the overview: a larger slide has a coarser one
MEDIAN = 7  # pixels
DARKEST = 32  # of 255, of the largest channel


def overview_scale(facts: SlideFacts, mpp0: float) -> float:
    """Pixels of level 0 for each pixel of the overview's side."""
    return max(1.0, MPP / mpp0, math.sqrt(math.prod(facts.sizes[0]) / MOST_PIXELS))


def tissue(picture: UInt8, saturation: int) -> Bool:
    """(h, w, 3) → (h, w), whether each pixel is tissue."""
    largest = picture.max(axis=2)
    spread = (largest - picture.min(axis=2)).astype(np.uint16)
    above = (spread * np.uint32(255) > largest * np.uint32(saturation)) & (largest >= DARKEST)
    half = MEDIAN // 2
    found: Bool = _sums(np.pad(above, half, mode="edge"), MEDIAN) > MEDIAN * MEDIAN // 2
    return found


def _sums(values: Bool, side: int) -> Int32:
    """The counts over all squares of `side` pixels, by a summed-area table."""
    table = _summed(values)
    return table[side:, side:] - table[side:, :-side] - table[:-side, side:] + table[:-side, :-side]


def _summed(values: Bool) -> Int32:
    """The counts of all that is true above and to the left, at most MOST_PIXELS: one row and column more."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.int32)
    values.cumsum(axis=0, dtype=np.int32, out=table[1:, 1:])
    table.cumsum(axis=1, dtype=np.int32, out=table)
    return table


def shares(mask: Bool, scale: float, corners: Int64, side0: float) -> Float64:
    """(n,) share of tissue in each tile, over the pixels of the mask that it touches; `side0`: pixels of level 0."""
    table = _summed(mask)
    height, width = mask.shape
    limits = np.array([width, height])
    low = np.clip((corners / scale).astype(np.int64), 0, limits - 1)
    high = np.clip(np.ceil((corners + side0) / scale - 1e-6).astype(np.int64), low + 1, limits)
    (x0, y0), (x1, y1) = low.T, high.T
    found = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
    areas = (x1 - x0) * (y1 - y0)
    result: Float64 = found / areas
    return result


def mask_png(mask: Bool) -> bytes:
    """The mask as a PNG of one bit a pixel, tissue white."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).convert("1").save(out, "PNG", optimize=True)
    return out.getvalue()
