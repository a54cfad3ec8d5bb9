"""One writer for each table: an advisory lock that the operating system releases when its holder dies."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from indexer.errors import StoreError, StoreLocked

# O_NONBLOCK: opening a pipe must not block
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class WriterLock:
    """Holds `path` exclusively between `__enter__` and `__exit__`.

    The file is not removed (removal would let two writers hold two inodes of one name) and names its last holder. A
    dead holder's lock is free at once, since the kernel releases it with the process. Anything but a regular file, in
    particular a symbolic link, is refused: writing through it could truncate another file.
    Raises StoreLocked, StoreError.
    """

    def __init__(self, path: Path, *, what: str) -> None:
        self._path, self._what = path, what
        self._fd: int | None = None
        self._facts: dict[str, object] = {}
        # Seconds since the epoch up to which every file of the table is known to be synced to the disk; 0 where
        # unknown. A holder that exits without error stores it; after a crash the next holder syncs everything.
        self.synced_until = 0.0

    def __enter__(self) -> WriterLock:
        fd = self._opened()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(fd)
            os.close(fd)
            raise StoreLocked(
                f"{self._what} is being written by {holder}. Wait for it to end, or stop that process; "
                "the lock goes with it."
            ) from None
        except OSError as error:  # ENOLCK: a file system without locks
            os.close(fd)
            raise self._refused(f"cannot be locked ({os.strerror(error.errno or 0)})") from error
        self.synced_until = _synced_until(fd)
        self._facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        self._fd = fd
        self._write()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._fd is not None:
            self._facts["ended"] = True
            if kind is None and self.synced_until:
                self._facts["synced_until"] = time.time()
            with suppress(OSError):  # a full disk: the next holder only syncs more than needed
                self._write()
            os.close(self._fd)
            self._fd = None

    def _opened(self) -> int:
        try:
            fd = os.open(self._path, _OPEN, 0o644)
        except OSError as error:
            if self._path.is_symlink():
                raise self._refused("is a symbolic link, which is not followed") from error
            raise self._refused(f"cannot be opened for writing ({os.strerror(error.errno or 0)})") from error
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self._refused("is not a regular file")
        return fd

    def _refused(self, why: str) -> StoreError:
        return StoreError(
            f"{self._what} cannot be written: its lock file {self._path} {why}. Remove that file, or correct its "
            "permissions, and run the same command again."
        )

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
    """A description of the process that holds the lock.

    A process with read permission only can hold the lock without writing its name into the file; the file then names
    an earlier holder, which has ended.
    """
    unknown = "another process, which did not write its name into the lock file (`lsof` or `fuser` names it)"
    try:
        facts = json.loads(os.pread(fd, 4096, 0))
        pid, host, since = int(facts["pid"]), str(facts["host"]), str(facts["since"])
    except (ValueError, KeyError, TypeError):
        return unknown
    if facts.get("ended") or (host == socket.gethostname() and not is_alive(pid)):
        return unknown
    return f"process {pid} on {host} since {since}"


def is_alive(pid: int) -> bool:
    """Whether this machine has a process with this id, of any user."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return pid > 0
