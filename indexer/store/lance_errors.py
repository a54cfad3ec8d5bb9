"""Maps Lance's errors (bad filter, damaged files, full disk, Ctrl-C) to this package's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from indexer.errors import BadFilter, StoreError

# Texts in Lance's messages about files, not about a filter
STORAGE_FAULT = ("LanceError(IO)", "External error", "Not found: ", "os error")
MENDED_BY = "Run `indexer index` with the same arguments again: it embeds lost rows, and names lost columns."
_UNKNOWN = re.compile(r'No field named "?(\w+)')
_INTERNAL = re.compile(r", _row\w+")  # Lance's internal columns in its lists of columns


def _quotes(line: str) -> str:
    """A hint for an unknown column: an unquoted or double-quoted word in SQL is a column, not a text."""
    unknown = _UNKNOWN.search(line)
    stop = "" if line.endswith("?") else "."
    return (
        f"{stop} If {unknown[1]} is a text and no column, put it in single quotes: '{unknown[1]}'." if unknown else stop
    )


@contextmanager
def reading(where: str | None, table: str) -> Iterator[None]:
    """Maps Lance's errors inside the context: of the filter to BadFilter, of the files to StoreError."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: a task of Lance's panicked
        line = first_line(error)
        if where is not None and not any(mark in str(error) for mark in STORAGE_FAULT):
            raise BadFilter(f"--where {where!r} on table {table}: {line}{_quotes(line)}") from error
        raise StoreError(f"table {table} cannot be read ({line}). {MENDED_BY}") from error
    except BaseException as error:
        if not is_panic(error):
            raise
        if where is not None:  # Lance's planner panics on some expressions
            raise BadFilter(f"--where {where!r} on table {table}: the database cannot evaluate it") from error
        raise StoreError(f"table {table} is damaged. {MENDED_BY}") from error


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Maps Lance's errors of a write to a StoreError of one line. A rerun commits nothing twice: it reads the state."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        stop_if_interrupted(error)
        cause = first_line(error)
        full = "No space left" in str(error) or "os error 28" in str(error)
        way_out = "Free some space" if full else "Fix the cause"
        raise StoreError(
            f"{what} cannot be written ({'no space left on the disk' if full else cause}). {way_out} and run the same "
            "command again; what is stored stays."
        ) from error


def stop_if_interrupted(error: Exception) -> None:
    """Raise KeyboardInterrupt where Lance has wrapped Ctrl-C in its own error, which says nothing about the files."""
    if "KeyboardInterrupt" in str(error):
        raise KeyboardInterrupt from error


def is_panic(error: BaseException) -> bool:
    """Whether Lance panicked, as on some truncated files. The class can be neither imported nor pickled."""
    return type(error).__name__ == "PanicException"


def first_line(error: BaseException) -> str:
    """The first line of Lance's message, without source positions and prefixes."""
    line = str(error).splitlines()[0].split(", /")[0] if str(error) else type(error).__name__
    for prefix in ("Invalid user input: ", "Schema error: ", "LanceError(IO): ", "External error: "):
        line = line.removeprefix(prefix)
    return _INTERNAL.sub("", line).rstrip(" .")
