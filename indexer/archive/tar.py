"""Tar archives as shards."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from indexer.addresses import DAMAGE, facts, identity, is_remote, open_stream, read_range, require_scheme
from indexer.archive.links import Links, Target, read_scattered, scattered
from indexer.archive.local import READ, first_bytes, refuse_foreign
from indexer.archive.samples import (
    METADATA_SUFFIXES,
    OpenSamples,
    lasting_name,
    plain_name,
    split_first,
    split_name,
)
from indexer.archive.tables.named import TableOptions
from indexer.decompression import is_compressed
from indexer.errors import CutShard, InputError, NotATar, ReadError, ShardNotFound
from indexer.memory.budget import MAX_IMAGE, MAX_SIDECAR
from indexer.redact import stored_address
from indexer.remote.stream import Facts
from indexer.types import Failure, Place, Sample, Shard

UNVERIFIED = "unverified"  # the identity of a shard of which nothing can be asked without reading it all
COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".zstd", ".tzst")
TOO_LARGE = "member too large"
MAX_HEADER = 4 << 20  # bytes of one member's headers, its name included
MAX_PADDING = 1 << 20  # bytes of zeros after an archive, behind which another one is looked for
PADDING_READ = 1 << 14  # of them read at once, whole blocks
AT_END = "EOFHeaderError"  # tarfile's error at the two blocks of zeros that end an archive
LONGEST_NAME = 4096  # characters, as of a path


class Tar:
    """Implements `kind.ShardKind`: a tar file, or any URL."""

    name = "tar"
    suffixes: tuple[str, ...] = (
        ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.zstd", ".tzst",
    )  # fmt: skip

    def claims(self, address: str) -> bool:
        return is_remote(address) or not Path(address).is_dir()

    def left_out(self, path: Path, tables: TableOptions) -> str:  # noqa: ARG002 - the name is enough
        return ""

    def shards(self, address: str, *, hash_content: bool, tables: TableOptions, notes: list[str]) -> Iterator[Shard]:
        del tables
        if is_remote(address):
            require_scheme(address)
            yield remote_shard(address, facts(address, stored_address(address)), notes)
            return
        path = Path(address)
        if not path.is_file():
            raise ShardNotFound(
                f"no such shard or folder: {path}. Name a folder, an archive, a glob in quotes, or a URL."
            )
        head = first_bytes(address)
        refuse_foreign(path, head)
        if not path.name.lower().endswith(self.suffixes) and not _may_be_tar(head):
            raise InputError(
                f"{path} is no archive that is read here. Name a folder of images, or an archive of them: {READ}."
            )
        name = lasting_name(path)
        nbytes = None if path.suffix.lower() in COMPRESSED else path.stat().st_size
        known = identity(name, name, hash_content=hash_content)
        yield Shard(name, name, known or UNVERIFIED, nbytes=nbytes)

    def samples(self, shard: Shard) -> Iterator[Sample | Failure]:
        split = split_first if shard.keys.split == "first-dot" else split_name
        groups = OpenSamples(shard.name)
        with open_stream(shard.url) as stream:
            for member in _members(stream, shard.url, lambda nbytes: shard.room(nbytes + groups.nbytes)):
                name = plain_name(member.name)
                key, suffix = split(name)
                yield from groups.close_before(key, suffix)
                if member.data is None and suffix in METADATA_SUFFIXES and member.reason == TOO_LARGE:
                    groups.last.bad_metadata = member.detail
                elif member.data is None:
                    groups.last.fail(member.reason, member.detail, member.offset, 0, suffix, name)
                else:
                    groups.last.add(name, suffix, member.offset, member.data)
                del member  # before the next one is read
        yield from groups.close()

    def read_back(self, url: str, place: Place, roots: Sequence[str] | None) -> bytes:  # noqa: ARG002 - one file, which the caller checked
        return _read(url, place.offset, place.nbytes, place.member)


def _read(url: str, offset: int, nbytes: int, member: str) -> bytes:
    return read_scattered(url, offset, member) if offset < 0 else read_range(url, offset, nbytes)


def _may_be_tar(head: bytes) -> bool:
    """Whether a file of any name begins like a tar: with a header, with zeros (an empty one), or compressed."""
    if not head.strip(b"\0") or is_compressed(head):
        return True
    try:
        return bool(tarfile.TarInfo.frombuf(head, tarfile.ENCODING, "surrogateescape"))
    except tarfile.HeaderError:
        return False


def remote_shard(address: str, known: Facts, notes: list[str]) -> Shard:
    """A tar at a URL of which the server says so much."""
    name = stored_address(address)  # the address itself is used and forgotten
    if not known.tag:
        notes.append(f"{name}: a change of its content cannot be seen from here")
    compressed = name.lower().endswith(COMPRESSED)
    return Shard(address, name, known.tag or UNVERIFIED, nbytes=None if compressed else known.nbytes)


@dataclass(frozen=True)
class _Member:
    """A file of the archive, or the reason why its data are missing."""

    name: str
    offset: int
    data: bytes | None
    reason: str = ""
    detail: str = ""


def _members(stream: IO[bytes], url: str, room: Callable[[int], None]) -> Iterator[_Member]:
    """Every member except directories; `room` is called with its size before it is read. Raises NotATar, CutShard."""
    ending: Any = _Ending(stream, url)
    try:
        # tarfile copies the rest of its buffer at each header; both larger and smaller buffers were slower
        archive = tarfile.open(fileobj=ending, mode="r|", tarinfo=_Header, bufsize=1 << 16)  # noqa: SIM115
    except DAMAGE as error:
        if ending.end == AT_END:
            return  # two blocks of zeros: an empty archive
        raise _read_error(error, url, NotATar(f"{stored_address(url)} is not a tar archive: {error}")) from error
    links = Links(url)
    try:
        for header in archive:
            if not header.isdir():
                yield _member(archive, header, links, url, room)
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
        second = _second_archive(archive) if ending.end == AT_END else ""
    except DAMAGE as error:
        raise _read_error(error, url, CutShard(f"{stored_address(url)} breaks off: {error}")) from error
    if ending.end != AT_END:
        raise CutShard(f"{stored_address(url)} breaks off: no end-of-archive mark")
    if second:
        detail = f"{second} and what follows: join archives by `tar --concatenate`, or name each of them"
        yield _Member(second, -1, None, "after the end of the archive", detail)


def _second_archive(archive: tarfile.TarFile) -> str:
    """The name of the first member of an archive appended to this one, as by `cat`; "" where there is none."""
    stream: Any = archive.fileobj
    for _ in range(0, MAX_PADDING, PADDING_READ):
        part = stream.read(PADDING_READ)
        rest = part.lstrip(b"\0")
        if rest:
            start = (len(part) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
            try:
                block = part[start : start + tarfile.BLOCKSIZE]
                return tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape").name
            except tarfile.HeaderError:
                return ""
        if len(part) < PADDING_READ:
            return ""
    return ""


def _member(
    archive: tarfile.TarFile, header: tarfile.TarInfo, links: Links, url: str, room: Callable[[int], None]
) -> _Member:
    """Raises CutShard."""
    target: Target | str | None = None
    if header.islnk() or header.issym():
        target = links.target(header)
        if isinstance(target, str):
            detail = f"{header.name} -> {header.linkname}: {target}"
            return _Member(header.name, -1, None, "link leads to no file", detail)
        offset, size = target.offset, target.nbytes
    elif header.isfile():
        offset, size = scattered(header) if header.issparse() else header.offset_data, header.size
    else:
        return _Member(header.name, -1, None, "not a regular file", f"{header.name} is a device or a pipe")
    name = header.name
    most = MAX_SIDECAR if split_name(name)[1] in METADATA_SUFFIXES else MAX_IMAGE
    if len(name) > LONGEST_NAME:
        return _Member(f"{name[:80]}…", offset, None, "name too long", f"{len(name):,} characters: {name[:80]}…")
    if size > most:
        return _Member(name, offset, None, TOO_LARGE, f"{name}: over {most:,} bytes")
    room(size)
    if target is not None:
        return _Member(header.name, offset, _read(url, offset, size, header.name))
    data = _sparse(archive, header) if header.issparse() else _next_bytes(archive, header)
    if len(data) < size:
        raise CutShard(f"{stored_address(url)} ends inside {header.name}")
    return _Member(header.name, offset, data)


def _next_bytes(archive: tarfile.TarFile, header: tarfile.TarInfo) -> bytes:
    """A regular file's data, straight from the stream: `extractfile` makes three objects for each member."""
    stream: Any = archive.fileobj
    stream.seek(header.offset_data)
    data: bytes = stream.read(header.size)
    return data


