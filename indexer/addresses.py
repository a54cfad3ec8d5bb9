"""Addresses of shards, files and databases: whether they are remote, their identity, and their uncompressed bytes.

A remote address is a URL or `pipe:` with a shell command. Commands run in a process group of their own, so that all
processes they start end with them.
"""

from __future__ import annotations

import atexit
import hashlib
import io
import lzma
import os
import signal
import subprocess
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache, lru_cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from indexer.decompression import decompressed, is_compressed
from indexer.errors import ReadError, ShardNotFound
from indexer.redact import stored_address
from indexer.remote import objects
from indexer.remote.objects import is_object
from indexer.remote.stream import Facts, is_web

# errors of the decompressors and of tarfile, with its ValueError for a malformed number in an extended header
DAMAGE = (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError, ValueError)
HEAD_BYTES = 8
BUFFER = 1 << 16  # of a local file: a small archive is read by one call
POLL_SECONDS = 0.005
END_SECONDS = 5.0  # for a command to end after its output was closed, and again after SIGTERM
# Exit codes of programs whose reader closed the pipe; 23 is curl's
BROKEN_PIPE = {-signal.SIGPIPE, 128 + signal.SIGPIPE, 23}


def is_remote(address: str) -> bool:
    """Whether an address is a URL or a `pipe:` command, not a local path."""
    return "://" in address or address.startswith("pipe:")


def plain(address: str) -> str:
    """The path that a `file://` URL names; any other address as it is. Raises ShardNotFound for another host."""
    if not address.startswith("file://"):
        return address
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise ShardNotFound(f"{address} names no file of this machine. Write file:///folder/name, or the path alone.")
    return unquote(parts.path)


def require_scheme(address: str) -> None:
    """Raises ShardNotFound for a URL of a kind that nothing here opens."""
    from webdataset.gopen import gopen_schemes

    scheme = address.partition("://")[0]
    known = {"file", *objects.SCHEMES, *(name for name in gopen_schemes if name.isalnum())} - {"pipe"}
    if not address.startswith("pipe:") and scheme not in known:
        raise ShardNotFound(
            f"{stored_address(address)}: {scheme}:// cannot be opened. Use one of {', '.join(sorted(known))}, or pipe:."
        )


def join(uri: str, name: str) -> str:
    """The address of a table or file inside a database directory or object-store prefix."""
    return f"{uri.rstrip('/')}/{name}"


def identity(address: str, name: str, *, hash_content: bool = False) -> str | None:
    """A text that changes when the content may have changed: size and modification time, a server's ETag, or a hash.

    None where only reading all of the content would show a change. `name` is the address in messages. Raises OSError
    for a local file, ShardNotFound where a server does not answer.
    """
    if not is_remote(address):
        path = Path(address)
        if hash_content:
            with path.open("rb") as file:
                return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
        stat = path.stat()
        return stat_identity(stat.st_size, stat.st_mtime_ns)
    return facts(address, name).tag or None


def facts(address: str, name: str) -> Facts:
    """What the server of a remote address says of its content. Raises ShardNotFound where it does not answer."""
    try:
        if is_web(address) or is_object(address):
            found: Facts = _server(address).facts(address)
            return found
    except OSError as error:
        cause = str(error).removeprefix(f"{name}: ")
        raise ShardNotFound(f"{name} does not answer: {cause}. Check the address and its credentials.") from error
    return Facts("", None)


def stat_identity(nbytes: int, modified_ns: int) -> str:
    """The identity of a local file whose content is not hashed."""
    return f"{nbytes}-{modified_ns}"


def read_range(address: str, offset: int, nbytes: int) -> bytes:
    """`nbytes` bytes from `offset` of the uncompressed content. Raises one of DAMAGE, or ReadError.

    The address may come from a table, so redirections to another host are not followed.
    """
    if (is_web(address) or is_object(address)) and not is_compressed(_head(address)):
        data: bytes = _server(address).read_range(address, offset, nbytes)
        return data
    with open_stream(address, same_host=True) as stream:
        if stream.seekable():
            stream.seek(offset)
        else:
            _skip(stream, offset)
        return _exactly(stream, nbytes)


