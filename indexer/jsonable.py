"""Converts records to JSON types, for the command line, pages, APIs and files, and text to what a terminal may get."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import Any

# Control characters (C0 but tab and line feed, DEL, C1), line separators, direction overrides, unpaired surrogates
_STEERING = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def jsonable(value: Any) -> Any:
    """Records, mappings, sequences, numpy scalars and dates as JSON types; NaN and infinities become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return jsonable(value.tolist()) if hasattr(value, "tolist") else str(value)


def printable(text: str) -> str:
    """The text with characters that steer a terminal escaped as in JSON, so that printed JSON stays JSON.

    Keys, fields and messages may hold escape sequences that somebody put there.
    """
    return _STEERING.sub(lambda found: json.dumps(found[0])[1:-1] if found[0] != "\x7f" else "\\u007f", text)
