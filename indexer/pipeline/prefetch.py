"""Prefetching of remote shards: while one is processed, the next are downloaded, each into bounded memory.

The operating system reads ahead on a local disk. Over a network each shard begins with a latency, and one connection
rarely uses the whole bandwidth.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import TracebackType

from indexer.addresses import end_commands, is_remote
from indexer.memory.budget import Admission, Reader
from indexer.pipeline.in_flight import POLL_SECONDS, ReadShard, StopRun
from indexer.types import Failure, Sample, Shard

SHARDS = 4  # remote shards open at once
SHARD_BYTES = 32 << 20  # of images of one shard in memory before its reader waits; may be exceeded by one image
CLOSE_SECONDS = 2.0  # for a reader thread to end with the run; a thread blocked in the network is abandoned


class ReadAhead:
    """The streams of shards, in order; a context manager that ends the reader threads on exit."""

    def __init__(
        self,
        coming: deque[Shard],
        read: ReadShard,
        stop: threading.Event,
        admission: Admission,
        pass_on: Callable[[], None],
    ) -> None:
        """`coming`: the shards in order, to whose end others may be added while it is read.

        `pass_on` gives the workers what the caller holds of a stream, for which its next image may have to wait.
        """
        self._read, self._stop, self._admission, self._pass_on = read, stop, admission, pass_on
        self._coming = coming
        self._pumps: deque[_Pump] = deque()  # the first one is being processed

    def __enter__(self) -> ReadAhead:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for pump in self._pumps:
            pump.close()
        if not all([pump.join() for pump in self._pumps]):
            end_commands()  # a reader is blocked: the command it reads from must not outlive the run

    def stream(self, shard: Shard) -> Iterator[Sample | Failure]:
        """The items that `read` yields for `shard`, the next one. Raises its errors, and StopRun at the run's stop."""
        if not is_remote(shard.url):
            if self._coming and self._coming[0].name == shard.name:
                self._coming.popleft()
            return self._read(shard)
        if self._pumps:
            self._pumps.popleft()
        while self._coming and len(self._pumps) < SHARDS:
            following = self._coming.popleft()
            if is_remote(following.url):
                self._pumps.append(_Pump(following, self._read, self._admission))
        return self._pumps[0].items(self._stop, self._pass_on)


class _Pump:
    """Reads one shard in a thread of its own, at most SHARD_BYTES ahead of the consumer."""

    def __init__(self, shard: Shard, read: ReadShard, admission: Admission) -> None:
        self._read, self._admission = read, admission
        self._reader = Reader(
            admission,
            poll_seconds=POLL_SECONDS,
            blocked=self._end_if_closed,
            in_turn=lambda: self._in_turn and not self._items,
        )
        self._shard = replace(shard, room=self._reader.room)
        self._in_turn = False
        self._items: deque[Sample | Failure] = deque()
        self._nbytes = 0
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"ahead-{shard.name}", daemon=True)
        self._thread.start()

    def items(self, stop: threading.Event, pass_on: Callable[[], None]) -> Iterator[Sample | Failure]:
        self._in_turn = True
        try:
            while True:
                with self._changed:
                    while not self._changed.wait_for(lambda: self._items or self._ended, POLL_SECONDS):
                        if stop.is_set():  # even where the network hangs
                            raise StopRun
                        if self._reader.waits:
                            pass_on()
                    if not self._items:
                        break
                    item = self._items.popleft()
                    self._nbytes -= _nbytes(item)
                    self._changed.notify_all()
                self._admission.read(-_nbytes(item))
                yield item
                del item
            if self._error is not None:
                raise self._error
        finally:
            self.close()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            left = sum(map(_nbytes, self._items))
            self._items.clear()
            self._changed.notify_all()
        self._admission.read(-left)

    def join(self) -> bool:
        """Whether its thread has ended."""
        self._thread.join(CLOSE_SECONDS)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            for item in self._read(self._shard):
                with self._changed:
                    self._changed.wait_for(lambda: self._nbytes < SHARD_BYTES or self._closed)
                    if self._closed:
                        break
                    self._items.append(item)
                    self._nbytes += _nbytes(item)
                    self._admission.read(_nbytes(item))
                    self._changed.notify_all()
                del item
        except BaseException as error:  # noqa: BLE001 - re-raised in the consumer's thread
            self._error = error
        finally:
            self._reader.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _end_if_closed(self) -> None:
        if self._closed:
            raise StopRun


def _nbytes(item: Sample | Failure) -> int:
    return len(item.image) if isinstance(item, Sample) else 0
