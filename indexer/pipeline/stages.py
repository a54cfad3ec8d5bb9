"""The threads of a run: one reads shards, the workers decode and embed, and a job gathers each shard's results.

A worker decodes a batch and embeds it itself: decoding and the model share the cores with no pool each, so neither
waits for the other and the ceiling is cores / (decode + model seconds an image). With a GPU, workers decode while
another one's batch is on the device. Every batch has the encoder's full size (a short one is padded), since a matrix
product of another shape may round differently: a resumed run stores the same bits as an undisturbed one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module

from indexer.archive.reader import read_shard
from indexer.errors import CutShard, EncoderError, NotATar, ReadError
from indexer.malloc import keep_freed_memory
from indexer.pipeline.in_flight import POLL_SECONDS, Decoder, InFlight, Job, Known, ReadShard, StopRun, Task
from indexer.pipeline.prefetch import ReadAhead
from indexer.pipeline.report import CPU_DECODER
from indexer.pipeline.worker import Worker
from indexer.types import Encoder, Failure, Sample, Shard

CHUNK_BYTES = 64 << 20  # undecoded images in one worker's hands
UNREAD = "unread"  # the identity of a shard that could not be read: unlike any other, so that the next run reads it

_NO_SAMPLE = Sample("", "", "", b"", -1, 0)


class Stages:
    """The threads of one run; the calling thread takes finished shards from `books`."""

    def __init__(self, encoder: Encoder, *, workers: int, frames: str, read: ReadShard = read_shard) -> None:
        self.encoder, self.workers, self.frames = encoder, workers, frames
        self.decoder = decoder_of(encoder)
        self._read_shard = read
        self.books = InFlight(encoder, workers=workers)
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, plan: Sequence[tuple[Shard, bool]], known: Callable[[str], Known]) -> None:
        """Start reading `plan`: (shard, whether it replaces former rows). `known` gives a shard's stored vectors."""
        keep_freed_memory()
        import_module("indexer.encoders.backends.cpu")  # and torch: two threads importing it at once can fail
        loops: list[Callable[[], None]] = [lambda: self._read(plan, known), *[self._work] * self.workers]
        for number, loop in enumerate(loops):
            thread = threading.Thread(target=self._guarded, args=(loop,), name=f"indexer-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def join(self) -> None:
        self.books.stop.set()
        for thread in self._threads:
            thread.join()

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except StopRun:
            return
        except BaseException as error:  # noqa: BLE001 - handed to the calling thread, which raises it
            self.errors.append(error)
            self.books.stop.set()

    def _work(self) -> None:
        Worker(self.books, self.encoder, self.decoder, self.frames).run()

    def _read(self, plan: Sequence[tuple[Shard, bool]], known: Callable[[str], Known]) -> None:
        with ReadAhead([shard for shard, _ in plan], self._read_shard, self.books.stop) as ahead:
            self._read_all(plan, known, ahead)

    def _read_all(self, plan: Sequence[tuple[Shard, bool]], known: Callable[[str], Known], ahead: ReadAhead) -> None:
        chunk: list[Task] = []
        nbytes = 0
        for shard, replaces in plan:
            if not self.books.room.acquire(blocking=False):
                if chunk:  # the shards that take up the room may wait for what is in it
                    self.books.give(chunk)
                    chunk, nbytes = [], 0
                self.books.wait(lambda: self.books.room.acquire(timeout=POLL_SECONDS))
            job = Job(shard, replaces, known(shard.name) if replaces else {})
            self.books.begin(job)
            for task in self._tasks(job, ahead.stream(shard)):
                chunk.append(task)
                nbytes += task.sample.nbytes
                if len(chunk) >= self.encoder.batch_size or nbytes >= CHUNK_BYTES:
                    self.books.give(chunk)
                    chunk, nbytes = [], 0
        if chunk:
            self.books.give(chunk)
        for _ in range(self.workers):
            self.books.give(None)

    def _tasks(self, job: Job, stream: Iterator[Sample | Failure]) -> Iterator[Task]:
        while True:
            start = time.perf_counter()
            try:
                item = next(stream, None)
            except ReadError as error:
                job.partial = True
                if not isinstance(error, (NotATar, CutShard)):  # the disk's or the network's fault, and it may pass:
                    job.shard = replace(job.shard, identity=UNREAD)  # whatever is there next time is read
                item = Failure(job.shard.name, "", "read", shard_reason(error), str(error))
                stream = iter(())  # the next turn ends the shard
            self.books.clock("read", start)
            if item is None:
                break
            self.books.count(job)
            task = Task(job, job.samples, item if isinstance(item, Sample) else _NO_SAMPLE)
            if isinstance(item, Sample):
                yield task
            else:
                self.books.resolve(task, [], [item], samples=1)
        self.books.end(job)


def decoder_of(encoder: Encoder) -> Decoder | None:
    """The decoder beside the workers that the encoder's PixelSpec names. EncoderError where this machine has none."""
    if encoder.spec.pixels.decoder == CPU_DECODER:
        return None
    if not encoder.device.startswith("cuda"):
        raise EncoderError(
            f"this table's JPEG files were decoded on a GPU ({encoder.spec.pixels.decoder}), and the encoder runs on "
            f"{encoder.device}. Index on a machine with a GPU, or into a new table (--table)."
        )
    import torch

    from indexer.encoders.backends.device import require_decoder

    require_decoder("gpu", encoder.device.split(",")[0])
    from indexer.pixels.jpeg_gpu import GpuDecoder

    return GpuDecoder([torch.device(name) for name in encoder.device.split(",")], encoder.spec.pixels)


def shard_reason(error: ReadError) -> str:
    """The stable words under which a shard that cannot be read to its end is counted."""
    if isinstance(error, NotATar):
        return "not a tar archive"
    return "shard is cut or damaged" if isinstance(error, CutShard) else "shard cannot be opened"
