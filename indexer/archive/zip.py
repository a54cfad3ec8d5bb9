"""Zip archives as shards, read without unpacking them.

A zip is read like the folder that it unpacks to: the same keys, metadata and files left out.
"""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from indexer.addresses import is_remote, read_range
from indexer.archive.left_out import UNKNOWN, LeftOut
from indexer.archive.local import first_bytes, local_file, local_identity, remote_suffix
from indexer.archive.samples import (
    DICOM_HEAD,
    METADATA_SUFFIXES,
    NESTED,
    UNPACK,
    is_archive,
    is_dicom,
    loose_sample,
    sidecar_of,
    split_name,
)
from indexer.archive.tables.named import TableOptions
from indexer.errors import NotAnArchive, ReadError
from indexer.memory.budget import MAX_IMAGE, MAX_SIDECAR
from indexer.types import Failure, Place, Sample, Shard
from indexer.user_tables.joining import image_suffix

MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
BOMB_BYTES, BOMB_RATIO = 256 << 20, 200  # a member larger than both is refused: pictures do not deflate so far
BLOCK = 1 << 20  # decompressed at once: a member may hold more than its header says
DAMAGED_MEMBER = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, struct.error)
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")  # APPNOTE.TXT 4.3.7
# Python bounds what it inflates at once, but not what bzip2 and LZMA unpack of one piece: LZMA is given small pieces,
# which it makes at most some 7,000 times as long; bzip2 makes gigabytes of a few hundred bytes.
_READABLE = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA}
_PIECE = {zipfile.ZIP_LZMA: 4096}  # bytes read at once


class Zip:
    """Implements `kind.ShardKind`: a local zip archive, stored or deflated."""

    name = "zip"
    suffixes: tuple[str, ...] = (".zip",)

    def claims(self, address: str) -> bool:
        if is_remote(address):
            return remote_suffix(address) in self.suffixes
        suffix = Path(address).suffix.lower()
        return suffix in self.suffixes or (suffix not in _OTHER_ZIPS and first_bytes(address).startswith(MAGIC))

    def left_out(self, path: Path, tables: TableOptions) -> str:  # noqa: ARG002 - the name is enough
        return ""

    def shards(self, address: str, *, hash_content: bool, tables: TableOptions, notes: list[str]) -> Iterator[Shard]:
        del tables
        name = local_file(address, "zip archive")
        identity = local_identity(name, hash_content=hash_content)
        try:
            with _opened(name) as archive:
                tree = _Tree(archive)
        except ReadError:  # reading the shard reports it
            yield Shard(name, name, identity, self.name)
            return
        notes.extend(f"not read in {name}: {words}" for words in tree.left_out.words())
        if tree.members:
            yield Shard(name, name, identity, self.name, nbytes=sum(info.file_size for info in tree.members))
        elif not tree.left_out:
            notes.append(f"{name} holds no file")

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        with _opened(shard.url) as archive:
            tree = _Tree(archive)
            for info in tree.members:
                yield from _sample(archive, tree, info, shard)

    def read_back(self, url: str, place: Place, roots: Sequence[str] | None) -> bytes:  # noqa: ARG002 - one file, which the caller checked
        """The member whose local header is at `place.offset`, without reading the archive's directory."""
        header = read_range(url, place.offset, _LOCAL_HEADER.size)
        signature, _, flags, method, *_, name_bytes, extra_bytes = _LOCAL_HEADER.unpack(header)
        if signature != MAGIC[0]:
            raise ReadError(f"{place.member} is no longer where it was in {url}")
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or flags & 1 or place.nbytes > MAX_IMAGE:
            return _by_name(url, place)
        start = place.offset + _LOCAL_HEADER.size + name_bytes + extra_bytes
        if method == zipfile.ZIP_STORED:
            return read_range(url, start, place.nbytes)
        with Path(url).open("rb") as file:
            file.seek(start)
            return _inflated(file, place.nbytes)


_OTHER_ZIPS = (".npz", ".xlsx", ".xlsm", ".ods", ".docx", ".pptx", ".jar", ".whl", ".pt", ".pth", ".keras")


class _Tree:
    """What an archive holds: its images and inner archives in the directory's order, the JSON beside the images, and
    what is left out.
    """

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.left_out = LeftOut()
        self.members: list[zipfile.ZipInfo] = []
        files = [info for info in archive.infolist() if not info.is_dir()]
        self.sidecars: Mapping[str, zipfile.ZipInfo] = {_path(i): i for i in files if _path(i).endswith(".json")}
        others = []
        for info in files:
            path = _path(info)
            if any(part.startswith(".") for part in PurePosixPath(path).parts):  # also Apple's __MACOSX/._name
                self.left_out.add("hidden file", path)
            elif stat.S_ISLNK(info.external_attr >> 16):
                self.left_out.add("link", path)
            elif is_archive(path) or _is_image(archive, info, path):
                self.members.append(info)
            else:
                others.append(path)
        beside = {sidecar_of(_path(info)) for info in self.members}
        for path in others:
            if path not in beside:
                self.left_out.add(UNKNOWN, path)


