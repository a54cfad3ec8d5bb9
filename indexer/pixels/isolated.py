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
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from indexer.errors import PixelError
from indexer.pixels.frames import Frame, FrameRequest

CPU_SECONDS = 3  # for one file, and more for a large one:
CPU_SECONDS_PER_MB = 2
WALL_FACTOR = 12  # a busy machine gives a process that share of its time, or less, before we call it hung
START_SECONDS = 120
_HEAD = struct.Struct("<II")  # bytes of JSON, bytes of payload
_TOOK_TOO_LONG = "decoder took too long"


def isolated_frames(kind: str, data: bytes, request: FrameRequest) -> Iterator[Frame]:
    """The frames of `data`, decoded elsewhere. Raises PixelError as the decoder did, or for its crash."""
    worker = _take()
    whole = False
    try:
        yield from worker.frames(kind, data, request)
        whole = True
    except PixelError as error:
        whole = worker.alive
        raise error
    finally:
        if whole:
            _give(worker)
        else:  # dead, or with frames left that nobody will fetch
            worker.kill()


class _Worker:
    """A child process that decodes one file at a time."""

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
        self._read_head(time.monotonic() + START_SECONDS)  # it says so when it is ready

    def frames(self, kind: str, data: bytes, request: FrameRequest) -> Iterator[Frame]:
        limit = int(CPU_SECONDS + CPU_SECONDS_PER_MB * len(data) / 1e6)
        head = json.dumps({"kind": kind, "request": asdict(request), "cpu_seconds": limit}).encode()
        self._write(_HEAD.pack(len(head), len(data)) + head, data)
        while True:
            deadline = time.monotonic() + WALL_FACTOR * limit
            facts, nbytes = self._read_head(deadline)
            if "reason" in facts:
                raise PixelError(facts["reason"], facts["detail"])
            if facts.get("end"):
                return
            pixels = np.empty(facts["shape"], np.uint8)
            if pixels.nbytes != nbytes:
                raise self._lost("decoder crashed", "its answer makes no sense")
            self._read(memoryview(pixels.data).cast("B"), deadline)
            yield Frame(facts["index"], pixels, facts["aspect"], tuple(facts["flags"]))

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


def _take() -> _Worker:
    global _owner
    with _lock:
        if _owner != os.getpid():  # after a fork the pipes are the parent's
            _idle.clear()
            _owner = os.getpid()
        while _idle:
            worker = _idle.pop()
            if worker.process.poll() is None:
                return worker
            worker.kill()
    return _Worker()


def _give(worker: _Worker) -> None:
    with _lock:
        _idle.append(worker)


@atexit.register
def _end() -> None:
    while _idle and _owner == os.getpid():
        _idle.pop().kill()
