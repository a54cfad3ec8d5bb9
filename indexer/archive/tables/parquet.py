"""Parquet files as shards: images as bytes, as Hugging Face's struct {bytes, path}, or as paths or addresses.

The key of a row is `<file name without suffix>/<row number>`, or the value of `--key-column`. Memory holds a few rows,
whatever the size of the row groups; a resumed run does not read the row groups that are stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.addresses import is_remote
from indexer.archive.local import first_bytes, local_file, local_identity, remote_suffix
from indexer.archive.tables.columns import PATH_FIELD, Columns, columns_of, image_columns
from indexer.archive.tables.listed import ListedFiles, Row, read_listed
from indexer.archive.tables.named import TableOptions, options_in, settled, shard_name
from indexer.errors import CutShard, NotAnArchive, ReadError
from indexer.types import Failure, Place, Sample, Shard
from indexer.user_tables.joining import image_suffix

if TYPE_CHECKING:
    import pyarrow.parquet as pq

MAGIC = b"PAR1"
ROWS = 4  # without their images, read at once
IMAGES = 1  # with them: a dictionary-encoded image may stand in many rows of few bytes
BUFFER_BYTES = 1 << 20
LARGE_BYTES = 32 << 20  # of rows whose buffers Arrow does not keep for the next ones


class Parquet:
    """Implements `kind.ShardKind`: a local Parquet file."""

    name = "parquet"
    suffixes: tuple[str, ...] = (".parquet", ".pq")

    def claims(self, address: str) -> bool:
        if is_remote(address):
            return remote_suffix(address) in self.suffixes
        return Path(address).suffix.lower() in self.suffixes or first_bytes(address).startswith(MAGIC)

    def left_out(self, path: Path, tables: TableOptions) -> str:
        try:
            with _opened(str(path)) as file:
                schema = file.schema_arrow
        except ReadError:
            return ""  # reading the shard reports it
        found = tables.image in schema.names if tables.image else image_columns(schema)
        return "" if found else "Parquet file without images"

    def shards(self, address: str, *, hash_content: bool, tables: TableOptions, notes: list[str]) -> Iterator[Shard]:
        path = local_file(address, "Parquet file")
        identity = local_identity(path, hash_content=hash_content)
        tables = settled(tables, path)
        nbytes: int | None = None
        roots: tuple[str, ...] = ()
        try:
            with _opened(path) as file:
                columns = columns_of(path, file.schema_arrow, tables)
                if columns.form != "path":
                    nbytes = _nbytes(file)
        except ReadError:  # reading the shard reports it
            yield Shard(path, shard_name(path, tables), identity, self.name)
            return
        notes.extend(f"{path}: {words}" for words in columns.notes)
        options = replace(tables, image=columns.image, root=tables.root if columns.form == "path" else "")
        if columns.form == "path":
            files = ListedFiles(path, options)
            identity = files.identity(identity, _paths(path, columns.image), hash_content=hash_content)
            notes.extend(f"{path}: {words}" for words in files.notes())
            roots = files.roots()
        yield Shard(path, shard_name(path, options), identity, self.name, nbytes=nbytes, roots=roots)

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        options = options_in(shard.name, shard.url)
        with _opened(shard.url) as file:
            columns = columns_of(shard.url, file.schema_arrow, options)
            if columns.form == "path":
                listed = _listed_rows(shard.url, file, columns, options)
                yield from ListedFiles(shard.url, options).samples(shard, listed)
                return
            reader = _Rows(shard, columns, options)
            for group, rows in _groups(file):
                yield from reader.group(file, group, rows)

    def read_back(self, url: str, place: Place, roots: Sequence[str] | None) -> bytes:
        options = options_in(place.shard, url)
        with _opened(url) as file:
            columns = columns_of(url, file.schema_arrow, options)
            if columns.form == "path":
                return read_listed(url, place, roots, map(str, _value(url, file, columns.image, place.offset)))
            for value in _value(url, file, columns.image, place.offset):
                return _image(value, columns.form)[0] or b""
        raise ReadError(f"{url} has no row {place.offset} any more")


class _Rows:
    """Turns the rows of one shard into samples."""

    def __init__(self, shard: Shard, columns: Columns, options: TableOptions) -> None:
        self._shard, self._columns, self._options = shard, columns, options
        self._stem = Path(shard.url).stem

    def group(self, file: pq.ParquetFile, group: int, rows: range) -> Iterator[Sample | Failure]:
        """A row group's samples; without their images where the table has all of them."""
        stored = len(rows) > 0 and all((self._member(r), r) in self._shard.stored for r in rows)
        nbytes = file.metadata.row_group(group).total_byte_size // max(len(rows), 1)
        if stored and not self._options.key:
            yield from (self._light(row, self._key({}, row), nbytes) for row in rows)
            return
        wanted = [self._options.key] if stored else _wanted(self._columns, self._options)
        for row, record in _records(self._shard.url, file, group, wanted, rows.start, ROWS if stored else IMAGES):
            if stored:
                yield self._light(row, self._key(record, row), nbytes)
                continue
            sample = self._sample(record, row)
            record.clear()
            last = sample.nbytes
            self._shard.room(last)  # the size is known once it is read
            yield sample
            del sample
            self._shard.room(last)  # the next one is probably as large

    def _sample(self, record: dict[str, Any], row: int) -> Sample | Failure:
        columns, shard, key = self._columns, self._shard, self._key(record, row)
        fields = columns.fields(record)
        image, path = _image(record[columns.image], columns.form)
        member, suffix = self._member(row), image_suffix(path) or "" if path else ""
        if path:
            fields.setdefault(PATH_FIELD, path)
        if not image:
            what = "image is not in the table" if path else "no image in the row"
            detail = f"the row holds only the path {path}: write the table with its images" if path else ""
            return Failure(shard.name, key, "read", what, detail[:500], row, 0, suffix, member)
        return Sample(shard.name, key, suffix, image, row, len(image), fields, member)

    def _light(self, row: int, key: str, nbytes: int) -> Sample:
        return Sample(self._shard.name, key, "", b"", row, nbytes, {}, self._member(row))

    def _member(self, row: int) -> str:
        return f"{self._columns.image}[{row}]"

    def _key(self, record: dict[str, Any], row: int) -> str:
        return _given_key(record, self._options) or f"{self._stem}/{row}"


