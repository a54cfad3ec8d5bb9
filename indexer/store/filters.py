"""Checks --where: one boolean SQL expression over the table's columns, with names quoted as in standard SQL."""

from __future__ import annotations

import re

from indexer.errors import BadFilter

# Two reads of one version would differ
VOLATILE = re.compile(r"\b(random|rand|uuid|now|today)\s*\(|\bcurrent_(date|time|timestamp)\b", re.IGNORECASE)
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`")


def expression(where: str | None, table: str) -> str | None:
    """`where` in Lance's syntax: in brackets, and with column names in backticks. Raises BadFilter.

    Lance passes the text to a parser of whole statements and drops everything after the first expression:
    `sex = 'F' garbage` would be read as `sex = 'F'`. In brackets the whole text must parse. Lance also reads a
    double-quoted name as a string, so that `"sex" != 'M'` holds for every row; in standard SQL it is a column.
    """
    if where is None:
        return None
    cause = _fault(_QUOTED.sub("''", where)) or _unusable_name(where)
    if cause:
        raise BadFilter(f"--where {where!r} on table {table}: {cause}. Give one expression, e.g. \"sex = 'F'\".")
    return f"({_QUOTED.sub(_column, where)})"


def _column(quoted: re.Match[str]) -> str:
    """A double-quoted name in Lance's syntax, in backticks; other quoted parts unchanged."""
    text = quoted[0]
    if not text.startswith('"'):
        return text
    name = text[1:-1].replace('""', '"')
    return f"`{name}`"


def _unusable_name(where: str) -> str | None:
    names = [part for part in _QUOTED.findall(where) if part.startswith('"')]
    return next((f"{name} cannot name a column" for name in names if "`" in name or name == '""'), None)


def _fault(bare: str) -> str | None:
    """The error in an expression whose quoted parts were emptied; None where there is none."""
    if not bare.strip():
        return "it is empty"
    for mark in (";", "--", "/*", "$", "?", "\0", "'", '"', "`"):
        if mark in bare.replace("''", ""):
            return f"{mark!r} cannot stand outside a quoted text"
    depth = 0
    for c in bare:
        depth += (c == "(") - (c == ")")
        if depth < 0:
            return "a bracket closes that was not opened"
    if depth:
        return "a bracket is not closed"
    return "chance and the clock give no lasting answer" if VOLATILE.search(bare) else None


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"
