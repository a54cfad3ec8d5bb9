"""Reads a file of labels (CSV or Parquet) as an Arrow table: blanks are null, and `007` stays a string.

The table is mapped from a temporary file, so that memory does not grow with the file.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from indexer.column_types import MISSING, ColumnType, column_type
from indexer.errors import InputError

TYPES: Mapping[ColumnType, Any] = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string()}
BLOCK_BYTES = 4 << 20  # of CSV parsed at once


def read_labels(file: Path, on: str) -> pa.Table:
    """The table, with column `on` as strings exactly as written in a CSV, and the others typed. Raises InputError."""
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
        with pa.parquet.ParquetFile(file) as source:
            return _mapped(source.schema_arrow, source.iter_batches())
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _csv(file: Path, on: str) -> pa.Table:
    """Reads every column as text first: Arrow's type inference would turn 007 into 7 and a blank into ""."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as lines:
            names = next(csv.reader(lines), [])
        blanks = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in names}, strings_can_be_null=True, null_values=list(MISSING)
        )
        blocks = pa.csv.ReadOptions(block_size=BLOCK_BYTES)
        with pa.csv.open_csv(file, read_options=blocks, convert_options=blanks) as source:
            names = source.schema.names
            text = pa.schema([(f"{i}", pa.string()) for i in range(len(names))])  # a header may repeat a name
            trimmed = _mapped(text, (_trimmed(batch, text) for batch in source))
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file} is not a CSV table in UTF-8: {str(error).splitlines()[0]}") from error
    kinds = ["text" if name == on else _kind(trimmed.column(i)) for i, name in enumerate(names)]
    typed = pa.schema([(name, TYPES[kind]) for name, kind in zip(names, kinds, strict=True)])
    return _mapped(typed, (_typed(batch, typed) for batch in trimmed.to_batches()))


def _trimmed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [pc.utf8_trim_whitespace(column.cast(pa.string())) for column in batch.columns]
    missing = pa.array(MISSING)
    return pa.record_batch([pc.if_else(pc.is_in(text, missing), None, text) for text in columns], schema=schema)


def _kind(column: pa.ChunkedArray) -> ColumnType:
    """The narrowest type of all values, determined chunk by chunk."""
    kinds = {column_type(values) for chunk in column.chunks if (values := pc.unique(chunk).drop_null().to_pylist())}
    if len(kinds) < 2:
        return next(iter(kinds), "int")
    return "float" if kinds == {"int", "float"} else "text"


def _typed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        pc.utf8_lower(text).cast(pa.bool_()) if pa.types.is_boolean(field.type) else text.cast(field.type)
        for text, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.record_batch(columns, schema=schema)


def _mapped(schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """The batches as a table whose values are mapped from an unlinked temporary file."""
    with tempfile.NamedTemporaryFile(prefix="labels-") as file:
        _write(file, schema, iter(batches))
        with pa.memory_map(file.name) as source:
            return pa.ipc.open_file(source).read_all()


def _write(file: IO[bytes], schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    with pa.ipc.new_file(file, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
    file.flush()
