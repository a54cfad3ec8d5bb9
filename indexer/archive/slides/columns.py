"""Tables about slides: `slides.csv` beside them, whose columns become columns of the tiles, and --mpp-of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from indexer.archive.slides.named import stem
from indexer.archive.tables.columns import field_names, scalar
from indexer.errors import InputError
from indexer.slides.levels import SOUND_MPP
from indexer.user_tables.joining import counted
from indexer.user_tables.typed_csv import TypedCsv

BESIDE = "slides.csv"
SLIDE, MPP = "slide", "mpp"


class SlideRows:
    """The rows of a table by the slide that they name: its path below the folder, or its name, with or without suffix.

    Raises InputError where the table has no column `slide`, or names one slide twice.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        table = TypedCsv(file, [SLIDE], [SLIDE])
        if SLIDE not in table.names:
            raise InputError(
                f"{file} has no column {SLIDE}; it has: {', '.join(table.names)}. Add one with their names."
            )
        self._fields, self.notes = field_names(str(file), [name for name in table.names if name != SLIDE])
        self._rows: dict[str, Mapping[str, Any]] = {}
        for record in table.records():
            name = str(record.pop(SLIDE) or "")
            if name in self._rows:
                raise InputError(f"{file} has slide {name} twice. Leave one row of each.")
            self._rows[name] = record
        self._unused = dict.fromkeys(self._rows)

    def of(self, key: str) -> dict[str, Any]:
        """The fields of a slide's row without missing values; none where it has no row."""
        name = PurePosixPath(key).name
        for candidate in (key, stem(key), name, stem(name)):
            if candidate in self._rows:
                self._unused.pop(candidate, None)
                found = {self._fields[column]: scalar(value) for column, value in self._rows[candidate].items()}
                return {field: value for field, value in found.items() if value is not None}
        return {}

    def unused(self) -> list[str]:
        """A line about the rows that named no slide so far."""
        names = list(self._unused)
        return [f"{self.file}: rows that name no slide: {counted(names[:3], len(names))}"] if names else []


def resolution_of(rows: SlideRows, key: str) -> float | None:
    """The micrometres a pixel that --mpp-of gives for a slide. Raises InputError for a value that cannot be."""
    value = rows.of(key).get(MPP)
    if value is None:
        return None
    low, high = SOUND_MPP
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise InputError(f"{rows.file}: mpp of {key} is {value!r}. Give micrometres a pixel, {low:g} to {high:g}.")
    return float(value)
