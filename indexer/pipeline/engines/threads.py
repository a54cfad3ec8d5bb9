"""The engine of one machine: one thread reads shards, worker threads decode and embed.

Each worker decodes a batch and embeds it: decoding and the model share the cores without separate pools, so neither
waits for the other, and the upper bound of throughput is cores / (decode + model seconds an image). With a GPU,
workers decode while the batch of another one is on the device.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from importlib import import_module
from itertools import islice

from indexer.archive.reader import read_shard
from indexer.malloc import keep_freed_memory
from indexer.memory.budget import Reader
from indexer.pipeline.engines.engine import Lookup
from indexer.pipeline.engines.feed import Feed, whole
from indexer.pipeline.in_flight import POLL_SECONDS, InFlight, Job, Planned, ReadShard, StopRun, Task
from indexer.pipeline.prefetch import ReadAhead
from indexer.pipeline.tally import Tally
from indexer.pipeline.worker import Decoder, Embedder, decoder_of, tasks
from indexer.types import Encoder, ShardResult, UInt8

CHUNK_BYTES = 64 << 20  # of undecoded images in one worker's chunk


def device_seconds_of(encoder: Encoder, before: float = 0.0) -> float | None:
    """For which the GPUs of an encoder have computed, but for those before; None for one without a GPU."""
    seconds: float | None = getattr(encoder, "device_seconds", None)
    return None if seconds is None else seconds - before


class Threads:
    """Implements `engine.Engine`."""

    readers = 1

    def __init__(
        self,
        encoder: Encoder,
        *,
        workers: int,
        frames: str,
        time: str,
        part_rows: int,
        read: ReadShard = read_shard,
        decoder: Decoder | None = None,
    ) -> None:
        """`decoder`: in place of the one that the encoder's PixelSpec names."""
        self.encoder, self.workers = encoder, workers
        self.spec, self.device, self.parts_a_commit = encoder.spec, encoder.device, 1
        self.tally = Tally(encoder.spec.dim)
        self._computed = device_seconds_of(encoder) or 0.0  # before this run
        self.decoder = decoder or decoder_of(encoder)
        self._frames, self._time, self._read_shard = frames, time, read
        self._flight = InFlight(self.tally, workers=workers, part_rows=part_rows)
        self.stop = self._flight.stop
        self._errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._chunk: list[Task] = []  # of the reading thread: samples not yet passed to a worker
        self._begun_all = threading.Event()

    def results(self, plan: Sequence[Planned] | Feed, lookup: Lookup) -> Iterator[ShardResult | None]:
        keep_freed_memory()
        import_module("indexer.encoders.backends.cpu")  # torch, here and once: an import by two threads can fail
        feed = plan if isinstance(plan, Feed) else whole(plan)
        loops: list[Callable[[], None]] = [lambda: self._read(feed, lookup), *[self._work] * self.workers]
        for number, loop in enumerate(loops):
            thread = threading.Thread(target=self._guarded, args=(loop,), name=f"indexer-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)
        while not self.stop.is_set():
            ended = self._begun_all.is_set()  # before the look at what is in progress: nothing is added after it
            if ended and not self._flight.busy:
                return
            yield self._flight.finished(POLL_SECONDS)

    def settled(self) -> list[ShardResult]:
        return self._flight.settled()

    def counts(self) -> dict[str, int]:
        return {}

    @property
    def device_seconds(self) -> float | None:
        return device_seconds_of(self.encoder, self._computed)

    @property
    def decoder_difference(self) -> float | None:
        return self.decoder.difference

    def close(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()
        self._flight.admission.close()
        if self._errors:
            raise self._errors[0]

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except StopRun:
            return
        except BaseException as error:  # noqa: BLE001 - re-raised in the calling thread
            self._errors.append(error)
            self.stop.set()

    def _work(self) -> None:
        from indexer.encoders.backends.cpu import use_one_thread_beside_others  # imports torch, as decoding will

        use_one_thread_beside_others()  # before the first resize, which would use a thread for each core
        flight = self._flight
        embedder = Embedder(
            self.encoder, self.tally, flight.resolve, decoder=self.decoder, frames=self._frames, time=self._time
        )
        while (chunk := flight.chunk()) is not None:
            if not chunk:  # no sample for now: embed what is queued, so that its shard need not wait for a full batch
                embedder.flush()
            coming, squares = deque(chunk), deque[UInt8 | None]()
            chunk.clear()
            while coming:
                if self.stop.is_set():
                    raise StopRun
                if not squares:
                    squares.extend(embedder.squares(list(islice(coming, self.decoder.at_once))))
                task = coming.popleft()
                embedder.add(task, squares.popleft())
                flight.seen(task)
                del task  # and its bytes, before the next image is decoded
        embedder.flush()

    def _read(self, feed: Feed, lookup: Lookup) -> None:
        with ReadAhead(feed.coming, self._read_shard, self.stop, self._flight.admission, self._pass_on) as ahead:
            while (planned := self._next(feed)) is not None:
                if not self._flight.room():
                    self._pass_on()  # the shards in progress may be waiting for samples in this chunk
                    self._flight.wait(lambda: self._flight.room(POLL_SECONDS))
                job = Job(planned, lookup(planned))
                self._flight.begin(job)
                self._read_one(job, ahead)
            self._pass_on()
        self._begun_all.set()
        for _ in range(self.workers):
            self._flight.give(None)

    def _next(self, feed: Feed) -> Planned | None:
        """The next shard, however long it takes to come. Raises StopRun."""
        seconds = 0.0
        while not self.stop.is_set():
            try:
                return feed.take(seconds)
            except queue.Empty:
                self._pass_on()  # more may come only once what was read is embedded
                seconds = POLL_SECONDS
        raise StopRun

    def _read_one(self, job: Job, ahead: ReadAhead) -> None:
        """Read a shard to its end."""
        flight, nbytes = self._flight, sum(task.sample.nbytes for task in self._chunk)
        with closing(Reader(flight.admission, poll_seconds=POLL_SECONDS, blocked=self._wait_for_room)) as reader:
            stream = ahead.stream(replace(job.shard, stored=job.before.stored, room=reader.room))
            for task in tasks(job, stream, self.tally, task=flight.task, resolve=flight.resolve):
                nbytes = nbytes + task.sample.nbytes if self._chunk else task.sample.nbytes
                self._chunk.append(task)
                del task
                if len(self._chunk) >= self.encoder.batch_size or nbytes >= CHUNK_BYTES:
                    self._pass_on()
        flight.end(job)

    def _wait_for_room(self) -> None:
        """The next image has no room yet: what is read may be all that holds it."""
        if self.stop.is_set():
            raise StopRun
        self._pass_on()

    def _pass_on(self) -> None:
        """Give the workers what is read."""
        chunk, self._chunk = self._chunk, []
        if chunk:
            self._flight.give(chunk)
