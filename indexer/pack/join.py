"""Joins rows of the user's table to files, by the names in the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from indexer.user_tables.joining import NameMatcher, Pair, counted, forgiven_words


@dataclass(frozen=True)
class Joined:
    """The assignment of rows to files."""

    row_of: Mapping[str, str] = field(default_factory=dict)  # a file's path → the name in the table
    forgiven: tuple[Pair, ...] = ()  # inexact matches (suffix, case or Unicode form)
    rows_unused: tuple[str, ...] = ()
    files_without_row: int = 0

    def notes(self) -> list[str]:
        """Messages about inexact matches and rows without a file, with counts and examples."""
        found = [forgiven_words(self.forgiven)] if self.forgiven else []
        if self.rows_unused:
            found.append(f"rows that no file answers to: {counted(self.rows_unused, len(self.rows_unused))}")
        return found


def join(rows: Iterable[str], paths: Callable[[], Iterable[str]]) -> Joined:
    """Join by the path below the source, else by the file name, then ignoring letter case and Unicode form, then also
    the suffix, each only where exactly one row and one file match. `paths` is called twice; memory grows with the rows.
    """
    rows = set(rows)
    row_of: dict[str, str] = {}
    files = 0
    for path in paths():
        files += 1
        if path in rows:
            row_of[path] = path
    matcher = NameMatcher(sorted(rows - row_of.keys()))
    matcher.see_written(sorted(rows))
    matcher.see_stored(paths())
    pairs = matcher.pairs()
    row_of |= {pair.stored: pair.written for pair in pairs}
    unused = tuple(sorted(rows - set(row_of.values())))
    return Joined(row_of, tuple(pair for pair in pairs if pair.rule), unused, files - len(row_of))
