"""Joins rows of the user's table to files, by the names in the table."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from indexer.archive.left_out import counted
from indexer.archive.samples import image_suffix


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _folded(path: str) -> str:
    """Case-folded and in one Unicode form: macOS writes names decomposed (NFD), most other systems composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _bare(path: str) -> str:
    """`_folded`, without an image's suffix."""
    suffix = image_suffix(path)
    return _folded(path[: -len(suffix) - 1] if suffix else path)


# Rules by which a row's name matches a file's path, the strictest first.
_RULES: Sequence[Callable[[str], str]] = (
    _name,
    _folded,
    lambda path: _folded(_name(path)),
    _bare,
    lambda path: _bare(_name(path)),
)
_FORGIVING = 1  # index of the first rule that ignores a part of the name


@dataclass
class _Answers:
    """The row and the file that match a name under one rule, and whether there are several of either."""

    row: str
    rows: int = 1
    file: str = ""
    files: int = 0


@dataclass(frozen=True)
class Joined:
    """The assignment of rows to files."""

    row_of: Mapping[str, str] = field(default_factory=dict)  # a file's path → the name in the table
    forgiven: tuple[tuple[str, str], ...] = ()  # (name in the table, path) that differ in suffix, case or Unicode form
    rows_unused: tuple[str, ...] = ()
    files_without_row: int = 0

    def notes(self) -> list[str]:
        """Messages about rows joined by a tolerant rule and rows without a file, with counts and examples."""
        found = []
        if self.forgiven:
            pairs = counted([f"{row} → {path}" for row, path in self.forgiven], len(self.forgiven))
            found.append(f"rows joined without regard to ending, letter case or Unicode form: {pairs}")
        if self.rows_unused:
            found.append(f"rows that no file answers to: {counted(self.rows_unused, len(self.rows_unused))}")
        return found


def join(rows: Iterable[str], paths: Iterable[str]) -> Joined:
    """Join by the path below the source, else by the file name, then ignoring letter case and Unicode form, then also
    the suffix, each only where exactly one row and one file match. `paths` is read once; memory grows with the rows
    only.
    """
    rows = set(rows)
    tables = [_by_rule(rows, rule) for rule in _RULES]
    row_of: dict[str, str] = {}
    files = 0
    for path in paths:
        files += 1
        if path in rows:
            row_of[path] = path
        for number, (rule, table) in enumerate(zip(_RULES, tables, strict=True)):
            answers = table.get(rule(path))
            if answers is not None and (number >= _FORGIVING or path not in rows):
                answers.files += 1
                answers.file = path
    used, forgiven = set(row_of), []
    for number, table in enumerate(tables):
        for answers in table.values():
            free = answers.row not in used and answers.file not in row_of
            if answers.rows == answers.files == 1 and free:
                row_of[answers.file] = answers.row
                used.add(answers.row)
                if number >= _FORGIVING:
                    forgiven.append((answers.row, answers.file))
    return Joined(row_of, tuple(forgiven), tuple(sorted(rows - used)), files - len(row_of))


def _by_rule(rows: Iterable[str], rule: Callable[[str], str]) -> dict[str, _Answers]:
    table: dict[str, _Answers] = {}
    for row in sorted(rows):
        answers = table.setdefault(rule(row), _Answers(row, 0))
        answers.rows += 1
    return table