def _sparse(archive: tarfile.TarFile, header: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(header)
    return file.read() if file else b""


class _Ending:
    """A stream that raises EOFError after a few reads past its end: tarfile skips even a member of 2^62 bytes block by
    block.
    """

    READS = 64

    def __init__(self, stream: IO[bytes], url: str) -> None:
        self._stream, self._left, self._url = stream, self.READS, url
        self.end = ""  # the name of the error by which the last header ended
        self.header_bytes: int | None = None  # that may still be read of one member's headers; None outside of them

    def read(self, nbytes: int) -> bytes:
        if self.header_bytes is not None:
            self.header_bytes -= nbytes
            if self.header_bytes < 0:
                raise CutShard(
                    f"{stored_address(self._url)} breaks off: a member's headers announce over {MAX_HEADER:,} bytes"
                )
        data = self._stream.read(nbytes) if self._left == self.READS else b""
        if not data:
            if self._left == self.READS:
                self._stream.close()  # raises where a pipe's program failed, whose output is then incomplete
            self._left -= 1
            if self._left < 0:
                raise EOFError("a member is longer than the archive")
        return data


def _read_error(error: BaseException, url: str, damaged: ReadError) -> ReadError:
    """`damaged`, or a plain ReadError where the disk or the network failed, which may be temporary.

    Damaged content is no OSError (`decompression.decompressed`), except to tarfile.
    """
    if isinstance(error, OSError) and (error.errno is not None or is_remote(url)):
        return ReadError(f"{stored_address(url)} cannot be read: {error.strerror or error}")
    return damaged


class _Header(tarfile.TarInfo):
    """A header that records in `_Ending.end` how the archive ended: tarfile ends silently at a damaged header.

    Extended headers (pax, GNU, sparse maps) may announce any size, and tarfile reads them whole: that stream bounds
    them.
    """

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        own: Any = archive.fileobj  # tarfile's stream around ours
        stream: _Ending = own.fileobj
        outer = stream.header_bytes is None
        if outer:
            stream.header_bytes = MAX_HEADER
        try:
            header = super().fromtarfile(archive)
        except tarfile.SubsequentHeaderError:  # type: ignore[attr-defined]  # the header behind it was recorded
            raise
        except tarfile.HeaderError as error:
            stream.end = type(error).__name__
            raise
        finally:
            if outer:
                stream.header_bytes = None
        stream.end = ""
        return header

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        return _plain_header(cls, buf, encoding, errors) or super().frombuf(buf, encoding, errors)

    @classmethod
    def _frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str, *, dircheck: bool = True) -> _Header:
        """The same where tarfile calls this one instead (cpython #141707)."""
        usual: Any = super()
        return _plain_header(cls, buf, encoding, errors) or usual._frombuf(buf, encoding, errors, dircheck=dircheck)


