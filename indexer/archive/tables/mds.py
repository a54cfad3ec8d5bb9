"""MosaicML's data shards (.mds, plain or compressed) as shards.

Each file holds its own columns: the number of samples, their offsets, a JSON with the columns' names, encodings and
sizes, then the samples (streaming's MDSWriter, version 2). `index.json` is not needed, nor the `streaming` package,
which brings the clients of several object stores for what is a header and offsets. The encoding `pkl` is never opened.

The key of a row is `<folder>/<file name without suffix>/<row number>`, since every set's first file is shard.00000, or
the value of `--key-column`. A folder named as a split is the field `split`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from indexer.addresses import DAMAGE, is_remote, open_stream, read_range
from indexer.archive.local import local_file, local_identity, remote_suffix
from indexer.archive.tables.columns import field_names, scalar
from indexer.archive.tables.named import TableOptions, options_in, shard_name
from indexer.archive.tables.netpbm import netpbm
from indexer.errors import CutShard, InputError, NotAnArchive, ReadError
from indexer.memory.budget import MAX_IMAGE
from indexer.types import Failure, Place, Sample, Shard

MAX_HEADER = 64 << 20  # bytes of offsets and columns
BLOCK = 1 << 20
SPLITS = ("train", "val", "valid", "validation", "test")
IMAGES = ("jpeg", "png", "pil", "bytes")  # encodings that may hold an image, the likeliest first
_NUMBERS = {
    "int": "q", "int8": "b", "int16": "h", "int32": "i", "int64": "q", "uint8": "B", "uint16": "H", "uint32": "I",
    "uint64": "Q", "float16": "e", "float32": "f", "float64": "d",
}  # fmt: skip
_TEXTS: Mapping[str, Callable[[str], Any]] = {
    "str": str, "str_int": int, "str_float": float, "str_decimal": str, "json": json.loads,
}  # fmt: skip
_MODES = {"L": (1, ()), "RGB": (3, (3,))}  # of `pil`: bytes a pixel, and the shape behind height and width


class Mds:
    """Implements `kind.ShardKind`: a local .mds file."""

    name = "mds"
    suffixes: tuple[str, ...] = (".mds", ".mds.zstd", ".mds.zst", ".mds.gz", ".mds.bz2")

    def claims(self, address: str) -> bool:
        if is_remote(address):
            return remote_suffix(address) == ".mds"
        return address.lower().endswith(self.suffixes)

    def left_out(self, path: Path, tables: TableOptions) -> str:
        try:
            with open_stream(str(path)) as stream:
                header = _header(stream, str(path))
        except (*DAMAGE, ReadError):
            return ""  # reading the shard reports it
        found = (
            tables.image in header.names if tables.image else not {*map(_plain, header.encodings)}.isdisjoint(IMAGES)
        )
        return "" if found else "MDS file without images"

    def shards(self, address: str, *, hash_content: bool, tables: TableOptions, notes: list[str]) -> Iterator[Shard]:
        path = local_file(address, "MDS file")
        identity = local_identity(path, hash_content=hash_content)
        nbytes = None
        try:
            with open_stream(path) as stream:
                header = _header(stream, path)
            columns = _columns(path, header, tables)
            tables, nbytes = replace(tables, image=columns.image, root=""), header.offsets[-1]
            notes.extend(f"{path}: {words}" for words in columns.notes)
        except (*DAMAGE, ReadError):  # reading the shard reports it
            pass
        yield Shard(path, shard_name(path, tables), identity, self.name, nbytes=nbytes)

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        row = 0
        try:
            with open_stream(shard.url) as stream:
                header = _header(stream, shard.url)
                reader = _Rows(shard, header, _columns(shard.url, header, options_in(shard.name, shard.url)))
                for row, (start, end) in enumerate(pairwise(header.offsets)):
                    if end - start > MAX_IMAGE:
                        raise CutShard(f"{shard.url} breaks off: row {row} is over {MAX_IMAGE:,} bytes")
                    shard.room(end - start)
                    yield reader.sample(_exactly(stream, end - start), row, start)
        except InputError as error:  # the file changed since it was found
            raise CutShard(str(error)) from error
        except DAMAGE as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise ReadError(f"{shard.url} cannot be read: {error}") from error
            raise CutShard(f"{shard.url} breaks off at row {row}: {error}") from error

    def read_back(self, url: str, place: Place, roots: Sequence[str] | None) -> bytes:  # noqa: ARG002 - one file, which the caller checked
        data = read_range(url, place.offset, place.nbytes)
        return _from_pil(data) if place.suffix in ("pgm", "ppm") else data


@dataclass(frozen=True)
class _Header:
    offsets: tuple[int, ...]  # of the samples in the uncompressed file, and of its end
    names: tuple[str, ...]
    encodings: tuple[str, ...]
    sizes: tuple[int | None, ...]  # in bytes; None where each sample states it


@dataclass(frozen=True)
class _Columns:
    image: str
    encoding: str
    fields: Mapping[str, str]  # column → field of the metadata
    notes: tuple[str, ...]


class _Rows:
    """Turns the samples of one file into ours."""

    def __init__(self, shard: Shard, header: _Header, columns: _Columns) -> None:
        self._shard, self._header, self._columns = shard, header, columns
        path = Path(shard.name.rpartition("#")[0] or shard.name)  # as it was first indexed
        self._stem = f"{path.parent.name}/{path.name.lower().partition('.mds')[0]}"
        self._split = {"split": path.parent.name} if path.parent.name in SPLITS else {}
        self._key = options_in(shard.name, shard.url).key

    def sample(self, data: bytes, row: int, start: int) -> Sample | Failure:
        """`start`: of the sample in the uncompressed file."""
        shard, columns, member = self._shard, self._columns, f"{self._columns.image}[{row}]"
        spots = self._spots(data)
        key, reason, fields, suffix = f"{self._stem}/{row}", "", {}, columns.encoding
        at, nbytes = spots.get(columns.image, (0, 0))
        image = data[at : at + nbytes]
        try:
            if not spots:
                raise ValueError("its columns are longer than the sample")
            fields = self._split | {field: found for name, field in columns.fields.items()
                      if (found := self._value(name, data, spots)) is not None}  # fmt: skip
            if self._key:
                given = self._value(self._key, data, spots)
                key = key if given in (None, "") else str(given)
            if columns.encoding == "pil":
                image = _from_pil(image)
                suffix = "ppm" if image[:2] == b"P6" else "pgm"
        except (ValueError, RecursionError, struct.error) as error:
            reason, detail = "bad sample", f"{member}: {error}"
        else:
            reason, detail = ("", "") if image else ("no image in the row", "")
        suffix = "" if suffix in ("bytes", "pil") else suffix
        if (member, start + at) in shard.stored:
            return Sample(shard.name, key, suffix, b"", start + at, nbytes, {}, member)
        if reason:
            return Failure(shard.name, key, "read", reason, detail[:500], start + at, nbytes, suffix, member)
        return Sample(shard.name, key, suffix, image, start + at, nbytes, fields, member)

    def _spots(self, data: bytes) -> dict[str, tuple[int, int]]:
        """(place, bytes) of each column in a sample; none where they do not fit."""
        stated = [size is None for size in self._header.sizes]
        at = 4 * sum(stated)
        if at > len(data):
            return {}
        given = iter(struct.unpack_from(f"<{sum(stated)}I", data))
        found = {}
        for name, size in zip(self._header.names, self._header.sizes, strict=True):
            nbytes = next(given) if size is None else size
            found[name] = at, nbytes
            at += nbytes
        return found if at == len(data) else {}

    def _value(self, name: str, data: bytes, spots: Mapping[str, tuple[int, int]]) -> Any:
        at, nbytes = spots[name]
        value, encoding = data[at : at + nbytes], _plain(self._header.encodings[self._header.names.index(name)])
        if encoding in _NUMBERS:
            return scalar(struct.unpack(f"<{_NUMBERS[encoding]}", value)[0])
        return scalar(_TEXTS[encoding](value.decode()))


def _header(stream: IO[bytes], path: str) -> _Header:
    """Raises NotAnArchive, DAMAGE."""
    try:
        (n,) = struct.unpack("<I", _exactly(stream, 4))
        if 4 * (n + 1) > MAX_HEADER:
            raise ValueError(f"{n:,} samples")
        offsets = struct.unpack(f"<{n + 1}I", _exactly(stream, 4 * (n + 1)))
        left = offsets[0] - 4 - 4 * (n + 1)
        if not 0 < left <= MAX_HEADER or any(a > b for a, b in pairwise(offsets)):
            raise ValueError("its offsets do not rise")
        facts = json.loads(_exactly(stream, left))
        columns = [tuple(facts[name]) for name in ("column_names", "column_encodings", "column_sizes")]
        names, encodings, sizes = columns
        whole = len(names) == len(encodings) == len(sizes) == len(set(names))
        if not whole or not all(isinstance(text, str) for text in (*names, *encodings)):
            raise ValueError("its columns do not fit together")
        if not all(size is None or (type(size) is int and 0 < size <= MAX_IMAGE) for size in sizes):
            raise ValueError("a column's size is none")
    except (ValueError, KeyError, TypeError, EOFError, struct.error, RecursionError) as error:
        raise NotAnArchive(f"{path} is no MDS file: {error}", "not an MDS file") from error
    return _Header(offsets, names, encodings, sizes)


def _columns(path: str, header: _Header, options: TableOptions) -> _Columns:
    """Raises InputError where no column, or more than one, can be the image."""
    by_name = {name: _plain(encoding) for name, encoding in zip(header.names, header.encodings, strict=True)}
    listed = ", ".join(f"{name} ({encoding})" for name, encoding in by_name.items()) or "none"
    image = options.image
    if not image:
        kinds = [[name for name, kind in by_name.items() if kind == encoding] for encoding in IMAGES]
        pictures = [name for names in kinds[:3] for name in names] or kinds[3]
        if len(pictures) > 1:
            raise InputError(
                f"{path} has {len(pictures)} columns of images: {', '.join(pictures)}. Name one: --image-column."
            )
        if not pictures:
            raise InputError(
                f"{path}: an MDS file whose columns hold no image: {listed}. Write it with jpeg, png or bytes."
            )
        image = pictures[0]
    for name, flag in ((image, "--image-column"), (options.key, "--key-column")):
        if name and name not in by_name:
            raise InputError(f"{path}: {flag} {name} is not in it; it has: {listed}. Name another column.")
    if by_name[image] not in IMAGES:
        raise InputError(
            f"{path}: {image} is of encoding {by_name[image]}, which is not read as an image. Write it with jpeg, png "
            "or bytes."
        )
    plain = [name for name, kind in by_name.items() if name != image and (kind in _NUMBERS or kind in _TEXTS)]
    if options.key and options.key not in plain:
        raise InputError(f"{path}: --key-column {options.key} holds no plain values. Name another column.")
    fields, notes = field_names(path, plain)
    others = [f"{name} ({kind})" for name, kind in by_name.items() if name not in (image, *plain)]
    if others:
        notes.append(f"columns left out, not plain values: {', '.join(others)}")
    return _Columns(image, by_name[image], fields, tuple(notes))


def _plain(encoding: str) -> str:
    """The name of an encoding without its settings, as of `jpeg:90`."""
    return encoding.partition(":")[0]


def _from_pil(data: bytes) -> bytes:
    """The raw pixels of the encoding `pil` as a PGM or PPM file. Raises ValueError."""
    width, height, mode_bytes = struct.unpack_from("<III", data)
    mode, pixels = data[12 : 12 + mode_bytes].decode("ascii", "replace"), data[12 + mode_bytes :]
    if mode not in _MODES:
        raise ValueError(f"raw pixels of mode {mode[:8]}: only L and RGB are read")
    each, behind = _MODES[mode]
    if not width * height or len(pixels) != width * height * each:
        raise ValueError(f"{len(pixels)} bytes of pixels, for {width} × {height} of mode {mode}")
    return netpbm(pixels, (height, width, *behind))


def _exactly(stream: IO[bytes], nbytes: int) -> bytes:
    parts, left = [], nbytes
    while left:
        block = stream.read(min(left, BLOCK))
        if not block:
            raise EOFError(f"it ends {left} bytes early")
        parts.append(block)
        left -= len(block)
    return b"".join(parts)
