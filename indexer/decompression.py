"""Decompresses archives while they are read: gzip, bzip2, xz and Zstandard, each of one or several members.

The format is detected by the first bytes. Members or frames that follow one another are one content: RFC 1952 section
2.2 for gzip, RFC 8878 section 3 for Zstandard, whose skippable frames are skipped.
"""

from __future__ import annotations

import errno
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any

WINDOW = 128 << 20  # bytes of history that a decompressor may need; it is also the limit of Zstandard's own libraries
_XZ_MEMORY = WINDOW + (32 << 20)  # of a decoder with a dictionary of WINDOW bytes
_BLOCK = 1 << 16
_STEP = 1 << 14  # uncompressed bytes asked for at once; at an error so many may be lost
_HEAD = 6  # bytes that tell the format
_SKIPPABLE = range(0x184D2A50, 0x184D2A60)  # magic numbers of Zstandard's skippable frames


def decompressed(raw: Any) -> Any:
    """The uncompressed content of an open binary file or stream, which is `raw` itself where it can be read as it is.

    A decompressed stream cannot seek. Reading it raises EOFError where the bytes end early, ValueError where they are
    damaged, OSError with ENOMEM where they need a longer history than WINDOW, and the errors of `raw` unchanged.
    Closing it closes `raw`.
    """
    if _is_file(raw):
        head = raw.read(_HEAD)
        raw.seek(0)
        if _decompressor(head) is None:
            return raw
    source = _Source(raw)
    buffered: Any = io.BufferedReader(source, _BLOCK)
    make = _decompressor(buffered.peek(_HEAD))
    return buffered if make is None else _Decompressed(source, make(buffered))


def is_compressed(head: bytes) -> bool:
    """Whether content that begins so is decompressed while it is read."""
    return _decompressor(head) is not None


def _decompressor(head: bytes) -> Callable[[io.BufferedReader], Any] | None:
    if head[:2] == b"\x1f\x8b":
        return _gzip
    if head[:3] == b"BZh":
        return _bzip2
    if head[:6] == b"\xfd7zXZ\x00":
        return _Xz
    if head[:4] == b"\x28\xb5\x2f\xfd" or (len(head) >= 4 and int.from_bytes(head[:4], "little") in _SKIPPABLE):
        return _zstandard
    return None


def _gzip(source: io.BufferedReader) -> Any:
    import gzip

    return gzip.GzipFile(fileobj=source)


def _bzip2(source: io.BufferedReader) -> Any:
    import bz2

    return bz2.BZ2File(source)


def _zstandard(source: io.BufferedReader) -> Any:
    import pyarrow

    return pyarrow.CompressedInputStream(pyarrow.PythonFile(source, "r"), "zstd")


class _Xz:
    """The streams of an xz file, with a limit on the decoder's memory, which lzma.LZMAFile has none of."""

    def __init__(self, source: io.BufferedReader) -> None:
        self._source = source
        self._decoder: lzma.LZMADecompressor | None = None
        self._rest = b""  # compressed bytes after the end of a stream

    def read(self, nbytes: int) -> bytes:
        while True:
            if self._decoder is None or self._decoder.eof:
                start = self._rest.lstrip(b"\0") or self._source.read(_BLOCK).lstrip(b"\0")  # padding between streams
                if not start:
                    return b""
                self._decoder, self._rest = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY), b""
            elif self._decoder.needs_input:
                start = self._source.read(_BLOCK)
                if not start:
                    raise EOFError("it ends inside an xz stream")
            else:
                start = b""
            data = self._decoder.decompress(start, nbytes)
            self._rest = self._decoder.unused_data
            if data:
                return data


class _Source(io.RawIOBase):
    """A file, a program's output or a server's answer, whose failure is not confused with damaged content."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._ended = False
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if self._ended:
            return 0
        try:
            data: bytes = self._raw.read(len(buffer))
            if not data:
                self._ended = True
                self._raw.close()  # raises where a program failed, whose output is then incomplete
        except OSError as error:
            self.error = error
            raise
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _is_file(raw: Any) -> bool:
    return bool(hasattr(raw, "seekable") and raw.seekable())


class _Decompressed:
    """Reads a decompressor, and names its errors by their cause."""

    def __init__(self, source: _Source, stream: Any) -> None:
        self._source, self._stream = source, stream
        self._error: Exception | None = None

    def read(self, nbytes: int) -> bytes:
        """At most `nbytes` bytes; fewer only at the end, or before an error that the next call raises."""
        buffer = io.BytesIO()
        while buffer.tell() < nbytes and self._error is None:
            try:
                block = self._block(min(nbytes - buffer.tell(), _STEP))
            except (OSError, EOFError, ValueError) as error:
                self._error = error
                break
            if not block:
                return buffer.getvalue()
            buffer.write(block)
        if self._error is not None and not buffer.tell():
            raise self._error
        return buffer.getvalue()

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        self._source.close()

    def _block(self, nbytes: int) -> bytes:
        try:
            data: bytes = self._stream.read(nbytes)
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
            if self._source.error is not None:
                raise self._source.error from None
            words = str(error)
            if "too much memory" in words or "Memory usage limit" in words:
                limit = f"more than {WINDOW >> 20} MiB of history"
                cause = f"it needs {limit} to be decompressed. Compress it again with a smaller window (zstd --long=27)"
                raise OSError(errno.ENOMEM, cause) from error
            if isinstance(error, EOFError) or words == "Truncated compressed stream":
                raise EOFError("the compressed content ends early") from error
            raise ValueError(f"the compressed content is damaged: {words}") from error
        return data
