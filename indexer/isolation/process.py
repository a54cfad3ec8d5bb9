"""Child processes that decode, seen from their parent: requests, answers with pixels, and a pool of idle processes.

Decoders that damaged files can crash, hang or make use up memory run there: a crash fails one image only, and the
output of the C libraries is discarded. `indexer.isolation.program` is the other side.
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
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from indexer.children import deaf_to_stops, environment, python_command
from indexer.errors import PixelError
from indexer.types import UInt8

START_SECONDS = 120
HEAD = struct.Struct("<II")  # bytes of JSON, bytes of payload
TOOK_TOO_LONG = "decoder took too long"


class ChildProcess:
    """A child process that runs `module`, and answers one request after the other."""

    def __init__(self, module: str) -> None:
        with deaf_to_stops():
            self.process = subprocess.Popen(
                python_command(module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
                start_new_session=True,  # no signal of a terminal reaches it either, a hang-up for one
            )
        self.alive = True
        self.busy = False  # it has unread or pending answers
        self.holds = ""  # what it keeps open between requests, for `Pool.take`
        self.answer(time.monotonic() + START_SECONDS)  # its first answer: ready

    def send(self, facts: dict[str, Any], data: bytes = b"") -> None:
        head = json.dumps(facts).encode()
        self._write(HEAD.pack(len(head), len(data)) + head, data)

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
        head = bytearray(HEAD.size)
        self._read(memoryview(head), deadline)
        size, nbytes = HEAD.unpack(head)
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
                raise self._lost(TOOK_TOO_LONG, "no answer; the process was ended")
            got = os.readv(pipe, [into])
            if got == 0:
                raise self._died()
            into = into[got:]

    def _died(self) -> PixelError:
        code = self.process.wait()
        if code == -signal.SIGXCPU:
            return self._lost(TOOK_TOO_LONG, "its limit of CPU time was reached")
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


class Pool:
    """Idle processes of one module; grows to the largest number in use at once. Thread-safe."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._idle: list[ChildProcess] = []
        self._owner = os.getpid()
        self._lock = threading.Lock()
        atexit.register(self._end)

    def take(self, prefer: Callable[[ChildProcess], bool] | None = None) -> tuple[ChildProcess, bool]:
        """An idle process, if possible one that `prefer` names, or a new one; and whether it is new."""
        with self._lock:
            if self._owner != os.getpid():  # after a fork the pipes belong to the parent
                self._idle.clear()
                self._owner = os.getpid()
            if self._idle:
                spots = [at for at, child in enumerate(self._idle) if prefer is not None and prefer(child)]
                return self._idle.pop(spots[-1] if spots else -1), False
        return ChildProcess(self._module), True

    def give_back(self, child: ChildProcess, goodbye: dict[str, Any] | None = None) -> None:
        """Take a process back, after it was sent `goodbye`; one that is still busy is ended."""
        if child.alive and child.busy:
            child.kill()
        with suppress(PixelError):  # died after its last answer
            if child.alive and goodbye is not None:
                child.send(goodbye)
        if child.alive:
            with self._lock:
                self._idle.append(child)

    def _end(self) -> None:
        while self._idle and self._owner == os.getpid():
            self._idle.pop().kill()
