"""Whether a local table has a newer version, from the times of its folder of versions where that is enough.

Lance answers it by listing the folder on a thread of its own, which on a busy machine waits for a core: up to a
millisecond, twice as long as a search. Every commit, clean-up and roll-back makes or removes a file in the folder and
so changes its times. These are coarse: they are trusted where they were SETTLED_SECONDS old when the folder was listed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from indexer.addresses import is_remote

SETTLED_SECONDS = 2.0

Times = tuple[int, int, int]  # inode, mtime_ns, ctime_ns


class Newest:
    """Made before a table is opened at its newest version."""

    def __init__(self, path: str) -> None:
        self._folder = None if is_remote(path) else f"{path}/_versions"
        self._seen = self._settled_times()

    def is_still(self, look_up: Callable[[], bool]) -> bool:
        """Whether the version is still the newest; `look_up` asks Lance."""
        times = self._settled_times()
        if times is not None and times == self._seen:
            return True
        newest = look_up()
        self._seen = times if newest else None
        return newest

    def _settled_times(self) -> Times | None:
        """The folder's times; None where another change might not change them, and where there is no folder."""
        if self._folder is None:
            return None
        try:
            number = os.open(self._folder, os.O_RDONLY)  # NFS asks its server at an open, not a stat
        except OSError:
            return None
        try:
            found = os.fstat(number)
        finally:
            os.close(number)
        settled = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > SETTLED_SECONDS * 1e9
        return (found.st_ino, found.st_mtime_ns, found.st_ctime_ns) if settled else None