_SLICES = ((100, 108), (108, 116), (116, 124), (136, 148), (329, 337), (337, 345))  # mode, owner, group, mtime, device


def _plain_header(kind: type[_Header], block: bytes | bytearray, encoding: str, errors: str) -> _Header | None:
    """What `TarInfo.frombuf` makes of a regular file's header with octal numbers, in a third of its time, but for what
    nobody asks for: owner, mode and times. None for any other block.
    """
    if len(block) != tarfile.BLOCKSIZE or block[156:157] not in (tarfile.REGTYPE, tarfile.AREGTYPE):
        return None
    try:
        checksum, size = _octal(block[148:156]), _octal(block[124:136])
        for start, stop in _SLICES:
            _octal(block[start:stop])
    except ValueError:
        return None
    name = block[:100].partition(b"\0")[0].decode(encoding, errors)
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != checksum or name.endswith("/"):
        return None
    header = kind()
    prefix = block[345:500].partition(b"\0")[0].decode(encoding, errors)
    header.name = f"{prefix}/{name}" if prefix else name
    header.size, header.type = size, bytes(block[156:157])
    return header


def _octal(field: bytes | bytearray) -> int:
    """As tarfile's `nti`; raises ValueError for numbers in base 256 too."""
    return int(field.partition(b"\0")[0].strip() or b"0", 8)
