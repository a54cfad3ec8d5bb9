"""A user's CSV file read row by row, with each column's type found first: memory does not grow with the file."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from indexer.errors import InputError
from indexer.user_tables.column_types import MISSING, ColumnType, Form, column_type, forms_of
from indexer.user_tables.layout import HEAD_BYTES, layout_of, not_decoded

CONVERT: Mapping[ColumnType, Callable[[str], Any]] = {
    "int": int, "float": float, "bool": lambda text: text.lower() == "true", "text": str,
}  # fmt: skip
_BATCH = 8192  # rows whose forms are found together


class TypedCsv:
    """The rows of a CSV file as records. Raises InputError where it is none, here and while it is read."""

    def __init__(self, file: Path, wanted: Sequence[str], as_text: Sequence[str] = ()) -> None:
        """`wanted`: names of which one is in the header; `as_text`: columns that name something and stay as written."""
        with file.open("rb") as source:
            self._layout = layout_of(file, source.read(HEAD_BYTES), wanted, None)
        self._file, self._as_text = file, as_text
        self.names = self._layout.names
        if len(set(self.names)) != len(self.names) or "" in self.names:
            raise InputError(f"{file}: a column has no name of its own. Correct the header.")
        self._types: dict[str, ColumnType] | None = None

    def texts(self, columns: Sequence[str]) -> Iterator[list[str]]:
        """These columns of each row, trimmed, as written."""
        spots = [self.names.index(name) for name in columns]
        try:
            with self._file.open(encoding=self._layout.encoding, newline="") as lines:
                reader = csv.reader(lines, delimiter=self._layout.delimiter, strict=True)
                for _ in range(1 + self._layout.skipped):
                    next(reader, None)
                for cells in reader:
                    if not cells:
                        continue
                    if len(cells) != len(self.names):
                        raise InputError(
                            f"{self._file}: line {reader.line_num} has {len(cells)} columns and the header "
                            f"{len(self.names)}. Correct the file."
                        )
                    yield [cells[spot].strip() for spot in spots]
        except UnicodeDecodeError as error:
            raise not_decoded(self._file, self._layout.encoding, error) from error
        except csv.Error as error:
            raise InputError(f"{self._file} cannot be read as CSV: {error}. Save it anew as CSV in UTF-8.") from error

    def records(self) -> Iterator[dict[str, Any]]:
        """Column → value of each row; None where it is missing."""
        types = self._types = self._types or self._found()
        convert = [CONVERT[types[name]] for name in self.names]
        for cells in self.texts(self.names):
            yield {
                name: None if text in MISSING else to(text)
                for name, text, to in zip(self.names, cells, convert, strict=True)
            }

    def _found(self) -> dict[str, ColumnType]:
        forms: dict[str, set[Form]] = {name: set() for name in self.names}
        rows = self.texts(self.names)
        while batch := list(islice(rows, _BATCH)):
            for name, texts in zip(self.names, zip(*batch, strict=True), strict=True):
                forms[name] |= forms_of(texts)
        return {name: "text" if name in self._as_text else column_type(forms[name]) for name in self.names}
