"""CSV tables that list images by path or address, as shards: the other columns become metadata.

The key of a row is the path as it is written, the address without its secrets, or the value of `--key-column`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path

from indexer.addresses import is_remote
from indexer.archive.local import local_file, local_identity, remote_suffix
from indexer.archive.tables.columns import field_names
from indexer.archive.tables.listed import ListedFiles, Row, read_listed
from indexer.archive.tables.named import TableOptions, options_in, settled, shard_name
from indexer.errors import CutShard, InputError, ReadError
from indexer.types import Failure, Place, Sample, Shard
from indexer.user_tables.typed_csv import TypedCsv


class Listing:
    """Implements `kind.ShardKind`: a local CSV file."""

    name = "listing"
    suffixes: tuple[str, ...] = (".csv", ".tsv")

    def claims(self, address: str) -> bool:
        suffix = remote_suffix(address) if is_remote(address) else Path(address).suffix.lower()
        return suffix in self.suffixes

    def left_out(self, path: Path, tables: TableOptions) -> str:  # noqa: ARG002 - a table beside images is no archive
        return "table"

    def shards(self, address: str, *, hash_content: bool, tables: TableOptions, notes: list[str]) -> Iterator[Shard]:
        path = local_file(address, "table of paths")
        if not tables.image:
            names = ", ".join(TypedCsv(Path(path), []).names)
            raise InputError(
                f"{path} is a table. If a column holds the paths of image files, name it: --image-column; it has: "
                f"{names}."
            )
        tables = settled(tables, path)
        table = _opened(path, tables)
        notes.extend(f"{path}: {words}" for words in field_names(path, table.names)[1])
        files = ListedFiles(path, tables)
        paths = (text for (text,) in table.texts([tables.image]))
        identity = files.identity(local_identity(path, hash_content=hash_content), paths, hash_content=hash_content)
        notes.extend(f"{path}: {words}" for words in files.notes())
        yield Shard(path, shard_name(path, tables), identity, self.name, roots=files.roots())

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        options = options_in(shard.name, shard.url)
        return ListedFiles(shard.url, options).samples(shard, _rows(shard.url, options))

    def read_back(self, url: str, place: Place, roots: Sequence[str] | None) -> bytes:
        return read_listed(url, place, roots, _listed(url, place))


def _rows(url: str, options: TableOptions) -> Iterator[Row]:
    """Raises ReadError."""
    try:
        table = _opened(url, options)
        fields, _ = field_names(url, table.names)
        for number, record in enumerate(table.records()):
            key = str(record[options.key]) if options.key and record[options.key] is not None else ""
            metadata = {fields[name]: value for name, value in record.items() if value is not None}
            yield Row(number, key, str(record[options.image] or ""), metadata)
    except OSError as error:
        raise ReadError(f"{url} cannot be read: {error}") from error
    except InputError as error:  # the table changed since it was found
        raise CutShard(str(error)) from error


def _listed(url: str, place: Place) -> Iterator[str]:
    """The path in the row of a place as it is now."""
    options = options_in(place.shard, url)
    with suppress(InputError, OSError):
        texts = _opened(url, options).texts([options.image])
        yield from (text for (text,) in islice(texts, place.offset, place.offset + 1))


def _opened(path: str, options: TableOptions) -> TypedCsv:
    wanted = [name for name in (options.image, options.key) if name]
    table = TypedCsv(Path(path), wanted, wanted)
    for name, flag in ((options.image, "--image-column"), (options.key, "--key-column")):
        if name and name not in table.names:
            raise InputError(f"{path}: {flag} {name} is not in it; it has: {', '.join(table.names)}. Name another.")
    return table
