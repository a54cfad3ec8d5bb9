"""Rows of the user's table → files, by the names written in the table."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from indexer.archive.left_out import counted
from indexer.archive.samples import image_suffix


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _folded(path: str) -> str:
    """Without regard to letter case and Unicode form: macOS writes names decomposed (NFD), most others composed."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _bare(path: str) -> str:
    """Also without the ending of an image."""
    suffix = image_suffix(path)
    return _folded(path[: -len(suffix) - 1] if suffix else path)


# How a row's name may answer to a file's path, the strictest first.
_RULES: Sequence[Callable[[str], str]] = (
    _name,
    _folded,
    lambda path: _folded(_name(path)),
    _bare,
    lambda path: _bare(_name(path)),
)
_FORGIVING = 1  # rules from here on leave something of the name aside


@dataclass
class _Answers:
    """What answers to a name under one rule: a row and a file, and whether there is more than one of either."""

    row: str
    rows: int = 1
    file: str = ""
    files: int = 0


@dataclass(frozen=True)
class Joined:
    """Which row belongs to which file."""

    row_of: Mapping[str, str] = field(default_factory=dict)  # a file's path → the name written in the table
    forgiven: tuple[tuple[str, str], ...] = ()  # (name in the table, path) joined in spite of ending, case or form
    rows_unused: tuple[str, ...] = ()
    files_without_row: int = 0

    def notes(self) -> list[str]:
        """Sentences on what was forgiven and on what joined nothing, each with its count and examples."""
        found = []
        if self.forgiven:
            pairs = counted([f"{row} → {path}" for row, path in self.forgiven], len(self.forgiven))
            found.append(f"rows joined without regard to ending, letter case or Unicode form: {pairs}")
        if self.rows_unused:
            found.append(f"rows that no file answers to: {counted(self.rows_unused, len(self.rows_unused))}")
        return found


def join(rows: Iterable[str], paths: Iterable[str]) -> Joined:
    """By the path below the source; else by the file name, then in spite of letter case and Unicode form, then of the
    ending, each only where one row and one file alone answer. `paths` is read once; memory grows with the rows alone.
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
