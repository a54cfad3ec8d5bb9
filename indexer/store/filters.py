"""A --where expression is one boolean SQL expression over the table's columns, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from indexer.errors import BadFilter, StoreError

VOLATILE = re.compile(r"\b(random|rand|uuid)\s*\(", re.IGNORECASE)  # two reads of one version would not agree
STORAGE_FAULT = ("LanceError(IO)", "External error", "Not found: ", "os error")  # in Lance's words; not the filter's
MENDED_BY = "Run `indexer index` with the same arguments again: it embeds what is lost."
_UNKNOWN = re.compile(r'No field named "?(\w+)')
_INTERNAL = re.compile(r", _row\w+")  # of the columns that Lance lists; no user has them
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


def _quotes(line: str) -> str:
    """A word without quotes is a column to SQL, and so is one in double quotes."""
    unknown = _UNKNOWN.search(line)
    stop = "" if line.endswith("?") else "."
    return f"{stop} If {unknown[1]} is a text and no column, quote it: '{unknown[1]}'." if unknown else stop


@contextmanager
def reading(where: str | None, table: str) -> Iterator[None]:
    """Lance's errors become ours: about the filter BadFilter, about the files StoreError."""
    try:
        yield
    except (ValueError, OSError) as error:
        line = first_line(error)
        if where is not None and not any(mark in str(error) for mark in STORAGE_FAULT):
            raise BadFilter(f"--where {where!r} on table {table}: {line}{_quotes(line)}") from error
        raise StoreError(f"table {table} cannot be read ({line}). {MENDED_BY}") from error
    except BaseException as error:
        if not is_panic(error):
            raise
        if where is not None:  # Lance's planner dies of some expressions
            raise BadFilter(f"--where {where!r} on table {table}: the database cannot evaluate it") from error
        raise StoreError(f"table {table} is damaged. {MENDED_BY}") from error


def is_panic(error: BaseException) -> bool:
    """Lance gave up, as on a file cut in an unlucky place. The class can be neither imported nor pickled."""
    return type(error).__name__ == "PanicException"


def first_line(error: BaseException) -> str:
    """Lance's own words without its source positions and prefixes."""
    line = str(error).splitlines()[0].split(", /")[0] if str(error) else type(error).__name__
    for prefix in ("Invalid user input: ", "Schema error: ", "LanceError(IO): ", "External error: "):
        line = line.removeprefix(prefix)
    return _INTERNAL.sub("", line).rstrip(" .")
