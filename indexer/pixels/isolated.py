"""Decoding in processes of their own, for the decoders that damaged files can crash, hang or bloat.

gdcm, CharLS, OpenJPEG and libtiff run there. A crash costs the one image; a limit on CPU time and on memory turns a
hang or a bomb into a failure; what the C libraries print goes nowhere.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import struct
import subprocess  # our own interpreter with our own module, never a shell
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import numpy as np

from indexer.errors import PixelError
from indexer.pixels.parts import Facts, Numbered, Raster, Rendering
from indexer.types import UInt8

CPU_SECONDS = 3  # for one file, and more for a large one:
CPU_SECONDS_PER_MB = 2
WALL_FACTOR = 12  # a busy machine gives a process that share of its time, or less, before we call it hung
START_SECONDS = 120
_HEAD = struct.Struct("<II")  # bytes of JSON, bytes of payload
_TOOK_TOO_LONG = "decoder took too long"


class IsolatedReader:
    """An image file opened in a process of its own, which holds it until `close`.

    The file is sent and its header parsed once, however many parts are asked for. Raises PixelError as the decoder
    did, or for its crash. `parts`: where the caller knows them already.
    """

    def __init__(self, kind: str, data: bytes, rendering: Rendering, parts: Numbered | None = None) -> None:
        self._limit = int(CPU_SECONDS + CPU_SECONDS_PER_MB * len(data) / 1e6)
        facts = {"kind": kind, "rendering": asdict(rendering), "list": parts is None, "cpu_seconds": self._limit}
        self._worker = _holding(facts, data, self._deadline())
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
        """Give the process back; one that is dead, or has answers that nobody will read, is ended."""
        self._worker.give_back()

    def _deadline(self) -> float:
        return time.monotonic() + WALL_FACTOR * self._limit


def _parts(facts: Sequence[Facts]) -> Numbered:
    return Numbered(len(facts), lambda position: facts[position])


def _holding(facts: dict[str, Any], data: bytes, deadline: float) -> _Worker:
    """A process that has received the file and begins to open it.

    An idle one may have been killed (by the kernel for memory, by a user) without our notice. It confirms the receipt
    before it looks at a byte of the file, so a death before that is not the file's doing: another process is taken.
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
            [sys.executable, "-m", "indexer.pixels.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is for us: a decoder it stops would look like a crash
        )
        self.alive = True
        self.busy = False  # it has answers in its pipe, or on their way, that were not read
        self.answer(time.monotonic() + START_SECONDS)  # it says so when it is ready

    def send(self, facts: dict[str, Any], data: bytes = b"") -> None:
        head = json.dumps(facts).encode()
        self._write(_HEAD.pack(len(head), len(data)) + head, data)

    def answer(self, deadline: float) -> tuple[dict[str, Any], int]:
        """The next answer's facts and how many bytes of pixels follow. Raises PixelError where the answer is one."""
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
        """To be used for another file; ended where it still works for this one."""
        if self.alive and self.busy:
            self.kill()
        with suppress(PixelError):  # it died since its last answer
            if self.alive:
                self.send({})  # it lets the file go
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


_idle: list[_Worker] = []  # as many as ever decoded at once
_owner = os.getpid()
_lock = threading.Lock()


def _take() -> tuple[_Worker, bool]:
    """A process without a file, and whether it was started just now."""
    global _owner
    with _lock:
        if _owner != os.getpid():  # after a fork the pipes are the parent's
            _idle.clear()
            _owner = os.getpid()
        if _idle:
            return _idle.pop(), False
    return _Worker(), True


@atexit.register
def _end() -> None:
    while _idle and _owner == os.getpid():
        _idle.pop().kill()
