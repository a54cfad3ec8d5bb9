"""Reads a file of labels (CSV or Parquet) as an Arrow table: blanks are null, and `007` stays a string.

The table is mapped from a temporary file, so that memory does not grow with the file.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from indexer.decompression import decompressed, is_compressed
from indexer.errors import InputError
from indexer.malloc import release_freed_memory
from indexer.store.labelling.index import plain_values
from indexer.store.schema import refused_name
from indexer.user_tables.column_types import MISSING, ColumnType, Form, column_type, forms_of, plain_column
from indexer.user_tables.layout import HEAD_BYTES, Layout, is_parquet, layout_of, not_decoded

TYPES: Mapping[ColumnType, Any] = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string()}
MAX_UNPACKED = 8 << 30  # bytes of a compressed file of labels
PARQUET_ROWS = 2048  # read at once: a few bytes of a dictionary may be a long text in each row
BLOCK_BYTES = 512 << 10  # of CSV parsed at once; a line must be shorter. Arrow reads some 60 of them ahead


@dataclass(frozen=True)
class Choice:
    """Which columns of the file are read, and what they are called in the table."""

    on: str  # the file's column that names the row
    stored_on: str = "key"  # the table's
    columns: tuple[tuple[str, str], ...] = ()  # (the file's, the table's or "" for the same); (): all
    encoding: str | None = None  # of CSV; None: by its byte order mark, else UTF-8
    without: tuple[str, ...] = ()  # of the file's columns


@dataclass(frozen=True)
class LabelFile:
    """The chosen columns under the table's names, and sentences on what was renamed or left out."""

    table: pa.Table
    notes: tuple[str, ...]


def parse_columns(text: str) -> tuple[tuple[str, str], ...]:
    """`a,"b, c"=new` → (("a", ""), ("b, c", "new")). Raises InputError."""
    try:
        items = [item.strip() for item in next(csv.reader([text], skipinitialspace=True), [])]
    except csv.Error as error:
        raise InputError(
            f"--columns {text}: {error}. Give names as in --columns 'grade,Patient ID=patient'."
        ) from error
    if not items or not all(items):
        raise InputError(f"--columns {text!r} names no column. Give names as in --columns 'grade,Patient ID=patient'.")
    pairs = [item.rpartition("=") if "=" in item else (item, "", "") for item in items]
    return tuple((old.strip(), new.strip()) for old, _, new in pairs)


def read_labels(file: Path, choice: Choice, stored: Mapping[str, pa.DataType]) -> LabelFile:
    """The column that names the row as it is written, and the chosen others typed. Raises InputError.

    `stored` are the table's columns: a CSV column of such a name stays text here, to be cast to the stored type.
    """
    try:
        with unpacked(file) as source:
            head = _head(source)
            read = _parquet if is_parquet(source, head) else _csv
            table, notes = read(source, head, choice, stored)
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror or error}. Name a CSV or Parquet file.") from error
    release_freed_memory()  # of the blocks that were parsed
    empty = [name for name in table.column_names[1:] if table.column(name).null_count == table.num_rows]
    if not table.num_rows or len(empty) == table.num_columns - 1:
        raise InputError(
            f"{file} holds no label: it has {table.num_rows} rows, and no value in "
            f"{', '.join(table.column_names[1:]) or 'any other column'}. Name a file with labels beside {choice.on!r}."
        )
    if empty:
        notes.append(f"left out, without any value: {', '.join(empty)}")
    return LabelFile(table.drop_columns(empty), tuple(notes))


@contextmanager
def unpacked(file: Path) -> Iterator[Path]:
    """The file, or for a compressed one its content under its name without the ending. Raises OSError, InputError.

    What comes through a pipe (`<(program)`, /dev/stdin) is read once into a temporary file.
    """
    if file.is_fifo():
        with tempfile.TemporaryDirectory(prefix="labels-") as folder, file.open("rb") as pipe:
            content = Path(folder) / file.name
            _copied(pipe, content, file)
            with unpacked(content) as source:
                yield source
        return
    with file.open("rb") as raw:
        if not is_compressed(raw.read(HEAD_BYTES)):
            yield file
            return
        raw.seek(0)
        with tempfile.TemporaryDirectory(prefix="labels-") as folder:
            content = Path(folder) / (file.stem or file.name)
            try:
                _copied(decompressed(raw), content, file)
            except (EOFError, ValueError) as error:
                raise InputError(f"{file} is damaged: {error}. Fetch it again.") from error
            yield content


def _copied(source: IO[bytes], to: Path, name: Path) -> None:
    with to.open("wb") as out:
        while block := source.read(1 << 20):
            if out.tell() + len(block) > MAX_UNPACKED:
                raise InputError(f"{name} holds more than {MAX_UNPACKED:,} bytes once unpacked. Unpack it first.")
            out.write(block)


def _head(file: Path) -> bytes:
    with file.open("rb") as source:
        return source.read(HEAD_BYTES)


