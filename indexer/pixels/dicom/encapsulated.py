"""Places of the frames in encapsulated pixel data, found in one pass.

pydicom looks for a frame from the first one on where the file has no offset table, which takes time quadratic in the
number of frames.
"""

from __future__ import annotations

import struct
from typing import Any

_ITEM = struct.Struct("<HHI")  # group, element, length


def add_offset_table(dataset: Any, count: int) -> None:
    """Give the data set an Extended Offset Table (PS3.3 C.7.6.3.1.8) where each of its frames is one fragment.

    pydicom then finds each frame at once. Data of another form are left to it.
    """
    if count < 2 or "PixelData" not in dataset or "ExtendedOffsetTable" in dataset:
        return
    if not dataset["PixelData"].is_undefined_length:
        return
    places = _fragments(dataset.PixelData)
    if len(places) != count:
        return
    offsets, lengths = zip(*places, strict=True)
    dataset.add_new("ExtendedOffsetTable", "OV", struct.pack(f"<{count}Q", *offsets))
    dataset.add_new("ExtendedOffsetTableLengths", "OV", struct.pack(f"<{count}Q", *lengths))


def offset_table(dataset: Any) -> tuple[list[int], list[int]] | None:
    """The table, decoded once; None where there is none that can be used."""
    tables = [getattr(dataset, f"ExtendedOffsetTable{part}", None) for part in ("", "Lengths")]
    if not all(isinstance(table, bytes) and table and len(table) % 8 == 0 for table in tables):
        return None
    offsets, nbytes = ([*struct.unpack(f"<{len(table) // 8}Q", table)] for table in tables if table)
    return (offsets, nbytes) if len(offsets) == len(nbytes) else None


def _fragments(data: bytes) -> list[tuple[int, int]]:
    """(offset of its item, bytes) of each fragment, counted from the end of the basic offset table; [] for damage."""
    places: list[tuple[int, int]] = []
    at, start = 0, -1
    while at + _ITEM.size <= len(data):
        group, element, nbytes = _ITEM.unpack_from(data, at)
        if (group, element) == (0xFFFE, 0xE0DD):
            break
        following = at + _ITEM.size + nbytes
        if (group, element) != (0xFFFE, 0xE000) or following > len(data):
            return []
        if start < 0:
            start = following  # the first item is the basic offset table
        else:
            places.append((at - start, nbytes))
        at = following
    return places
