"""Tiles of a map: the density of rows, in one colour or mixed of the colours of a column's values."""

from __future__ import annotations

import io
import re
from functools import cache

import numpy as np
from PIL import Image

from indexer.design.page import style
from indexer.errors import InputError
from indexer.serve.map.shown import BITS, SERIES, Classes, ShownMap, morton
from indexer.types import Float64

SIDE = 256  # pixels
DEPTH = 7  # a tile has 2**DEPTH cells along each axis
DEEPEST = BITS - DEPTH - 1
FAINTEST = 0.3  # opacity of a cell with one row; the fullest of a level is opaque, between them by the logarithm
SCHEMES = ("light", "dark")


@cache
def palette(scheme: str) -> Float64:
    """The style sheet's series colours (SERIES, 3), 0 to 255."""
    found = re.findall(r"--series-\d: #([0-9a-f]{6})", style())
    own = found[SCHEMES.index(scheme) * SERIES :][:SERIES]
    return np.array([[int(text[i : i + 2], 16) for i in (0, 2, 4)] for text in own], np.float64)


def tile(shown: ShownMap, z: int, x: int, y: int, classes: Classes | None, scheme: str) -> bytes:
    """A PNG (SIDE, SIDE) with transparency. Raises InputError for a tile that does not exist."""
    if not (0 <= z <= DEEPEST and 0 <= x < 1 << z and 0 <= y < 1 << z):
        raise InputError(f"no tile {z}/{x}/{y}: levels are 0 to {DEEPEST}, each with 2**level tiles along each axis.")
    first = morton(np.array([[x, y]])) << (2 * (BITS - z))
    start, stop = np.searchsorted(shown.morton, [first[0], first[0] + (1 << (2 * (BITS - z)))])
    inside = (shown.cells[start:stop] >> (BITS - z - DEPTH)) & ((1 << DEPTH) - 1)
    cells = (inside[:, 1] << DEPTH) | inside[:, 0]
    counts = np.bincount(cells, minlength=1 << (2 * DEPTH)).astype(np.float64)
    drawn = np.zeros((len(counts), 4), np.uint8)
    full = counts > 0
    colours = palette(scheme)
    if classes is None:
        drawn[:, :3] = colours[0]
    else:
        own = classes.codes[start:stop]
        mixed = np.zeros((len(counts), 3))
        for code in np.unique(own):
            mixed += np.bincount(cells[own == code], minlength=len(counts))[:, None] * colours[code]
        drawn[full, :3] = np.round(mixed[full] / counts[full, None])
    depth = np.log1p(counts[full]) / np.log1p(shown.most(z + DEPTH))
    drawn[full, 3] = np.round(255 * (FAINTEST + (1 - FAINTEST) * depth))
    picture = drawn.reshape(1 << DEPTH, 1 << DEPTH, 4).repeat(SIDE >> DEPTH, axis=0).repeat(SIDE >> DEPTH, axis=1)
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG", compress_level=1)
    return out.getvalue()
