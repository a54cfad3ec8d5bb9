"""Manifests: a listing of an archive in a Parquet file, which is a source of the same shards as the archive itself.

Listing a bucket of millions of objects takes minutes and costs money; a manifest is listed once, can be kept, filtered
by other programs, and read on machines that may not list. Memory holds a batch of rows, whatever the archive's size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from indexer.addresses import facts, is_remote, plain, stat_identity
from indexer.archive.buckets import Buckets
from indexer.archive.files import Files, is_image, listed
from indexer.archive.left_out import UNKNOWN, LeftOut
from indexer.archive.remote.folder import ObjectFolder, is_image_object, listed_objects
from indexer.archive.remote.patterns import expanded
from indexer.archive.samples import lasting_name
from indexer.archive.tar import Tar, remote_shard
from indexer.archive.walk import walk
from indexer.errors import InputError, ShardNotFound
from indexer.output_file import written_whole
from indexer.redact import stored_address
from indexer.remote import objects
from indexer.remote.objects import is_object
from indexer.remote.stream import Facts
from indexer.types import Shard
from indexer.user_tables.joining import image_suffix

MARK = b"embedding-indexer.manifest"  # key of the file's metadata; its value is the format
FORMAT = b"1"
SHARD, IMAGE, JSON = "shard", "image", "json"
SCHEMA = pa.schema(
    [
        pa.field("root", pa.string(), False),  # an address that ends with "/"
        pa.field("path", pa.string(), False),  # below it
        pa.field("kind", pa.dictionary(pa.int8(), pa.string()), False),  # shard | image | json
        pa.field("nbytes", pa.int64()),
        pa.field("identity", pa.string(), False),  # changes with the content: ETag or version and size; time and size
    ],
    metadata={MARK: FORMAT},
)
ROWS = 16_384  # of a batch


@dataclass(frozen=True)
class Entry:
    """A file of a listing."""

    root: str
    path: str
    kind: str
    nbytes: int | None
    identity: str


def write_manifest(sources: Sequence[str], out: Path) -> tuple[Counter[str], list[str]]:
    """List the sources into a Parquet file; returns counts by kind, and what was left out and why.

    Raises ShardNotFound, InputError.
    """
    import pyarrow.parquet as pq

    counts, left_out = Counter[str](), LeftOut()
    with written_whole(out) as partial, pq.ParquetWriter(partial, SCHEMA) as writer:
        held: list[Entry] = []
        for source in sources:
            for entry in entries(source, left_out):
                counts[entry.kind] += 1
                held.append(entry)
                if len(held) == ROWS:
                    writer.write_table(_table(held))
                    held = []
        writer.write_table(_table(held))
        if not counts[SHARD] + counts[IMAGE]:
            raise ShardNotFound(f"no shard and no image under {', '.join(map(stored_address, sources))}.")
    return counts, left_out.words()


def is_manifest(path: str) -> bool:
    """Whether a local file is a manifest."""
    import pyarrow.parquet as pq

    if not path.endswith(".parquet") or not Path(path).is_file():
        return False
    try:
        return MARK in (pq.read_schema(path).metadata or {})
    except (pa.ArrowInvalid, OSError):
        return False


def manifest_shards(path: str, notes: list[str]) -> Iterator[Shard]:
    """The shards of a manifest: those that its sources would give, as they were when it was written."""
    import pyarrow.parquet as pq

    buckets: dict[str, Buckets] = {}
    sidecars = set[str]()
    with pq.ParquetFile(path) as file:
        if file.schema_arrow.metadata[MARK] != FORMAT:
            raise InputError(f"{path} is a manifest of a newer version. Upgrade embedding-indexer, or list again.")
        for batch in file.iter_batches(ROWS):
            for row in batch.to_pylist():
                entry = Entry(row["root"], row["path"], row["kind"], row["nbytes"], row["identity"])
                if entry.kind == SHARD:
                    yield _shard(entry, notes)
                elif entry.kind == IMAGE:
                    buckets.setdefault(entry.root, Buckets()).add(entry.path, entry.identity, entry.nbytes or 0)
                else:
                    sidecars.add(entry.root)
    for root, found in buckets.items():
        if is_remote(root):
            yield from found.shards(root, ObjectFolder.name, listed_objects, sidecars=root in sidecars)
        else:
            yield from found.shards(lasting_name(Path(root)), Files.name, listed)


def entries(source: str, left_out: LeftOut) -> Iterator[Entry]:
    """The files of a source: an object, prefix, pattern, folder, local file or URL. Raises ShardNotFound."""
    source = plain(source)
    if is_object(source):
        for address, known in expanded(source, Tar.suffixes):
            if address.endswith("/"):
                yield from _below(address, left_out)
            else:
                yield from _one(address, known or facts(address, stored_address(address)), left_out)
    elif is_remote(source):
        if source != stored_address(source):
            raise InputError(f"{stored_address(source)}: a signature or login is not written into a manifest.")
        yield from _one(source, facts(source, stored_address(source)), left_out)
    elif Path(source).is_dir():
        yield from _in_folder(Path(source), left_out)
    elif Path(source).is_file():
        stat = Path(source).stat()
        name = lasting_name(Path(source))
        yield from _one(name, Facts(stat_identity(stat.st_size, stat.st_mtime_ns), stat.st_size), left_out)
    else:
        raise ShardNotFound(f"nothing at {source}. Name a folder, a file, a prefix of an object store, or a URL.")


def _one(address: str, known: Facts, left_out: LeftOut) -> Iterator[Entry]:
    root, slash, path = address.rpartition("/")
    kind = _kind(path)
    if kind:
        yield Entry(root + slash, path, kind, known.nbytes, known.tag)
    else:
        left_out.add(UNKNOWN, path)


def _below(prefix: str, left_out: LeftOut) -> Iterator[Entry]:
    try:
        for found in objects.listed(prefix):
            kind = _kind(found.path) or (IMAGE if is_image_object(prefix, found) else "")
            if "/." in f"/{found.path}":
                left_out.add("hidden file", found.path)
            elif kind:
                yield Entry(prefix, found.path, kind, found.facts.nbytes, found.facts.tag)
            else:
                left_out.add(UNKNOWN, found.path)
    except OSError as error:
        raise ShardNotFound(f"{stored_address(prefix)} cannot be listed: {error}.") from error


def _in_folder(folder: Path, left_out: LeftOut) -> Iterator[Entry]:
    root = f"{lasting_name(folder)}/"
    for found in walk(folder):
        kind = "" if found.left_out else _kind(found.path) or (IMAGE if is_image(folder, found) else "")
        if kind:
            yield Entry(root, found.path, kind, found.nbytes, stat_identity(found.nbytes, found.modified))
        else:
            left_out.add(found.left_out or UNKNOWN, found.path)


def _kind(path: str) -> str:
    if path.lower().endswith(Tar.suffixes):
        return SHARD
    if image_suffix(path) is not None:
        return IMAGE
    return JSON if path.lower().endswith(".json") else ""


def _shard(entry: Entry, notes: list[str]) -> Shard:
    address = entry.root + entry.path
    if is_remote(address):
        return remote_shard(address, Facts(entry.identity, entry.nbytes), notes)
    return Shard(address, address, entry.identity, nbytes=entry.nbytes)


def _table(held: list[Entry]) -> pa.Table:
    return pa.Table.from_pylist([vars(entry) for entry in held], SCHEMA)
