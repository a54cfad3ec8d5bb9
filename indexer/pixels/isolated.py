"""Decoding in child processes, for decoders that damaged files can crash, hang or make use up memory.

GDCM, CharLS, OpenJPEG and libtiff run there, and every decoder of an image whose header announces more memory or work
than a plain picture takes. A crash fails one image only; limits on CPU time and memory turn a hang or
a decompression bomb into a failure; output of the C libraries is discarded.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import struct
import subprocess  # runs this interpreter with a module of this package, never a shell
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from indexer.children import environment, python_command
from indexer.errors import PixelError
from indexer.pixels.limits import MAX_INFLATED, PLAIN_BYTES
from indexer.pixels.parts import Facts, Numbered, Raster, Rendering
from indexer.types import UInt8

CPU_SECONDS = 3  # limit for one file, plus more for a large one:
CPU_SECONDS_PER_MB = 2
ANNOUNCED_BYTES_PER_SECOND = 200e6
WALL_FACTOR = 12  # wall time allowed for each second of CPU time, since the machine may be busy
START_SECONDS = 120
TURN_SECONDS = 60
_HEAD = struct.Struct("<II")  # bytes of JSON, bytes of payload
_TOOK_TOO_LONG = "decoder took too long"


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
        self._has_turn = announced > PLAIN_BYTES and _large.acquire(timeout=TURN_SECONDS)
        facts = {"kind": kind, "rendering": asdict(rendering), "list": parts is None, "cpu_seconds": self._limit}
        try:
            self._worker = _holding(facts, data, self._deadline())
        except BaseException:
            self._end_turn()
            raise
        try:
            answer, _ = self._worker.answer(self._deadline())
            self._worker.busy = False
            self.parts = parts or _parts(answer["facts"])
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
        self._worker.give_back()
        self._end_turn()

    def _end_turn(self) -> None:
        if self._has_turn:
            self._has_turn = False
            _large.release()

    def _deadline(self) -> float:
        return time.monotonic() + WALL_FACTOR * self._limit


def _parts(facts: Sequence[Facts]) -> Numbered:
    return Numbered(len(facts), lambda position: facts[position])


def _holding(facts: dict[str, Any], data: bytes, deadline: float) -> _Worker:
    """A process that has received the file and begins to open it.

    An idle process may have been killed unnoticed (by the kernel for memory, by a user). It confirms receipt before it
    reads the file, so a death before that is not caused by the file: another process is used.
    """
    while True:
        worker, fresh = _take()
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


class _Worker:
    """A child process that holds one file at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            python_command("indexer.pixels.worker"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
            # Ctrl-C must reach the parent only: a decoder that it stops would look like a crash
            start_new_session=True,
        )
        self.alive = True
        self.busy = False  # it has unread or pending answers
        self.answer(time.monotonic() + START_SECONDS)  # its first answer: ready

    def send(self, facts: dict[str, Any], data: bytes = b"") -> None:
        head = json.dumps(facts).encode()
        self._write(_HEAD.pack(len(head), len(data)) + head, data)

    def answer(self, deadline: float) -> tuple[dict[str, Any], int]:
        """The next answer's facts and the number of bytes of pixels that follow. Raises PixelError for an error."""
        facts, nbytes = self._read_head(deadline)
        if "reason" in facts:
            self.busy = False
            raise PixelError(facts["reason"], facts["detail"])
        return facts, nbytes

    def pixels(self, shape: Sequence[int], nbytes: int, deadline: float) -> UInt8:
        pixels = np.empty(shape, np.uint8)
        if pixels.nbytes != nbytes:
            raise self._lost("decoder crashed", "its answer makes no sense")
        self._read(memoryview(pixels.data).cast("B"), deadline)
        return pixels

    def give_back(self) -> None:
        """Return the process to the pool; end it where it is still busy."""
        if self.alive and self.busy:
            self.kill()
        with suppress(PixelError):  # died after its last answer
            if self.alive:
                self.send({})  # releases the file
        if self.alive:
            with _lock:
                _idle.append(self)

    def _write(self, *blocks: bytes) -> None:
        assert self.process.stdin is not None
        try:
            for block in blocks:
                view = memoryview(block)
                while view:
                    view = view[os.write(self.process.stdin.fileno(), view) :]
        except BrokenPipeError as error:
            raise self._lost("decoder crashed", "it was gone before it began") from error

    def _read_head(self, deadline: float) -> tuple[dict[str, Any], int]:
        head = bytearray(_HEAD.size)
        self._read(memoryview(head), deadline)
        size, nbytes = _HEAD.unpack(head)
        text = bytearray(size)
        self._read(memoryview(text), deadline)
        facts: dict[str, Any] = json.loads(text)
        return facts, nbytes

    def _read(self, into: memoryview, deadline: float) -> None:
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        while into:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise self._lost(_TOOK_TOO_LONG, "no answer; the process was ended")
            got = os.readv(pipe, [into])
            if got == 0:
                raise self._died()
            into = into[got:]

    def _died(self) -> PixelError:
        code = self.process.wait()
        if code == -signal.SIGXCPU:
            return self._lost(_TOOK_TOO_LONG, "its limit of CPU time was reached")
        words = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return self._lost("decoder crashed", words)

    def _lost(self, reason: str, detail: str) -> PixelError:
        self.kill()
        return PixelError(reason, detail)

    def kill(self) -> None:
        self.alive = False
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


_idle: list[_Worker] = []  # the pool; grows to the largest number of concurrent decodes
_owner = os.getpid()
_lock = threading.Lock()
_large = threading.Semaphore(1)  # of images that announce more than PLAIN_BYTES


def _take() -> tuple[_Worker, bool]:
    """An idle or new process, and whether it is new."""
    global _owner
    with _lock:
        if _owner != os.getpid():  # after a fork the pipes belong to the parent
            _idle.clear()
            _owner = os.getpid()
        if _idle:
            return _idle.pop(), False
    return _Worker(), True


@atexit.register
def _end() -> None:
    while _idle and _owner == os.getpid():
        _idle.pop().kill()
