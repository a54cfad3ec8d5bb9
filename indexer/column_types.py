"""Column types of user tables (CSV), inferred from their text: one rule for packed metadata and for joined labels."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal

MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")
ColumnType = Literal["int", "float", "bool", "text"]

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")  # fits int64; a leading zero ("007") makes it an identifier
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def column_type(texts: Iterable[str]) -> ColumnType:
    """The narrowest type that fits all values of a column, ignoring MISSING ones."""
    values = {text for text in texts if text not in MISSING}
    if all(map(_WHOLE.fullmatch, values)):
        return "int"
    zeros = any(re.match(r"[+-]?0\d", text) for text in values)
    if not zeros and all(_REAL.fullmatch(text) and math.isfinite(float(text)) for text in values):
        return "float"
    return "bool" if {text.lower() for text in values} <= {"true", "false"} else "text"
