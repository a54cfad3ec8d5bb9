"""NumPy archives (.npz) of images as shards, as MedMNIST and Keras write them.

`train_images` and `train_labels` (or `x_train` and `y_train`) become rows with the columns `split` and `label`;
`images` and `labels` have no split. The key of a row is `<file name without suffix>/<split>/<number>`. An image's bytes
are those of a PGM (grey) or PPM (RGB) file of its pixels: these have one form only, so its hash is the same everywhere.
"""

from __future__ import annotations

import io
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from indexer.addresses import is_remote
from indexer.archive.local import local_file, local_identity, remote_suffix
from indexer.archive.tables.columns import scalar
from indexer.archive.tables.named import TableOptions
from indexer.archive.tables.netpbm import netpbm_head
from indexer.archive.zip import BLOCK, DAMAGED_MEMBER
from indexer.errors import CutShard, InputError, NotAnArchive, ReadError
from indexer.memory.budget import MAX_IMAGE
from indexer.types import Failure, Place, Sample, Shard
from indexer.user_tables.column_types import plain_column

READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
MAX_COLUMN = 512 << 20  # bytes of an array of labels
_IMAGES = re.compile(r"(?:(?P<before>\w+)_)?(?:images|imgs)|[xX](?:_(?P<behind>\w+))?")
_LABEL = {"labels": "label", "y": "label", "Y": "label", "targets": "label"}


class Npz:
    """Implements `kind.ShardKind`: a local .npz file."""

    name = "npz"
    suffixes: tuple[str, ...] = (".npz",)

    def claims(self, address: str) -> bool:
        if is_remote(address):
            return remote_suffix(address) in self.suffixes
        return Path(address).suffix.lower() in self.suffixes

    def left_out(self, path: Path, tables: TableOptions) -> str:  # noqa: ARG002 - it has no columns to choose
        try:
            with _opened(str(path)) as archive:
                return "" if _splits(str(path), _arrays(archive)) else "npz without arrays of images"
        except (InputError, ReadError):
            return ""  # which `shards` and reading the shard report

    def shards(self, address: str, *, hash_content: bool, tables: TableOptions, notes: list[str]) -> Iterator[Shard]:
        del tables
        path = local_file(address, "npz file")
        identity = local_identity(path, hash_content=hash_content)
        try:
            with _opened(path) as archive:
                arrays = _arrays(archive)
                splits = _splits(path, arrays)
        except ReadError:  # reading the shard reports it
            yield Shard(path, path, identity, self.name)
            return
        if not splits:
            raise InputError(
                f"{path} holds no array of images: {', '.join(map(str, arrays.values())) or 'nothing'}. Name the "
                "arrays train_images and train_labels, or images and labels."
            )
        used = {a.name for split in splits for a in (split.images, *split.columns.values())}
        others = [str(array) for name, array in arrays.items() if name not in used]
        if others:
            notes.append(f"{path}: arrays left out, not of one value an image: {', '.join(others)}")
        yield Shard(path, path, identity, self.name, nbytes=sum(split.images.nbytes for split in splits))

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        with _opened(shard.url) as archive:
            splits = _splits(shard.url, _arrays(archive))
            if not splits:
                raise NotAnArchive(f"{shard.url} holds no array of images", "npz without arrays of images")
            for split in splits:
                try:
                    yield from _samples(archive, split, shard)
                except DAMAGED_MEMBER as error:
                    raise CutShard(f"{shard.url} breaks off in {split.images.name}: {error}") from error
                except OSError as error:
                    raise ReadError(f"{shard.url} cannot be read: {error}") from error

    def read_back(self, url: str, place: Place, roots: Sequence[str] | None) -> bytes:  # noqa: ARG002 - one file, which the caller checked
        with _opened(url) as archive:
            images = _arrays(archive).get(place.member.rpartition("[")[0])
            if images is None or place.offset >= images.shape[0]:
                raise ReadError(f"{url} has no image {place.member} any more")
            try:
                with images.opened(archive) as file:
                    file.seek(images.start + place.offset * images.item_bytes)
                    return _netpbm(file, images)
            except DAMAGED_MEMBER as error:
                raise ReadError(f"{place.member} in {url} is damaged: {error}") from error


