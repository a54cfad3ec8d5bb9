"""Reads numbers of a data set that may be missing, empty, unreadable, or of another VR than the dictionary's."""

from __future__ import annotations

import math
import re
from typing import Any

from indexer.pixels.decoder_errors import dicom_errors

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?")


def group(dataset: Any, index: int, name: str) -> Any:
    """The functional group `name` of a frame (PS3.3 C.7.6.16), or the data set itself where there is none."""
    for groups, at in (
        (getattr(dataset, "PerFrameFunctionalGroupsSequence", None), index),
        (getattr(dataset, "SharedFunctionalGroupsSequence", None), 0),
    ):
        if groups and at < len(groups) and getattr(groups[at], name, None):
            return getattr(groups[at], name)[0]
    return dataset


def numbers(source: Any, word: str, count: int | None, flags: list[str] | None = None) -> tuple[float, ...] | None:
    """The element's finite values; None where it is missing or empty.

    A decimal comma is read as a point. Where values are unreadable, or their number is not `count`, the result is None
    and a flag is added to `flags`.
    """
    texts = _texts(source, word)
    if not texts:
        return None
    values = tuple(map(_float, texts))
    if (count is not None and len(values) != count) or not all(map(math.isfinite, values)):
        if flags is not None:
            flags.append(f"unreadable {word}")
        return None
    return values


def number(source: Any, word: str, flags: list[str] | None = None) -> float | None:
    """The element's first value; None as for `numbers`."""
    values = numbers(source, word, None, flags)
    return values[0] if values else None


def _texts(source: Any, word: str) -> list[Any]:
    """The element's values, as numbers where pydicom could read them, else as text."""
    try:
        value = getattr(source, word, None)
    except dicom_errors():  # pydicom rejects the text, which remains as bytes
        from pydicom.datadict import tag_for_keyword

        value = source.get_item(tag_for_keyword(word)).value
    if value is None:
        return []
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    if isinstance(value, str):
        return [text for text in value.strip(" \0").split("\\") if value.strip(" \0")]
    return [value] if isinstance(value, (int, float)) else list(value)


def _float(value: Any) -> float:
    if isinstance(value, (int, float)):
        return float(value)
    text = str(value).strip(" \0")
    return float(text.replace(",", ".")) if _NUMBER.fullmatch(text) else math.nan
