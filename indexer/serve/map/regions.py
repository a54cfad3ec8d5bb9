"""Regions of a map: polygons in the unit square, the rows inside, and the filter that lets a search see only these."""

from __future__ import annotations

import re

import numpy as np

from indexer.errors import InputError
from indexer.serve.map.shown import ShownMap
from indexer.types import Float64, Int64

NO_ROW = str(2**63 - 1)
MOST_CORNERS = 500
MOST_ROWS = 50_000  # of a region that is a filter of a search
_CORNER = re.compile(r"-?\d{1,3}(?:\.\d{1,9})?,-?\d{1,3}(?:\.\d{1,9})?")


def corners(text: str) -> Float64:
    """`x,y;x,y;…` → (m, 2). Raises InputError."""
    parts = text.split(";")
    if not 3 <= len(parts) <= MOST_CORNERS or not all(map(_CORNER.fullmatch, parts)):
        raise InputError(f"a region of the map is 3 to {MOST_CORNERS} corners `x,y;x,y;…` of the unit square.")
    return np.array([part.split(",") for part in parts], np.float64)


def inside(shown: ShownMap, region: str) -> Int64:
    """Positions (p,) of the rows inside, in a fixed random order. Raises InputError."""
    from matplotlib.path import Path as Polygon  # 15 MB, for a lasso alone

    outline = corners(region)
    near = np.flatnonzero(((shown.square >= outline.min(axis=0)) & (shown.square <= outline.max(axis=0))).all(axis=1))
    found = near[Polygon(outline).contains_points(shown.square[near])] if len(near) else near
    ordered: Int64 = found[np.argsort(shown.shuffled[found])]
    return ordered


def row_filter(shown: ShownMap, region: str, where: str | None) -> str:
    """`where` and the rows of the region, as one filter. Raises InputError for more than MOST_ROWS rows, BadFilter."""
    if where is not None:
        shown.view.count(where)  # alone: in one expression its brackets could let in rows outside
    found = inside(shown, region)
    if len(found) > MOST_ROWS:
        raise InputError(f"the region holds {len(found):,} images; a search is within {MOST_ROWS:,} at most.")
    ids = ",".join(map(str, np.sort(shown.row_ids[found]).tolist())) or NO_ROW
    return f"_rowid IN ({ids})" + (f" AND ({where})" if where else "")
