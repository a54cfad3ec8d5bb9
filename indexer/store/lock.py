"""One writer a table: an advisory lock that the operating system frees when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from indexer.errors import StoreLocked


class WriterLock:
    """Holds `path` exclusively between `__enter__` and `__exit__`.

    The file stays behind (removing it would let two writers hold two inodes of one name) and names its last
    holder. A dead holder's lock is free at once, since the kernel drops it with the process.
    """

    def __init__(self, path: Path, *, what: str) -> None:
        self._path, self._what = path, what
        self._fd: int | None = None
        self._facts: dict[str, object] = {}
        # Seconds since the epoch up to which all is known to be on the disk; 0 where that is not known. A holder that
        # ends in order passes it on; it is lost with one that dies, until a holder has synced everything.
        self.synced_until = 0.0

    def __enter__(self) -> WriterLock:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(fd)
            os.close(fd)
            raise StoreLocked(
                f"{self._what} is being written by {holder}. Wait for it to end, or stop that process; "
                "the lock goes with it."
            ) from None
        self.synced_until = _synced_until(fd)
        self._facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self._fd = fd
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._fd is not None:
            if kind is None and self.synced_until:
                self._facts["synced_until"] = time.time()
                with suppress(OSError):  # a full disk: the next holder syncs more than it must
                    self._write()
            os.close(self._fd)
            self._fd = None

    def _write(self) -> None:
        if self._fd is not None:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, json.dumps(self._facts).encode(), 0)


def _synced_until(fd: int) -> float:
    try:
        return float(json.loads(os.pread(fd, 4096, 0))["synced_until"])
    except (ValueError, KeyError, TypeError):
        return 0.0


def _holder(fd: int) -> str:
    try:
        facts = json.loads(os.pread(fd, 4096, 0))
        return f"process {facts['pid']} on {facts['host']} since {facts['since']}"
    except (ValueError, KeyError):
        return "another process"  # it holds the lock but has not yet written its name