@contextmanager
def open_stream(address: str, *, same_host: bool = False) -> Iterator[IO[bytes]]:
    """The uncompressed bytes of a local file, an object, a web server's file, a command's output, or another URL that
    webdataset's gopen opens. With `same_host`, redirections to another web server are refused.
    """
    raw: Any
    try:
        if address.startswith("pipe:"):
            raw = _Command(address.removeprefix("pipe:"))
        elif is_web(address):
            raw = _server(address).stream(address, same_host=same_host)
        elif is_object(address):
            raw = objects.stream(address)
        elif is_remote(address):
            from webdataset.gopen import gopen

            raw = gopen(address, "rb")
        else:
            raw = Path(address).open("rb", BUFFER)  # noqa: SIM115 - closed below
    except (OSError, ValueError) as error:
        raise ReadError(f"{stored_address(address)} cannot be opened: {error}") from error
    try:
        try:
            stream = decompressed(raw)
        except OSError as error:
            raise ReadError(f"{stored_address(address)} cannot be read: {error}") from error
        yield stream
    except BaseException:
        with suppress(OSError):
            raw.close()
        raise
    try:
        raw.close()
    except OSError as error:  # a command's failure is known only at its end
        raise ReadError(f"{stored_address(address)} broke off: {error}") from error


_running: set[_Command] = set()  # of this process


class _Command:
    """A shell command's output. All processes it started are ended with it, also hung ones."""

    def __init__(self, command: str) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", command], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True
        )
        self._lock = threading.Lock()
        _end_all_at_exit()
        _running.add(self)

    def read(self, nbytes: int = -1) -> bytes:
        assert self._process.stdout is not None
        data: bytes = self._process.stdout.read(nbytes)
        return data

    def close(self) -> None:
        """Close. Raises OSError where the command failed for another reason than the closed pipe."""
        assert self._process.stdout is not None
        if self in _running:
            self._process.stdout.close()
            by_itself = self._ended(END_SECONDS)
            code = self.end()
            if by_itself and code and code not in BROKEN_PIPE:
                raise OSError(f"its command ended with exit code {code}")

    def end(self) -> int:
        """End the command's process group, whose id stays valid until the command itself is reaped."""
        with self._lock:
            if self._process.returncode is None:
                if not self._ended(0):
                    os.killpg(self._process.pid, signal.SIGTERM)
                    self._ended(END_SECONDS)
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            _running.discard(self)
            return self._process.returncode or 0

    def _ended(self, seconds: float) -> bool:
        """Whether the command ends within that time. It is not reaped, so that its process id stays valid."""
        until = time.monotonic() + seconds
        while os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if time.monotonic() >= until:
                return False
            time.sleep(POLL_SECONDS)
        return True


@cache
def _end_all_at_exit() -> None:
    atexit.register(end_commands)


def end_commands() -> None:
    """End every running `pipe:` command of this process; their readers get end of file."""
    for command in list(_running):
        command.end()


@lru_cache(maxsize=1024)
def _head(address: str) -> bytes:
    """The first bytes of a remote file, which tell whether it is compressed."""
    head: bytes = _server(address).read_range(address, 0, HEAD_BYTES)
    return head


def _server(address: str) -> Any:
    """The module for a web server's or an object store's address."""
    if not is_web(address):
        return objects
    from indexer.remote import web

    return web


def _skip(stream: IO[bytes], nbytes: int) -> None:
    while nbytes > 0:
        nbytes -= len(_exactly(stream, min(nbytes, 1 << 20)))


def _exactly(stream: IO[bytes], nbytes: int) -> bytes:
    buffer = io.BytesIO()
    while buffer.tell() < nbytes:
        block = stream.read(nbytes - buffer.tell())
        if not block:
            raise EOFError(f"it ends {nbytes - buffer.tell()} bytes early")
        buffer.write(block)
    return buffer.getvalue()
