"""Reading elements of a data set that may be missing, empty or unreadable."""

from __future__ import annotations

import math
from typing import Any

from indexer.pixels.decoder_errors import dicom_errors


def group(dataset: Any, index: int, name: str) -> Any:
    """The functional group `name` of a frame (PS3.3 C.7.6.16), or the data set itself where there is none."""
    for groups, at in (
        (getattr(dataset, "PerFrameFunctionalGroupsSequence", None), index),
        (getattr(dataset, "SharedFunctionalGroupsSequence", None), 0),
    ):
        if groups and at < len(groups) and getattr(groups[at], name, None):
            return getattr(groups[at], name)[0]
    return dataset


def numbers(source: Any, word: str, count: int | None) -> tuple[float, ...] | None:
    """The element's values; None where it is missing, empty, unreadable, not finite, or has not `count` values."""
    try:
        value = getattr(source, word, None)
        if value is None or value == "":
            return None
        values = tuple(map(_float, [value] if isinstance(value, (str, bytes, int, float)) else value))
    except dicom_errors():
        return None
    if not values or (count is not None and len(values) != count) or not all(map(math.isfinite, values)):
        return None
    return values


def number(source: Any, word: str) -> float | None:
    """The element's first value; None as for `numbers`."""
    values = numbers(source, word, None)
    return values[0] if values else None


def _float(value: Any) -> float:
    return float(value.decode("ascii") if isinstance(value, bytes) else value)