def _sample(archive: zipfile.ZipFile, tree: _Tree, info: zipfile.ZipInfo, shard: Shard) -> Iterator[Sample | Failure]:
    """Raises ReadError."""
    path, offset, nbytes = _path(info), info.header_offset, info.file_size
    suffix = image_suffix(path) or ""
    if (info.filename, offset) in shard.stored:
        yield Sample(shard.name, path, suffix, b"", offset, nbytes, {}, info.filename)
        return
    refused = _refused(info)
    if refused is None:
        try:
            shard.room(info.file_size)
            image = _content(archive, info)
            beside = tree.sidecars.get(sidecar_of(path))
            sidecar = _content(archive, beside) if beside is not None else None
        except DAMAGED_MEMBER as error:
            refused = ("damaged member", f"{info.filename}: {error}")
        except OSError as error:
            raise ReadError(f"{shard.url} cannot be read: {error}") from error
        else:
            yield from loose_sample(shard.name, info.filename, image, sidecar, offset, key=path)
            return
    reason, detail = refused
    yield Failure(shard.name, path, "read", reason, detail[:500], offset, nbytes, suffix, info.filename)


def _path(info: zipfile.ZipInfo) -> str:
    """The member's path with "/", which some writers on Windows replaced."""
    return info.filename.replace("\\", "/").removeprefix("./")


def _is_image(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: str) -> bool:
    """By its suffix, or, for DICOM of any name, by its first bytes."""
    if image_suffix(path) is not None:
        return True
    if split_name(path)[1] in METADATA_SUFFIXES or info.file_size < DICOM_HEAD or _refused(info):
        return False
    try:
        with archive.open(info) as file:
            return is_dicom(file.read(DICOM_HEAD))
    except (*DAMAGED_MEMBER, OSError):
        return False


def _refused(info: zipfile.ZipInfo) -> tuple[str, str] | None:
    """The reason why a member is not read, and its detail."""
    name = info.filename
    if is_archive(_path(info)):
        return NESTED, f"{name}: {UNPACK}"
    if info.flag_bits & 1:
        return "encrypted member", f"{name}: unpack the archive with its password"
    if info.compress_type not in _READABLE:
        return "unknown compression", f"{name}: method {info.compress_type}; pack it anew, stored or deflated"
    if info.file_size > MAX_IMAGE:
        return "member too large", f"{name}: over {MAX_IMAGE} bytes"
    if info.file_size > max(BOMB_BYTES, BOMB_RATIO * info.compress_size):
        return "decompression bomb", f"{name}: {info.compress_size} bytes would become {info.file_size}"
    return None


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """Raises DAMAGED_MEMBER, also where the member holds more or less than its header says, or OSError."""
    most = MAX_SIDECAR if _path(info).endswith(".json") else MAX_IMAGE
    if info.file_size > most:
        raise ValueError(f"over {most} bytes")
    content = io.BytesIO()  # which gives its bytes away without a copy
    with archive.open(info) as file:
        while block := file.read(_PIECE.get(info.compress_type, BLOCK)):
            content.write(block)
    if left := info.file_size - content.tell():
        raise EOFError(f"it ends {left} bytes early")
    return content.getvalue()


def _opened(path: str) -> zipfile.ZipFile:
    """Raises NotAnArchive, ReadError."""
    try:
        return zipfile.ZipFile(path)
    except OSError as error:
        raise ReadError(f"{path} cannot be opened: {error}") from error
    except DAMAGED_MEMBER as error:
        raise NotAnArchive(
            f"{path} is not a whole zip archive ({error}): a cut one cannot be read, since its directory is at its end",
            "not a zip archive",
        ) from error


def _by_name(url: str, place: Place) -> bytes:
    with _opened(url) as archive:
        for info in archive.infolist():
            if info.filename == place.member and info.header_offset == place.offset:
                refused = _refused(info)
                if refused:
                    raise ReadError(f"{refused[0]}: {refused[1]}")
                try:
                    return _content(archive, info)
                except DAMAGED_MEMBER as error:
                    raise ReadError(f"{place.member} in {url} is damaged: {error}") from error
    raise ReadError(f"{place.member} is not in {url} any more")


def _inflated(file: IO[bytes], nbytes: int) -> bytes:
    """Raises zlib.error, EOFError."""
    inflate, out = zlib.decompressobj(-zlib.MAX_WBITS), bytearray()
    while len(out) < nbytes and not inflate.eof:
        block = inflate.unconsumed_tail or file.read(BLOCK)
        if not block:
            raise EOFError(f"it ends {nbytes - len(out)} bytes early")
        out += inflate.decompress(block, nbytes - len(out))
    return bytes(out)
