"""Types and names of columns of user tables: one rule for packed metadata and for joined labels."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Set
from typing import Literal

MISSING = ("", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "#N/A")
ColumnType = Literal["int", "float", "bool", "text"]
Form = Literal["whole", "wide", "long", "name", "real", "exponent", "bool", "text"]

# The first pattern that matches a value gives its form. ASCII digits only, since Arrow parses no others.
_FORMS: tuple[tuple[Form, re.Pattern[str]], ...] = (
    ("name", re.compile(r"[+-]?0[0-9].*")),  # a leading zero ("007") makes it an identifier
    ("whole", re.compile(r"-?[0-9]{1,15}")),  # exact in int64 and in float64 (below 2^53)
    ("wide", re.compile(r"-?[0-9]{16,18}")),  # exact in int64 alone
    ("long", re.compile(r"[+-]?[0-9]{16,}(\.[0-9]*)?")),  # exact in neither
    ("exponent", re.compile(r"[0-9]+[eE][0-9]+")),  # 1E10 is a number or the name of a well or plate
    ("real", re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")),
    ("bool", re.compile(r"true|false", re.IGNORECASE)),
)


def forms_of(texts: Iterable[str]) -> set[Form]:
    """The forms of a column's values, without MISSING ones; forms of parts of a column may be merged by union."""
    return {_form(text) for text in {*texts} - {*MISSING}}


def _form(text: str) -> Form:
    for form, pattern in _FORMS:
        if pattern.fullmatch(text):
            return "text" if form in ("real", "exponent") and not math.isfinite(float(text)) else form
    return "text"


def column_type(forms: Set[Form]) -> ColumnType:
    """The narrowest type that holds all values of these forms exactly; text where no numeric type does.

    Integers of 19 and more digits are text, as are those of more than 15 digits in a column with decimals. `1E10` is a
    number only where another value of the column has a decimal point or a sign in its exponent.
    """
    if forms <= {"whole", "wide"}:
        return "int"
    if forms <= {"whole", "real", "exponent"} and "real" in forms:
        return "float"
    return "bool" if forms == {"bool"} else "text"


def plain_column(name: str) -> str:
    """The name under which a user's column is stored: "Patient ID" → `patient_id`; "" where no character is left.

    A plain name (ASCII letters, digits and `_`, no leading digit) is unchanged. In other names accents are removed,
    letters become lower case, and each run of other characters becomes one `_`. Names are not truncated, since two long
    names could become equal.
    """
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        return name
    letters = unicodedata.normalize("NFKD", name.casefold())
    plain = re.sub(r"[^a-z0-9]+", "_", "".join(c for c in letters if not unicodedata.combining(c))).strip("_")
    return f"_{plain}" if plain[:1].isdigit() else plain
