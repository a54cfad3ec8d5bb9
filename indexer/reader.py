"""Shard → samples, each with its key, suffix, metadata and where its image's bytes lie."""

from __future__ import annotations

import io
import json
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import unquote_to_bytes

from indexer.errors import CutShard, NotATar, ReadError
from indexer.shards import image_suffix, plain_name
from indexer.types import Failure, Place, Sample, Shard

# the compressions' own beside tar's, and tarfile's ValueError of a number in an extended header that is none
DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)
METADATA_SUFFIXES = ("json", "txt", "cls")
MAX_MEMBER = 2 << 30  # bytes; a larger member is refused before it is read into memory


def read_shard(shard: Shard) -> Iterator[Sample | Failure]:
    """Samples in the shard's order; a Failure for each that has no usable image or metadata.

    Only whole samples: where the archive breaks off, the last one begun is not given, and CutShard is raised
    after those before it. Raises NotATar where there is no archive at all, ReadError where it cannot be opened.
    """
    return _read_files(shard) if shard.kind == "files" else _read_tar(shard)


def read_place(url: str, place: Place) -> bytes:
    """An image's bytes, read back from where they were when it was embedded. Raises ReadError."""
    try:
        if place.shard != url and "#" in place.shard:  # a folder's bucket: the file lies by its own name
            return _named_file(Path(url), place.member).read_bytes()
        with _open(url) as stream:
            if is_remote(url):
                _skip(stream, place.offset)
            else:
                stream.seek(place.offset)
            data = _exactly(stream, place.nbytes)
    except DAMAGE as error:
        raise ReadError(f"{place.member} in {url} cannot be read back: {error}") from error
    return data


def _named_file(root: Path, member: str) -> Path:
    """A folder's file by the name in the table, which may stand for bytes that are no UTF-8."""
    path = root / member
    return path if path.exists() else root / os.fsdecode(unquote_to_bytes(member))


def split_name(name: str) -> tuple[str, str]:
    """(key, suffix) of a member: cut at the last dot, and only where a known suffix stands behind it.

    So `1.2.840.1.dcm` and `1.2.840.2.dcm` are two samples, and `1.2.840.3` keeps its whole name.
    """
    suffix = image_suffix(name)
    if suffix:
        return name[: -len(suffix) - 1], suffix
    stem, dot, last = name.rpartition(".")
    if dot and suffix is None:
        return stem, last.lower()
    return name, ""


class _Group:
    """The members of one sample, gathered until the key changes."""

    def __init__(self, shard: str, key: str) -> None:
        self.shard, self.key = shard, key
        self.image: tuple[str, str, int, bytes] | None = None
        self.metadata: dict[str, Any] = {}
        self.failures: list[Failure] = []
        self.bad_metadata = ""
        self.members: list[str] = []

    def add(self, name: str, suffix: str, offset: int, data: bytes) -> None:
        self.members.append(name)
        if image_suffix(name) is not None:
            if self.image is None:
                self.image = (name, suffix, offset, data)
            else:
                detail = f"{name}: the sample's image is {self.image[0]}"
                self.fail("second image in one sample", detail, offset, len(data), suffix, name)
        elif suffix == "json":
            try:
                fields = _json(data)
                if not isinstance(fields, dict):
                    raise ValueError("not an object")
                self.metadata.update(fields)
            except (ValueError, RecursionError) as error:
                self.bad_metadata = f"{name}: {error}"
        elif suffix in METADATA_SUFFIXES:
            text = data.decode("utf-8", "replace").strip()
            self.metadata[suffix] = int(text) if suffix == "cls" and text.isascii() and text.isdigit() else text

    def fail(
        self, reason: str, detail: str, offset: int = -1, nbytes: int = 0, suffix: str = "", member: str = ""
    ) -> None:
        self.failures.append(
            Failure(self.shard, self.key, "read", reason, detail[:500], offset, nbytes, suffix, member)
        )

    def close(self) -> Iterator[Sample | Failure]:
        if self.image is None:
            self.fail("no image in sample", ", ".join(self.members)[:500])
        else:
            member, suffix, offset, data = self.image
            if self.bad_metadata:
                self.fail("bad metadata", self.bad_metadata, offset, len(data), suffix, member)
            elif not data:
                self.fail("empty file", member, offset, 0, suffix, member)
            else:
                yield Sample(self.shard, self.key, suffix, data, offset, len(data), self.metadata, member)
        yield from self.failures


def _json(data: bytes) -> Any:
    """JSON may hold half a surrogate pair, which is no text and which no table can store: a question mark instead."""
    fields = json.loads(data)
    if data.isascii() and b"\\u" not in data:
        return fields
    text = json.dumps(fields, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode("utf-8", "replace"))
    return fields


def _read_tar(shard: Shard) -> Iterator[Sample | Failure]:
    group: _Group | None = None
    with _open(shard.url) as stream:
        for name, offset, data in _members(stream, shard.url):
            name = plain_name(name)
            key, suffix = split_name(name)
            if group is None or key != group.key:
                if group is not None:
                    yield from group.close()
                group = _Group(shard.name, key)
            if data is None:
                group.fail("member too large", f"{name}: over {MAX_MEMBER} bytes", offset, 0, suffix, name)
            else:
                group.add(name, suffix, offset, data)
    if group is not None:
        yield from group.close()


