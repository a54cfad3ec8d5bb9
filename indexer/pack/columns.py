"""Reads the user's table of metadata (CSV or Parquet) and infers column types."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.column_types import MISSING, ColumnType, column_type
from indexer.errors import InputError
from indexer.pack.secret import KeyedHash

PATH_COLUMNS = ("path", "file", "filename", "file_name", "image", "image_path")

CONVERT: Mapping[ColumnType, Callable[[str], Any]] = {
    "int": int, "float": float, "bool": lambda text: text.lower() == "true", "text": str,
}  # fmt: skip


@dataclass(frozen=True)
class Columns:
    """One row of metadata for each path in the table."""

    on: str
    rows: Mapping[str, Mapping[str, Any]]  # path as written in the table → its other columns, nulls left out

    @property
    def names(self) -> set[str]:
        return {name for row in self.rows.values() for name in row}


def read_columns(path: Path, on: str | None, hashed: Sequence[str], keyed: KeyedHash | None) -> Columns:
    """Read the table. Raises InputError where it is unreadable, names a path twice, or lacks a requested column."""
    if not path.exists() or path.is_dir():  # not is_file: a named pipe may be read
        raise InputError(f"--csv {path}: there is no such file.")
    if path.suffix.lower() in (".parquet", ".pq"):
        names, records = _parquet(path)
    else:
        names, records = _csv(path)
    column = on or next((name for name in PATH_COLUMNS if name in names), None)
    if column is None or column not in names:
        asked = f"no column {on!r}" if on else f"no column named {', '.join(PATH_COLUMNS)}"
        raise InputError(f"{path} has {asked}. Its columns: {', '.join(names)}. Name the path's column with --on.")
    absent = [name for name in hashed if name not in names]
    if absent:
        raise InputError(f"{path} has no column {', '.join(absent)} to hash. Its columns: {', '.join(names)}.")
    rows: dict[str, dict[str, Any]] = {}
    for record in records:
        name = str(record.pop(column) or "").replace("\\", "/").removeprefix("./")
        if not name:
            raise InputError(f"{path}: a row has no value in column {column}.")
        if name in rows:
            raise InputError(f"{path} names {name} twice.")
        rows[name] = _hashed(record, hashed, keyed)
    return Columns(column, rows)


def _hashed(record: dict[str, Any], hashed: Sequence[str], keyed: KeyedHash | None) -> dict[str, Any]:
    found = {name: value for name, value in record.items() if value is not None}
    for name in hashed:
        if name in found and keyed is not None:
            found[name] = keyed("patient" if name == "patient" else f"column {name}", str(found[name]))
    return found


def _csv(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True, restkey="", restval="")
            records: list[dict[str, Any]] = list(reader)
            names = list(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV in UTF-8: {error}") from error
    if any("" in record for record in records) or len(set(names)) != len(names) or "" in names:
        raise InputError(f"{path}: a row is longer than the header, or a column has no name of its own.")
    for name in names:
        convert = CONVERT[column_type(record[name].strip() for record in records)]
        for record in records:
            text = record[name].strip()
            record[name] = None if text in MISSING else convert(text)
    return names, records


def _parquet(path: Path) -> tuple[list[str], list[dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {error}") from error
    records = [{name: _scalar(value) for name, value in record.items()} for record in table.to_pylist()]
    return list(table.column_names), records


def _scalar(value: Any) -> Any:
    """A value that JSON can hold: dates as ISO text, NaN and infinity as missing."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
