"""Decoding in child processes, for decoders that damaged files can crash, hang or make use up memory.

GDCM, CharLS, OpenJPEG and libtiff run there, and every decoder of an image whose header announces more memory or work
than a plain picture takes. A crash fails one image only; limits on CPU time and memory turn a hang or
a decompression bomb into a failure; output of the C libraries is discarded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from indexer.errors import PixelError
from indexer.isolation.process import ChildProcess, Pool
from indexer.pixels.limits import MAX_INFLATED, PLAIN_BYTES
from indexer.pixels.parts import Facts, Numbered, Raster, Rendering

CPU_SECONDS = 3  # limit for one file, plus more for a large one:
CPU_SECONDS_PER_MB = 2
ANNOUNCED_BYTES_PER_SECOND = 200e6
WALL_FACTOR = 12  # wall time allowed for each second of CPU time, since the machine may be busy
TURN_SECONDS = 60
LOOK_SECONDS = 0.05  # between two looks at the turn of other processes


class IsolatedReader:
    """An image file opened in a child process, which holds it until `close`.

    The file is sent and its header parsed once, for any number of parts. Raises the decoder's PixelError, or one for
    its crash. `parts`: given where the caller knows them already. `announced`: bytes, by the header; an image that
    announces more than a plain one waits until no other such image is decoded.
    """

    def __init__(
        self, kind: str, data: bytes, rendering: Rendering, parts: Numbered | None = None, *, announced: int = 0
    ) -> None:
        seconds = CPU_SECONDS + CPU_SECONDS_PER_MB * len(data) / 1e6
        self._limit = int(seconds + min(announced, MAX_INFLATED) / ANNOUNCED_BYTES_PER_SECOND)
        # One at a time is what bounds the memory; not for ever, since its reader may wait for the one that waits here
        self._has_turn = announced > PLAIN_BYTES and large_turn.acquire(TURN_SECONDS)
        facts = {"kind": kind, "rendering": asdict(rendering), "list": parts is None, "cpu_seconds": self._limit}
        try:
            self._worker = _holding(facts, data, self._deadline())
        except BaseException:
            self._end_turn()
            raise
        try:
            answer, _ = self._worker.answer(self._deadline())
            self._worker.busy = False
            self.parts = parts or _parts(answer["facts"], answer["in_volume"])
        except BaseException:
            self.close()
            raise

    def rasters(self, positions: Sequence[int]) -> Iterator[Raster]:
        worker = self._worker
        if worker.busy:
            raise ValueError("the parts asked for before have not all been read")
        worker.busy = bool(positions)
        worker.send({"positions": list(positions)})
        for left in reversed(range(len(positions))):
            deadline = self._deadline()
            answer, nbytes = worker.answer(deadline)
            pixels = worker.pixels(answer["shape"], nbytes, deadline)
            worker.busy = left > 0
            yield Raster(pixels, answer["aspect"], tuple(answer["flags"]))

    def close(self) -> None:
        """Return the process to the pool; one that is dead, or has unread answers, is ended."""
        _pool.give_back(self._worker, {})  # which releases the file
        self._end_turn()

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            large_turn.release()

    def _deadline(self) -> float:
        return time.monotonic() + WALL_FACTOR * self._limit


def _parts(facts: Sequence[Facts], in_volume: int) -> Numbered:
    return Numbered(len(facts), lambda position: facts[position], in_volume)


def _holding(facts: dict[str, Any], data: bytes, deadline: float) -> ChildProcess:
    """A process that has received the file and begins to open it.

    An idle process may have been killed unnoticed (by the kernel for memory, by a user). It confirms receipt before it
    reads the file, so a death before that is not caused by the file: another process is used.
    """
    while True:
        worker, fresh = _pool.take()
        worker.busy = True
        try:
            worker.send(facts, data)
            worker.answer(deadline)
        except PixelError:
            if fresh:
                raise
            continue
        except BaseException:
            worker.kill()
            raise
        return worker


class Turn:
    """Taken by one at a time, of the threads of this process, or of several processes that share a file."""

    def __init__(self) -> None:
        self._own = threading.Semaphore(1)
        self._descriptor: int | None = None

    def share(self, descriptor: int) -> None:
        """From now on take turns with all processes that hold this file open."""
        self._descriptor = descriptor

    def acquire(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        if not self._own.acquire(timeout=timeout):
            return False
        while not self._locked():
            if time.monotonic() > until:
                self._own.release()
                return False
            time.sleep(LOOK_SECONDS)
        return True

    def release(self) -> None:
        if self._descriptor is not None:
            import fcntl

            fcntl.lockf(self._descriptor, fcntl.LOCK_UN)
        self._own.release()

    def _locked(self) -> bool:
        if self._descriptor is None:
            return True
        import fcntl  # not on every system; those that have it have the processes too

        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of the process: it ends with it
        except OSError:
            return False
        return True


_pool = Pool("indexer.pixels.worker")
large_turn = Turn()  # of images that announce more than PLAIN_BYTES
