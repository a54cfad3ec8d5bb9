"""A --where expression is one boolean SQL expression over the table's columns, and nothing else."""

from __future__ import annotations

import re

from indexer.errors import BadFilter

VOLATILE = re.compile(r"\b(random|rand|uuid)\s*\(", re.IGNORECASE)  # two reads of one version would not agree
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`")


def expression(where: str | None, table: str) -> str | None:
    """`where` in brackets, after a check that nothing in it can close them.

    Lance hands the text to a parser of whole statements and drops what stands behind the first expression:
    `sex = 'F' garbage` would count as `sex = 'F'`. In brackets the parser must take all of it. Raises BadFilter.
    """
    if where is None:
        return None
    bare = _QUOTED.sub("''", where)
    cause = _fault(bare)
    if cause:
        raise BadFilter(f"--where {where!r} on table {table}: {cause}. Give one expression, e.g. \"sex = 'F'\".")
    return f"({where})"


def _fault(bare: str) -> str | None:
    """What is wrong with an expression whose quoted parts were emptied."""
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
    return "a random function gives no lasting answer" if VOLATILE.search(bare) else None
