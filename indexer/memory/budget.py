"""Bounds the bytes of one image, and those that a process holds at once, whatever the number of threads.

One budget for undecoded images (read ahead, queued, and being decoded) and one for what decoding them takes. Each is a
share of the machine's memory; an image larger than its budget goes alone.

No wait is endless. The reader of the shard in turn goes on, whatever the size of its image, as soon as the workers hold
none, and the workers need no reader to finish theirs. Readers of later shards wait until there is room.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

MAX_IMAGE = 2 << 30  # bytes of one image file or member; a larger one is refused before it is read
MAX_SIDECAR = 16 << 20  # bytes of the metadata beside one image
SHARE = 32  # of the machine's memory is one budget's
LEAST_BYTES = 256 << 20  # of a budget
TURN_SECONDS = 60.0  # after which an image is decoded in any case: its thread may itself hold what it waits for
_CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


def machine_bytes() -> int:
    """Bytes of main memory, or a container's limit."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in map(Path, _CONTAINER_LIMITS):
        text = path.read_text().strip() if path.is_file() else ""
        limits += [int(text)] if text.isdigit() else []
    return min(limits)


class Budget:
    """A number of bytes that threads share; thread-safe."""

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self._used = self._holders = 0
        self._changed = threading.Condition()

    def add(self, nbytes: int) -> None:
        """Count bytes that are held already, or, if negative, no longer."""
        with self._changed:
            self._used += nbytes
            if nbytes < 0:
                self._changed.notify_all()

    def exchange(self, old: int, new: int, *, unless: Callable[[], bool], seconds: float) -> bool:
        """Hold `new` bytes in place of `old` once there is room, or once `unless` holds; False after `seconds`."""
        with self._changed:
            free = self._changed.wait_for(lambda: self._used - old + new <= self.nbytes or unless(), seconds)
            if free:
                self._used += new - old
                if new < old:
                    self._changed.notify_all()
            return free

    def take(self, nbytes: int) -> None:
        """Hold bytes, until `give_back`, once there is room, or once nobody else holds any by this method.

        It waits at most TURN_SECONDS: a thread may hold an image while it opens a second one.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._used + nbytes <= self.nbytes or not self._holders, TURN_SECONDS)
            self._used += nbytes
            self._holders += 1

    def give_back(self, nbytes: int) -> None:
        with self._changed:
            self._used -= nbytes
            self._holders -= 1
            self._changed.notify_all()


UNDECODED = Budget(max(LEAST_BYTES, machine_bytes() // SHARE))
DECODED = Budget(UNDECODED.nbytes)


class Admission:
    """What one run holds of the budget; thread-safe."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._lock = threading.Lock()
        self._ahead = self._working = 0  # bytes that readers reserved or read ahead; of the workers' images
        self._closed = False  # a reader that hangs in the network may outlive its run

    @property
    def idle(self) -> bool:
        """Whether the workers hold no image."""
        return self._working == 0

    def read(self, nbytes: int) -> None:
        """Count an image that was read ahead; if negative, one that is no longer there."""
        with self._lock:
            nbytes = 0 if self._closed else nbytes
            self._ahead += nbytes
        self._budget.add(nbytes)

    def work(self, nbytes: int) -> None:
        """Count an image that is on its way to a worker; if negative, one whose bytes were dropped."""
        with self._lock:
            nbytes = 0 if self._closed else nbytes
            self._working += nbytes
        self._budget.add(nbytes)

    def reserve(self, old: int, new: int, *, in_turn: Callable[[], bool], seconds: float) -> bool:
        """Reserve room for an image of `new` bytes in place of `old`; False where there is none within `seconds`."""
        if not self._budget.exchange(old, new, unless=lambda: in_turn() and self.idle, seconds=seconds):
            return False
        with self._lock:
            if not self._closed:
                self._ahead += new - old
                return True
        self._budget.add(old - new)
        return True

    def close(self) -> None:
        """Give back whatever the run still holds, once its threads have ended."""
        with self._lock:
            left, self._ahead, self._working = self._ahead + self._working, 0, 0
            self._closed = True
        self._budget.add(-left)


class Reader:
    """Reserves room for the images of one reading thread."""

    def __init__(
        self,
        admission: Admission,
        *,
        poll_seconds: float,
        blocked: Callable[[], None],
        in_turn: Callable[[], bool] = lambda: True,
    ) -> None:
        """`blocked` is called each time there is no room yet; it may raise to end the reading."""
        self._admission, self._poll, self._blocked, self._in_turn = admission, poll_seconds, blocked, in_turn
        self._reserved = 0
        self.waits = False

    def room(self, nbytes: int) -> None:
        """Wait until an image of so many bytes may be read. What was reserved for the one before is given back."""
        wait = 0.0
        try:
            while not self._admission.reserve(self._reserved, nbytes, in_turn=self._in_turn, seconds=wait):
                self.waits, wait = True, self._poll
                self._blocked()
        finally:
            self.waits = False
        self._reserved = nbytes

    def close(self) -> None:
        """Give the reservation back."""
        self._admission.read(-self._reserved)
        self._reserved = 0
