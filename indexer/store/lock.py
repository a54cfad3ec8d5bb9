"""One writer a table: an advisory lock that the operating system frees when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
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
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(facts).encode(), 0)
        self._fd = fd
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _holder(fd: int) -> str:
    try:
        facts = json.loads(os.pread(fd, 4096, 0))
        return f"process {facts['pid']} on {facts['host']} since {facts['since']}"
    except (ValueError, KeyError):
        return "another process"  # it holds the lock but has not yet written its name
