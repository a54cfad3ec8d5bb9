"""The verdict "silently wrong": an answer without a flag that is not what an independent reader finds."""

from __future__ import annotations

import numpy as np


class Wrong(AssertionError):
    """An answer differs from that of the independent reader, and nothing says so."""


def agree(pixels: np.ndarray, expected: np.ndarray, tolerance: float) -> bool:
    """Whether 8-bit pixels (h, w) or (h, w, 3) are the expected values (h, w, 1 or 3): in the mean within half the
    tolerance, and nearly everywhere within it.
    """
    if pixels.shape[:2] != expected.shape[:2]:
        return False
    off = np.abs(np.atleast_3d(pixels).astype(np.float64) - np.atleast_3d(expected))
    return bool(off.mean() <= tolerance / 2 + 0.3 and (off > tolerance + 1e-6).mean() < 0.01)


def from_ycbcr(values: np.ndarray) -> np.ndarray:
    """(h, w, 3) full-range YCbCr → RGB by ITU-R 601, not clipped."""
    y, b, r = np.moveaxis(values - (0, 128, 128), -1, 0)
    return np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], -1)
