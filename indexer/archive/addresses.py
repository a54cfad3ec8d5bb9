"""Addresses: which are remote, and their bytes as a stream, uncompressed."""

from __future__ import annotations

import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from indexer.errors import ReadError

# the compressions' own beside tar's, and tarfile's ValueError of a number in an extended header that is none
DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)


def is_remote(url: str) -> bool:
    """Whether a shard's url is opened by webdataset's gopen: pipe:, http:, s3:, gs: and the like."""
    return "://" in url or url.startswith("pipe:")


@contextmanager
def open_stream(url: str) -> Iterator[IO[bytes]]:
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


def skip(stream: IO[bytes], nbytes: int) -> None:
    while nbytes > 0:
        nbytes -= len(exactly(stream, min(nbytes, 1 << 20)))


def exactly(stream: IO[bytes], nbytes: int) -> bytes:
    buffer = io.BytesIO()
    while buffer.tell() < nbytes:
        block = stream.read(nbytes - buffer.tell())
        if not block:
            raise EOFError(f"the shard ends {nbytes - buffer.tell()} bytes early")
        buffer.write(block)
    return buffer.getvalue()