@dataclass(frozen=True)
class _Array:
    """One array of the archive, from its header."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    start: int  # of the data in the member
    plain: bool  # rows first, and no objects

    def __str__(self) -> str:
        return f"{self.name} {self.dtype}{list(self.shape)}"

    @property
    def item_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def opened(self, archive: zipfile.ZipFile) -> IO[bytes]:
        return archive.open(f"{self.name}.npy")


@dataclass(frozen=True)
class _Split:
    name: str  # "" where the arrays name none
    images: _Array
    columns: Mapping[str, _Array] = field(default_factory=dict)  # field → array of one value, or one row, an image


def _arrays(archive: zipfile.ZipFile) -> dict[str, _Array]:
    """The arrays by name. Raises NotAnArchive where a header is none, or names more data than there are."""
    found = {}
    for info in archive.infolist():
        if not info.filename.endswith(".npy"):
            continue
        name = info.filename.removesuffix(".npy")
        if info.compress_type not in READABLE:  # bzip2 and LZMA unpack a piece of a few hundred bytes to gigabytes
            raise NotAnArchive(
                f"{archive.filename}: {info.filename} is compressed by method {info.compress_type}, which is not read. "
                "Save it anew with numpy.savez or numpy.savez_compressed.",
                "unknown compression",
            )
        try:
            with archive.open(info) as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, by_column, dtype = read(file)
                plain = not dtype.hasobject and not (by_column and len(shape) > 1)
                array = _Array(name, shape, dtype, file.tell(), plain)
        except (*DAMAGED_MEMBER, OSError, SyntaxError, TypeError) as error:
            raise NotAnArchive(
                f"{archive.filename}: {info.filename} is no array: {error}", "not an npz file"
            ) from error
        if plain and array.start + array.nbytes != info.file_size:
            raise NotAnArchive(f"{archive.filename}: {array} is not as long as its header says", "not an npz file")
        found[name] = array
    return found


def _splits(path: str, arrays: Mapping[str, _Array]) -> list[_Split]:
    """Raises InputError for images that are not read, or labels of another number."""
    found = []
    for name, images in arrays.items():
        match = _IMAGES.fullmatch(name)
        if match is None or len(images.shape) < 2:
            continue
        _check(path, images)
        split = match["before"] or match["behind"] or ""
        columns = {}
        for other, array in arrays.items():
            column = _column(other, split)
            if other == name or column is None or not array.plain or array.dtype.kind not in "biufUS":
                continue
            if len(array.shape) in (1, 2) and (split or array.shape[0] == images.shape[0]):
                if array.shape[0] != images.shape[0]:
                    raise InputError(f"{path}: {array} does not have one value for each of {images}. Correct it.")
                columns[column] = array
        found.append(_Split(split, images, columns))
    return found


def _column(name: str, split: str) -> str | None:
    """The field of an array beside a split's images, None for an array that is not of the split."""
    if not split:
        return _LABEL.get(name, plain_column(name) or None)
    own = name.removeprefix(f"{split}_") if name.startswith(f"{split}_") else name.removesuffix(f"_{split}")
    return None if own == name else _LABEL.get(own, plain_column(own) or None)


def _check(path: str, images: _Array) -> None:
    grey, colour = len(images.shape) == 3, len(images.shape) == 4 and images.shape[3] in (1, 3)
    if not images.plain or images.dtype != np.uint8:
        raise InputError(
            f"{path}: {images} cannot be read as images. Save it as uint8, of 0 to 255, in rows (order C)."
        )
    if not (grey or colour) or 0 in images.shape[1:] or images.item_bytes > MAX_IMAGE:
        raise InputError(
            f"{path}: {images} is no array of images: (n, height, width), or with 1 or 3 channels behind. Save volumes "
            "as NIfTI, or slice them first."
        )


def _samples(archive: zipfile.ZipFile, split: _Split, shard: Shard) -> Iterator[Sample]:
    """Raises DAMAGED_MEMBER, OSError."""
    images = split.images
    columns = {name: _values(archive, array) for name, array in split.columns.items()}
    suffix = "ppm" if images.shape[3:] == (3,) else "pgm"
    start = f"{Path(shard.url).stem}/{split.name}/" if split.name else f"{Path(shard.url).stem}/"
    with images.opened(archive) as file:
        file.seek(images.start)
        for i in range(images.shape[0]):
            member, data = f"{images.name}[{i}]", b""
            if (member, i) in shard.stored:
                file.seek(images.item_bytes, os.SEEK_CUR)
            else:
                shard.room(images.item_bytes)
                data = _netpbm(file, images)
            fields = {"split": split.name} if split.name else {}
            fields |= {name: value for column, rows in columns.items() for name, value in _fields(column, rows[i])}
            yield Sample(shard.name, f"{start}{i}", suffix, data, i, len(data), fields, member)
            del data


def _values(archive: zipfile.ZipFile, array: _Array) -> np.ndarray[Any, Any]:
    if array.nbytes > MAX_COLUMN:
        raise ValueError(f"{array} is over {MAX_COLUMN} bytes")
    with array.opened(archive) as file:
        file.seek(array.start)
        data = _exactly(file, array.nbytes)
    return np.frombuffer(data, array.dtype).reshape(array.shape)


def _fields(column: str, value: Any) -> Iterator[tuple[str, Any]]:
    """One field for one value, `column_0`, `column_1`, … for several; missing ones (NaN) are left out."""
    row = np.atleast_1d(value)
    for i, one in enumerate(row.tolist()):
        text = one.decode("utf-8", "replace") if isinstance(one, bytes) else scalar(one)
        if text is not None:
            yield (column if len(row) == 1 else f"{column}_{i}"), text


def _netpbm(file: IO[bytes], images: _Array) -> bytes:
    """A PGM or PPM file of the next image's pixels."""
    return _exactly(file, images.item_bytes, netpbm_head(images.shape[1:]))


def _exactly(file: IO[bytes], nbytes: int, head: bytes = b"") -> bytes:
    """`head` and the next bytes."""
    content = io.BytesIO()  # which gives its bytes away without a copy
    content.write(head)
    while left := len(head) + nbytes - content.tell():
        block = file.read(min(left, BLOCK))
        if not block:
            raise EOFError(f"it ends {left} bytes early")
        content.write(block)
    return content.getvalue()


@contextmanager
def _opened(path: str) -> Iterator[zipfile.ZipFile]:
    """Raises NotAnArchive, ReadError."""
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise ReadError(f"{path} cannot be opened: {error}") from error
    except DAMAGED_MEMBER as error:
        raise NotAnArchive(f"{path} is not a whole npz file: {error}", "not an npz file") from error
    with archive:
        yield archive