def _members(stream: IO[bytes], url: str) -> Iterator[tuple[str, int, bytes | None]]:
    """(name, offset of the bytes, bytes) of each regular file. Raises NotATar, CutShard."""
    end: list[str] = []  # how the last header read ended
    try:
        # tarfile copies what is left of its buffer at each header: larger ones (and smaller ones) cost more
        ending: Any = _Ending(stream)
        archive = tarfile.open(fileobj=ending, mode="r|", tarinfo=_header_class(end), bufsize=1 << 16)  # noqa: SIM115
    except DAMAGE as error:
        if "EOFHeaderError" in end:
            return  # two blocks of zeros: an archive of nothing
        raise _told(error, url, NotATar(f"{url} is no tar archive: {error}")) from error
    try:
        for member in archive:
            if member.isfile():
                if member.size > MAX_MEMBER:
                    yield member.name, member.offset_data, None
                    continue
                file = archive.extractfile(member)
                data = file.read() if file else b""
                if len(data) < member.size:
                    raise CutShard(f"{url} ends inside {member.name}")
                yield member.name, member.offset_data, data
            archive.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
    except DAMAGE as error:
        raise _told(error, url, CutShard(f"{url} breaks off: {error}")) from error
    if "EOFHeaderError" not in end:
        raise CutShard(f"{url} breaks off: no end-of-archive mark")


class _Ending:
    """A stream that is read past its end a few times only: tarfile skips a member of 2^62 bytes block by block."""

    READS = 64

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._left = stream, self.READS

    def read(self, nbytes: int) -> bytes:
        data = self._stream.read(nbytes) if self._left == self.READS else b""
        if not data:
            if self._left == self.READS:
                self._stream.close()  # a pipe's program that failed says so here: what it gave was not all
            self._left -= 1
            if self._left < 0:
                raise EOFError("a member is longer than the archive")
        return data


def _told(error: BaseException, url: str, damaged: ReadError) -> ReadError:
    """`damaged`, unless it is the disk's or the network's error, which may pass.

    A damaged gzip has no errno; nor has a pipe's program that failed, and what comes from afar is not unpacked here.
    """
    trouble = isinstance(error, OSError) and (error.errno is not None or is_remote(url))
    return ReadError(f"{url} cannot be read: {error}") if trouble else damaged


def _header_class(end: list[str]) -> type[tarfile.TarInfo]:
    """Python's tarfile ends in silence at a damaged header; this one writes down how the archive ended."""

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
            try:
                header = super().frombuf(buf, encoding, errors)
            except tarfile.HeaderError as error:
                end.append(type(error).__name__)
                raise
            end.clear()
            return header

    return Header


def _read_files(shard: Shard) -> Iterator[Sample | Failure]:
    """The images of one bucket of a folder. The key is the path with its suffix, since a.png may lie beside a.jpg."""
    root = Path(shard.url)
    for name in shard.files:
        path, name = root / name, plain_name(name)
        group = _Group(shard.name, name)
        try:
            data = path.read_bytes()
            sidecar = path.with_suffix(".json")
            if sidecar.is_file():
                group.add(sidecar.name, "json", 0, sidecar.read_bytes())
        except OSError as error:
            group.fail("unreadable file", str(error), 0, 0, image_suffix(name) or "", name)
            yield from group.failures
            continue
        parent = PurePosixPath(name).parent.as_posix()
        if parent != ".":
            group.metadata.setdefault("folder", parent)  # a folder-per-class tree keeps its classes
        group.add(name, image_suffix(name) or "", 0, data)
        yield from group.close()


@contextmanager
def _open(url: str) -> Iterator[IO[bytes]]:
    """The uncompressed bytes of a shard: a local file, or whatever webdataset's gopen takes."""
    try:
        raw: Any
        if is_remote(url):
            from webdataset.gopen import gopen

            raw = gopen(url, "rb")
        else:
            raw = Path(url).open("rb")  # noqa: SIM115 - closed below, whatever wraps it
        stream = raw if is_remote(url) else _decompressed(raw)
    except (OSError, ValueError) as error:
        raise ReadError(f"{url} cannot be opened: {error}") from error
    try:
        yield stream
    except BaseException:
        with suppress(OSError):
            raw.close()
        raise
    try:
        raw.close()
    except OSError as error:  # a pipe's program says only at its end that it failed
        raise ReadError(f"{url} broke off: {error}") from error


def is_remote(url: str) -> bool:
    """Whether a shard's url is opened by webdataset's gopen: pipe:, http:, s3:, gs: and the like."""
    return "://" in url or url.startswith("pipe:")


def _decompressed(raw: IO[bytes]) -> Any:
    """Shards are best stored as plain tar (bytes are found again by offset); compressed ones are read too."""
    magic = raw.read(6)
    raw.seek(0)
    if magic[:2] == b"\x1f\x8b":
        import gzip

        return gzip.GzipFile(fileobj=raw)
    if magic[:3] == b"BZh":
        import bz2

        return bz2.BZ2File(raw)
    if magic == b"\xfd7zXZ\x00":
        return lzma.LZMAFile(raw)
    return raw


def _skip(stream: IO[bytes], nbytes: int) -> None:
    while nbytes > 0:
        nbytes -= len(_exactly(stream, min(nbytes, 1 << 20)))


def _exactly(stream: IO[bytes], nbytes: int) -> bytes:
    buffer = io.BytesIO()
    while buffer.tell() < nbytes:
        block = stream.read(nbytes - buffer.tell())
        if not block:
            raise EOFError(f"the shard ends {nbytes - buffer.tell()} bytes early")
        buffer.write(block)
    return buffer.getvalue()
