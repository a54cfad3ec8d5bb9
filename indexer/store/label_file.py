"""A user's file of labels (CSV or Parquet) as an Arrow table: blanks are missing, and `007` stays a name."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from indexer.column_types import MISSING, Kind, kind_of
from indexer.errors import InputError

TYPES: Mapping[Kind, Any] = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string()}


def read_labels(file: Path, on: str) -> pa.Table:
    """The table with its column `on` as it is written, and the others typed. Raises InputError."""
    table = _parquet(file) if file.suffix.lower() in (".parquet", ".pq") else _csv(file, on)
    names = table.column_names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InputError(f"{file} has the column {', '.join(repeated)} twice.")
    if on not in names:
        raise InputError(f"{file} has no column {on!r}; it has: {', '.join(names)}. Name one with --on.")
    if not table.num_rows or len(names) == 1:
        raise InputError(f"{file} holds no label: it has {table.num_rows} rows and the columns {', '.join(names)}.")
    empty = [name for name in names if table.column(name).null_count == table.num_rows]
    if empty:
        raise InputError(f"{file}: column {', '.join(empty)} has no value at all. Leave it out.")
    return table


def _parquet(file: Path) -> pa.Table:
    try:
        return pa.parquet.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _csv(file: Path, on: str) -> pa.Table:
    """Every column is read as text first: Arrow's own guess would make 7 of 007 and "" of a blank."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            names = next(csv.reader(lines), [])
        blanks = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=list(MISSING)
        )
        table = pa.csv.read_csv(file, convert_options=blanks)
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is no CSV table in UTF-8: {str(error).splitlines()[0]}") from error
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        text = pc.utf8_trim_whitespace(column.cast(pa.string()))
        text = pc.if_else(pc.is_in(text, pa.array(MISSING)), None, text)
        kind = "text" if name == on else kind_of(pc.unique(text).drop_null().to_pylist())
        columns[name] = pc.utf8_lower(text).cast(pa.bool_()) if kind == "bool" else text.cast(TYPES[kind])
    return pa.table(list(columns.values()), names=list(columns)) if len(columns) == len(names) else table
