"""The threads of a run: one reads shards, the workers decode and embed, and a job gathers each shard's results.

A worker decodes a batch and embeds it itself: decoding and the model share the cores with no pool each, so neither
waits for the other and the ceiling is cores / (decode + model seconds an image). With a GPU, workers decode while
another one's batch is on the device. Every batch has the encoder's full size (a short one is padded), since a matrix
product of another shape may round differently: a resumed run stores the same bits as an undisturbed one.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib import import_module

from indexer.errors import CutShard, EncoderError, NotATar, ReadError
from indexer.pipeline.ahead import ReadAhead
from indexer.pipeline.heap import keep_freed_memory
from indexer.pipeline.jobs import POLL_SECONDS, Decoder, Encoder, Job, Known, ReadShard, StopRun, Task
from indexer.pipeline.report import CPU_DECODER
from indexer.pipeline.worker import Spread, Worker
from indexer.reader import read_shard
from indexer.types import EmbeddingRow, Failure, Float16, Sample, Shard, UInt8

CHUNK_BYTES = 64 << 20  # undecoded images in one worker's hands
SPARE_JOBS = 64  # finished shards that may wait for the writer, beside four a worker
SAMPLE_PICTURES = 16  # kept for the precision check
UNREAD = "unread"  # the identity of a shard that could not be read: unlike any other, so that the next run reads it

_NO_SAMPLE = Sample("", "", "", b"", -1, 0)


class Stages:
    """The shared state of the threads; the calling thread takes finished shards from it."""

    def __init__(self, encoder: Encoder, *, workers: int, frames: str, read: ReadShard = read_shard) -> None:
        self.encoder, self.workers, self.frames = encoder, workers, frames
        self.decoder = decoder_of(encoder)
        self._read_shard = read
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.busy: defaultdict[str, float] = defaultdict(float)  # seconds by stage, summed over threads
        self.flags: Counter[str] = Counter()
        self.resolved = self.failed = 0  # images so far: rows and failures, and failures alone
        self.reasons: Counter[str] = Counter()  # of failures, those of shards in hand too
        self.spread = Spread(encoder.spec.dim)
        self.sample_pictures: list[UInt8] = []
        self._lock = threading.Lock()
        self._turned = threading.Condition(self._lock)  # a shard may have become the next finished one
        self._chunks: queue.Queue[list[Task] | None] = queue.Queue(maxsize=workers + 1)
        self._jobs: deque[Job] = deque()
        self._room = threading.Semaphore(4 * workers + SPARE_JOBS)
        self._threads: list[threading.Thread] = []

    def start(self, plan: Sequence[tuple[Shard, bool]], known: Callable[[str], Known]) -> None:
        """Start reading `plan`: (shard, whether it replaces former rows). `known` gives a shard's stored vectors."""
        keep_freed_memory()
        import_module("indexer.encoders.cpu")  # and torch: two threads that import it at once can break each other
        loops: list[Callable[[], None]] = [lambda: self._read(plan, known), *[self._work] * self.workers]
        for number, loop in enumerate(loops):
            thread = threading.Thread(target=self._guarded, args=(loop,), name=f"indexer-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def join(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def finished(self, wait: float = 0.0) -> Job | None:
        """The next shard of the plan, once every sample of it is resolved; None where none is within `wait` seconds."""
        with self._turned:
            if not self._turned.wait_for(lambda: bool(self._jobs) and self._jobs[0].resolved, wait):
                return None
            self._room.release()
            return self._jobs.popleft()

    def take(self) -> list[Task] | None:
        """A worker's next chunk; an empty one where none came in time, None at the end."""
        if self.stop.is_set():
            raise StopRun
        try:
            return self._chunks.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return []

    def resolve(
        self,
        task: Task,
        rows: Sequence[tuple[EmbeddingRow, Float16, float]],
        failures: Sequence[Failure],
        *,
        samples: int,
        reused: int = 0,
    ) -> None:
        """Book what became of a task; `samples` = 1 with its last frame."""
        job = task.job
        with self._lock:
            job.rows.extend((task.order, *row) for row in rows)
            job.failures.extend((task.order, failure) for failure in failures)
            job.pending -= samples
            job.reused += reused
            self.resolved += len(rows) + len(failures)
            self.failed += len(failures)
            self.reasons.update(failure.reason for failure in failures)
            if job.resolved:
                self._turned.notify()

    def clock(self, stage: str, start: float) -> None:
        seconds = time.perf_counter() - start
        with self._lock:
            self.busy[stage] += seconds

    def note_pictures(self, pictures: UInt8, flags: Counter[str]) -> None:
        with self._lock:
            self.flags.update(flags)
            room = SAMPLE_PICTURES - len(self.sample_pictures)
            self.sample_pictures.extend(picture.copy() for picture in pictures[: max(room, 0)])

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except StopRun:
            return
        except BaseException as error:  # noqa: BLE001 - handed to the calling thread, which raises it
            self.errors.append(error)
            self.stop.set()

    def _work(self) -> None:
        Worker(self).run()

    def _read(self, plan: Sequence[tuple[Shard, bool]], known: Callable[[str], Known]) -> None:
        with ReadAhead([shard for shard, _ in plan], self._read_shard, self.stop) as ahead:
            self._read_all(plan, known, ahead)

    def _read_all(self, plan: Sequence[tuple[Shard, bool]], known: Callable[[str], Known], ahead: ReadAhead) -> None:
        chunk: list[Task] = []
        nbytes = 0
        for shard, replaces in plan:
            if not self._room.acquire(blocking=False):
                if chunk:  # the shards that take up the room may wait for what is in it
                    self._give(chunk)
                    chunk, nbytes = [], 0
                self._wait(lambda: self._room.acquire(timeout=POLL_SECONDS))
            job = Job(shard, replaces, known(shard.name) if replaces else {})
            with self._lock:
                self._jobs.append(job)
            for task in self._tasks(job, ahead.stream(shard)):
                chunk.append(task)
                nbytes += task.sample.nbytes
                if len(chunk) >= self.encoder.batch_size or nbytes >= CHUNK_BYTES:
                    self._give(chunk)
                    chunk, nbytes = [], 0
        if chunk:
            self._give(chunk)
        for _ in range(self.workers):
            self._give(None)

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
            self.clock("read", start)
            if item is None:
                break
            with self._lock:
                job.samples += not job.partial
                job.pending += 1
            task = Task(job, job.samples, item if isinstance(item, Sample) else _NO_SAMPLE)
            if isinstance(item, Sample):
                yield task
            else:
                self.resolve(task, [], [item], samples=1)
        with self._turned:
            job.read = True
            self._turned.notify()

    def _give(self, chunk: list[Task] | None) -> None:
        def put() -> bool:
            try:
                self._chunks.put(chunk, timeout=POLL_SECONDS)
            except queue.Full:
                return False
            return True

        self._wait(put)

    def _wait(self, attempt: Callable[[], bool]) -> None:
        while not self.stop.is_set():
            if attempt():
                return
        raise StopRun


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

    from indexer.encoders.device import require_decoder

    require_decoder("gpu", encoder.device.split(",")[0])
    from indexer.pipeline.gpu_decoder import GpuDecoder

    return GpuDecoder([torch.device(name) for name in encoder.device.split(",")], encoder.spec.pixels)


def shard_reason(error: ReadError) -> str:
    """The stable words under which a shard that cannot be read to its end is counted."""
    if isinstance(error, NotATar):
        return "not a tar archive"
    return "shard is cut or damaged" if isinstance(error, CutShard) else "shard cannot be opened"
