"""The bytes of a remote file, continued where a connection broke off and checked for their length."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
PAUSES = (0.2, 1.0, 3.0, 10.0)  # seconds before each new try, since the last byte came


def is_web(address: str) -> bool:
    """Whether an address is of a web server. Here, since importing `web` takes as long as opening a table."""
    return address.startswith(("http://", "https://"))


@dataclass(frozen=True)
class Facts:
    """What a server says of a file, without sending it."""

    tag: str  # changes with the content (ETag or version); "" where the server names none
    nbytes: int | None


@dataclass(frozen=True)
class Part:
    """A file from an offset on."""

    blocks: Iterator[bytes]
    facts: Facts  # of the whole file
    close: Callable[[], object]


class ChangedFile(OSError):
    """The file has another content than when its reading began."""


class SlowServer(OSError):
    """The server sends next to nothing: a new connection would begin the same again, without an end."""


def missing(words: str) -> OSError:
    return FileNotFoundError(words)


def denied(words: str) -> OSError:
    """Not allowed, or no server at that address: another try meets the same."""
    return PermissionError(words)


def changed(words: str) -> OSError:
    return ChangedFile(words)


def lasts(error: OSError) -> bool:
    """Whether another try would meet the same error."""
    return isinstance(error, (FileNotFoundError, PermissionError, ConnectionRefusedError, ChangedFile, SlowServer))


def tried(work: Callable[[], T]) -> T:
    """The result of `work`, tried again after an OSError that may pass."""
    for pause in PAUSES:
        try:
            return work()
        except OSError as error:
            if lasts(error):
                raise
            time.sleep(pause)
    return work()


class ResumedStream:
    """Reads a file from its beginning to its end. Raises OSError, also where it changed or stays incomplete."""

    def __init__(self, open_from: Callable[[int, Facts | None], Part]) -> None:
        """`open_from(offset, facts)` opens the file whose facts are these, None for the first time."""
        self._open_from = open_from
        self._part: Part | None = None
        self._facts: Facts | None = None
        self._at = 0  # bytes received
        self._left = memoryview(b"")
        self._ended = False
        self._part = tried(lambda: open_from(0, None))
        self._facts = self._part.facts

    @property
    def nbytes(self) -> int | None:
        """Of the whole file, where the server says so."""
        return self._facts.nbytes if self._facts else None

    def read(self, nbytes: int = -1) -> bytes:
        """At most `nbytes` bytes, b"" at the end; with -1 all that are left."""
        if nbytes < 0:
            return b"".join(iter(lambda: self.read(1 << 20), b""))
        while not self._left and not self._ended:
            block = tried(self._block)
            self._at += len(block)
            self._left, self._ended = memoryview(block), not block
        out, self._left = bytes(self._left[:nbytes]), self._left[nbytes:]
        return out

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        part, self._part, self._ended = self._part, None, True
        if part is not None:
            with suppress(OSError):
                part.close()

    def _block(self) -> bytes:
        """The next block, b"" at the end. After an error the next call continues on a new connection."""
        if self._part is None:
            self._part = self._open_from(self._at, self._facts)
        try:
            block = next((block for block in self._part.blocks if block), b"")
            size = self._facts.nbytes if self._facts else None
            if not block and size is not None and self._at < size:
                raise OSError(f"the connection ended after {self._at:,} of {size:,} bytes")
        except OSError:
            part, self._part = self._part, None
            with suppress(OSError):
                part.close()
            raise
        return block
