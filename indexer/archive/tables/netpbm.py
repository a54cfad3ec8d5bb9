"""Raw pixels as the bytes of a PGM or PPM file: these have one form only, so that their hash is the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence


def netpbm(pixels: bytes, shape: Sequence[int]) -> bytes:
    """A PGM (h, w) or (h, w, 1), or a PPM (h, w, 3), of 8-bit pixels, rows first."""
    return netpbm_head(shape) + pixels


def netpbm_head(shape: Sequence[int]) -> bytes:
    """What stands before the pixels."""
    magic = "P6" if tuple(shape[2:]) == (3,) else "P5"
    return f"{magic}\n{shape[1]} {shape[0]}\n255\n".encode()
