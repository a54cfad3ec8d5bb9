"""Reads the user's table of metadata (CSV or Parquet) and infers column types."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.errors import InputError
from indexer.pack.headers.secret import KeyedHash
from indexer.user_tables.column_types import MISSING, ColumnType, column_type, forms_of, plain_column
from indexer.user_tables.layout import HEAD_BYTES, Layout, is_parquet, layout_of, not_decoded

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")

CONVERT: Mapping[ColumnType, Callable[[str], Any]] = {
    "int": int, "float": float, "bool": lambda text: text.lower() == "true", "text": str,
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """One row of metadata for each path in the table."""

    on: str
    rows: Mapping[str, Mapping[str, Any]]  # path as written in the table → its other columns, nulls left out
    notes: tuple[str, ...] = ()  # on columns that got another name

    @property
    def names(self) -> set[str]:
        return {name for row in self.rows.values() for name in row}


def read_columns(
    path: Path, on: str | None, hashed: Sequence[str], keyed: KeyedHash | None, encoding: str | None = None
) -> Columns:
    """Read the table. Raises InputError where it is unreadable, names a path twice, or lacks a requested column."""
    if not path.exists() or path.is_dir():  # a named pipe may be read
        raise InputError(f"--csv {path}: there is no such file. Name a CSV or Parquet file.")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"--csv {path} cannot be read: {error.strerror}. Name another file.") from error
    wanted = [on] if on else PATH_COLUMNS
    if is_parquet(path, data):
        names, records = _parquet(path, data)
    else:
        layout = layout_of(path, data[:HEAD_BYTES], wanted, encoding)
        as_written = {*hashed, *[name for name in wanted if name in layout.names][:1]}
        names, records = _csv(path, data, layout, as_written)
    column = next((name for name in wanted if name in names), None)
    if column is None:
        asked = f"no column {on!r}" if on else f"no column named {', '.join(PATH_COLUMNS)}"
        raise InputError(f"{path} has {asked}. Its columns: {', '.join(names)}. Name the path's column with --on.")
    absent = [name for name in hashed if name not in names]
    if absent:
        raise InputError(
            f"{path} has no column {', '.join(absent)} to hash. Its columns: {', '.join(names)}. Correct --hash."
        )
    stored = _stored_names(path, [name for name in names if name != column])
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        name = str(record.pop(column) or "").replace("\\", "/").removeprefix("./")
        if not name:
            raise InputError(f"{path}: a row has no value in column {column}. Fill it in, or leave the row out.")
        if name in rows:
            raise InputError(f"{path} names {name} twice. Leave one of the rows out.")
        kept = _hashed(record, hashed, keyed)
        rows[name] = {stored[field]: value for field, value in kept.items()}
    notes = tuple(f"column {old!r} is stored as {new}" for old, new in stored.items() if old != new)
    return Columns(column, rows, notes)


def _stored_names(path: Path, names: Sequence[str]) -> dict[str, str]:
    """The file's columns → metadata columns, by `plain_column`. Raises InputError where two would become equal."""
    stored = {name: plain_column(name) or name for name in names}
    twice = sorted(name for name in names if [*stored.values()].count(stored[name]) > 1)
    if twice:
        raise InputError(
            f"{path}: the columns {', '.join(map(repr, twice))} would be one, {stored[twice[0]]}. Rename one."
        )
    return stored


def _hashed(record: dict[str, Any], hashed: Sequence[str], keyed: KeyedHash | None) -> dict[str, Any]:
    found = {name: value for name, value in record.items() if value is not None}
    for name in hashed:
        if name in found and keyed is not None:
            found[name] = keyed("patient" if name == "patient" else f"column {name}", str(found[name]))
    return found


def _csv(
    path: Path, data: bytes, layout: Layout, as_written: Set[str]
) -> tuple[list[str], list[dict[str, Any]]]:  # fmt: skip
    """The columns' names and the rows. Columns `as_written`, which name a file or a patient, stay text."""
    names = list(layout.names)
    try:
        lines = io.StringIO(data.decode(layout.encoding), newline="")
        reader = csv.DictReader(lines, names, strict=True, restkey="", restval="", delimiter=layout.delimiter)
        records: list[dict[str, Any]] = list(reader)[1 + layout.skipped :]
    except UnicodeDecodeError as error:
        raise not_decoded(path, layout.encoding, error) from error
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as CSV: {error}. Save it anew as CSV in UTF-8.") from error
    if any("" in record for record in records) or len(set(names)) != len(names) or "" in names:
        raise InputError(
            f"{path}: a row is longer than the header, or a column has no name of its own. Correct the file."
        )
    for name in names:
        texts = [record[name].strip() for record in records]
        convert = str if name in as_written else CONVERT[column_type(forms_of(texts))]
        for record, text in zip(records, texts, strict=True):
            record[name] = None if text in MISSING else convert(text)
    return names, records


def _parquet(path: Path, data: bytes) -> tuple[list[str], list[dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}. Name a whole file, or a CSV table.") from error
    records = [{name: _scalar(value) for name, value in record.items()} for record in table.to_pylist()]
    return list(table.column_names), records


def _scalar(value: Any) -> Any:
    """A value that JSON can hold: dates as ISO text, NaN and infinity as missing."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