def _chosen(file: Path, names: Sequence[str], choice: Choice) -> tuple[dict[str, str], list[str]]:
    """The file's column → the table's, that of the row's name first; and what there is to say of them."""
    if choice.on not in names:
        raise InputError(
            f"{file} has no column {choice.on!r}; it has: {', '.join(names)}. Name one with --on, or with "
            f"--on COLUMN={choice.stored_on} where it is called otherwise there."
        )
    if names.count(choice.on) > 1:
        raise InputError(f"{file} has the column {choice.on} twice. Leave one out.")
    absent = [old for old in (*(old for old, _ in choice.columns), *choice.without) if old not in names]
    if absent:
        raise InputError(f"{file} has no column {', '.join(absent)}; it has: {', '.join(names)}. Correct --columns.")
    notes = []
    wanted = choice.columns or tuple((name, "") for name in names if name not in (choice.on, "", *choice.without))
    if not choice.columns and "" in names:
        notes.append("left out: a column without a name")
    found = {choice.on: choice.stored_on}
    for old, new in wanted:
        stored = new or plain_column(old)
        way_out = f'Give it another name with --columns "{old}=NAME", or leave it out there.'
        cause = refused_name(stored)
        if cause:
            raise InputError(f"{file}: {old!r} cannot be a label column ({cause}). {way_out}")
        if old in found or names.count(old) > 1:
            raise InputError(f"{file} has the column {old} twice, or --columns names it twice. Leave one out.")
        if stored in found.values():
            raise InputError(f"{file}: two columns would be {stored} in the table. {way_out}")
        if stored != old and not new:
            notes.append(f"column {old!r} is stored as {stored}")
        found[old] = stored
    return found, notes


def _parquet(
    file: Path, head: bytes, choice: Choice, stored: Mapping[str, pa.DataType]
) -> tuple[pa.Table, list[str]]:  # fmt: skip
    del head, stored
    try:
        with pa.parquet.ParquetFile(file) as source:
            schema = source.schema_arrow
            found, notes = _chosen(file, schema.names, choice)
            other = [] if choice.columns else [old for old in found if _no_label(schema.field(old).type)]
            if other:
                notes.append(f"left out, not plain values: {', '.join(other)}")
            plain = {old: new for old, new in found.items() if old not in other}
            nothing = schema.empty_table().select(list(plain))
            typed = pa.schema([(plain[name], plain_values(nothing.column(name)).type) for name in plain])
            batches = source.iter_batches(PARQUET_ROWS, columns=list(plain))
            return _mapped(typed, (_plain(batch, list(plain), typed) for batch in batches)), notes
    except (pa.ArrowException, OSError) as error:
        cause = str(error).splitlines()[0]
        raise InputError(f"{file} cannot be read as Parquet: {cause}. Name a whole file, or a CSV table.") from error


def _no_label(kind: pa.DataType) -> bool:
    return bool(pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _plain(batch: pa.RecordBatch, names: Sequence[str], schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch([plain_values(batch.column(name)) for name in names], schema=schema)


def _csv(
    file: Path, head: bytes, choice: Choice, stored: Mapping[str, pa.DataType]
) -> tuple[pa.Table, list[str]]:  # fmt: skip
    """Every column is read as text first: Arrow's own guess would make 7 of 007 and "" of a blank."""
    layout = layout_of(file, head, [choice.on], choice.encoding)
    if not any(layout.names):
        raise InputError(f"{file} is not a CSV table: it has no header. Write the columns' names in its first line.")
    found, notes = _chosen(file, layout.names, choice)
    try:
        trimmed = _texts(file, layout, [layout.names.index(old) for old in found])
    except UnicodeDecodeError as error:
        raise not_decoded(file, layout.encoding, error) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        if "UTF8" in str(error):
            raise not_decoded(file, layout.encoding, error) from error
        cause = str(error).splitlines()[0]
        raise InputError(
            f"{file} is not a CSV table: {cause}. Correct that line, or save the file anew as CSV."
        ) from error
    kinds = [
        "text" if i == 0 or name in stored else _column_type(trimmed.column(i)) for i, name in enumerate(found.values())
    ]  # fmt: skip
    typed = pa.schema([(name, TYPES[kind]) for name, kind in zip(found.values(), kinds, strict=True)])
    return _mapped(typed, (_typed(batch, typed) for batch in trimmed.to_batches())), notes


def _texts(file: Path, layout: Layout, columns: Sequence[int]) -> pa.Table:
    """These columns as trimmed text, missing values as null; of the first, which names the row, only blanks are."""
    names = [f"{i}" for i in range(len(layout.header))]  # a name may stand there twice
    encoding = "utf8" if layout.encoding == "utf-8-sig" else layout.encoding  # Arrow skips the byte order mark
    blocks = pa.csv.ReadOptions(block_size=BLOCK_BYTES, encoding=encoding, skip_rows=layout.skipped)
    parse = pa.csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True)
    as_text = pa.csv.ConvertOptions(column_types={name: pa.string() for name in layout.header})
    with pa.csv.open_csv(file, read_options=blocks, parse_options=parse, convert_options=as_text) as source:
        if not all(map(pa.types.is_string, source.schema.types)):  # its header is not ours: 007 would be read as 7
            raise ValueError("the header cannot be read for certain")
        text = pa.schema([(names[i], pa.string()) for i in columns])
        return _mapped(text, (_trimmed(batch, columns, text) for batch in source))


def _trimmed(batch: pa.RecordBatch, columns: Sequence[int], schema: pa.Schema) -> pa.RecordBatch:
    texts = [pc.utf8_trim_whitespace(batch.column(i).cast(pa.string())) for i in columns]
    missing = [pa.array([""]), *[pa.array(MISSING)] * (len(texts) - 1)]
    return pa.record_batch(
        [pc.if_else(pc.is_in(text, none), None, text) for text, none in zip(texts, missing, strict=True)],
        schema=schema,
    )


def _column_type(column: pa.ChunkedArray) -> ColumnType:
    """The narrowest kind that all values have, found chunk by chunk."""
    forms = set[Form]()
    for chunk in column.chunks:
        forms |= forms_of(pc.unique(chunk).drop_null().to_pylist())
    return column_type(forms)


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
        nbytes = 0
        for batch in batches:
            nbytes += batch.nbytes
            if nbytes > MAX_UNPACKED:
                raise InputError(f"the labels are more than {MAX_UNPACKED:,} bytes once read. Choose with --columns.")
            writer.write_batch(batch)
    file.flush()
