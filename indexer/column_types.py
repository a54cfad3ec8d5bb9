"""What the texts of a user's table mean: the same for metadata that is packed and for labels that are joined."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal

MISSING = ("", "NA", "N/A", "NaN", "nan", "NULL", "null", "None")
Kind = Literal["int", "float", "bool", "text"]

_WHOLE = re.compile(r"-?(0|[1-9]\d{0,17})")  # "007" is a name, not a number
_REAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def kind_of(texts: Iterable[str]) -> Kind:
    """The narrowest kind that all values of a column have, those that are MISSING left aside."""
    values = {text for text in texts if text not in MISSING}
    if all(map(_WHOLE.fullmatch, values)):
        return "int"
    zeros = any(re.match(r"[+-]?0\d", text) for text in values)
    if not zeros and all(_REAL.fullmatch(text) and math.isfinite(float(text)) for text in values):
        return "float"
    return "bool" if {text.lower() for text in values} <= {"true", "false"} else "text"