def _image(value: Any, form: str) -> tuple[bytes | None, str]:
    """The bytes of an image, and the path beside them."""
    if form == "struct":
        value = value or {}
        return value.get("bytes"), str(value.get(PATH_FIELD) or "")
    return value, ""


def _given_key(record: dict[str, Any], options: TableOptions) -> str:
    given = record.get(options.key) if options.key else None
    return "" if given is None else str(given)


def _wanted(columns: Columns, options: TableOptions) -> list[str]:
    """The columns that are read."""
    return list(dict.fromkeys([columns.image, *columns.metadata, *([options.key] if options.key else [])]))


def _groups(file: pq.ParquetFile) -> Iterator[tuple[int, range]]:
    """The number of each row group, and its rows."""
    first = 0
    for group in range(file.metadata.num_row_groups):
        n = file.metadata.row_group(group).num_rows
        yield group, range(first, first + n)
        first += n


def _listed_rows(url: str, file: pq.ParquetFile, columns: Columns, options: TableOptions) -> Iterator[Row]:
    """Raises ReadError."""
    for group, rows in _groups(file):
        for number, record in _records(url, file, group, _wanted(columns, options), rows.start):
            path = str(record[columns.image] or "")
            yield Row(number, _given_key(record, options), path, columns.fields(record))


def _value(url: str, file: pq.ParquetFile, column: str, number: int) -> Iterator[Any]:
    """The value in one row, where there is that row."""
    for group, rows in _groups(file):
        if number in rows:
            yield from (
                record[column]
                for row, record in _records(url, file, group, [column], rows.start, IMAGES)
                if row == number
            )


def _paths(path: str, column: str) -> Iterator[str]:
    with _opened(path) as file:
        for group in range(file.metadata.num_row_groups):
            for _, record in _records(path, file, group, [column], 0):
                yield str(record[column] or "")


def _nbytes(file: pq.ParquetFile) -> int:
    """Of all columns: what pyarrow says of one column aborts the process where the file is damaged."""
    groups = range(file.metadata.num_row_groups)
    nbytes: int = sum(file.metadata.row_group(i).total_byte_size for i in groups)
    return max(0, nbytes)


def _records(
    url: str, file: pq.ParquetFile, group: int, columns: list[str], first: int, rows: int = ROWS
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, its columns) of a row group, so many rows read at once.

    Raises CutShard where the file is damaged, ReadError.
    """
    import pyarrow as pa

    row = first
    try:
        for batch in file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False):
            records, large = batch.to_pylist(), batch.nbytes >= LARGE_BYTES
            del batch  # it holds the bytes a second time
            if large:
                pa.default_memory_pool().release_unused()
            for record in records:
                yield row, record
                row += 1
            del records, record
        if row - first != file.metadata.row_group(group).num_rows:
            raise CutShard(f"{url} breaks off at row {row}")
    except OSError as error:
        if error.errno is not None:
            raise ReadError(f"{url} cannot be read: {error}") from error
        raise CutShard(f"{url} breaks off at row {row}: {error}") from error
    except (pa.ArrowException, ValueError) as error:
        raise CutShard(f"{url} breaks off at row {row}: {error}") from error


@contextmanager
def _opened(path: str) -> Iterator[pq.ParquetFile]:
    """Raises NotAnArchive, ReadError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
        assert file.schema_arrow.names is not None  # raises where they are no text
    except FileNotFoundError as error:
        raise ReadError(f"{path} cannot be opened: {error}") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ReadError(f"{path} cannot be opened: {error}") from error
        raise NotAnArchive(f"{path} is not a whole Parquet file: {error}", "not a Parquet file") from error
    with file:
        yield file
