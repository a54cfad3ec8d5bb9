"""The threads of a run: one reads shards, the workers decode and embed, and a job gathers each shard's results.

A worker decodes a batch and embeds it itself: decoding and the model share the cores with no pool each, so neither
waits for the other and the ceiling is cores / (decode + model seconds an image). With a GPU, workers decode while
another one's batch is on the device. Every batch has the encoder's full size (a short one is padded), since a matrix
product of another shape may round differently: a resumed run stores the same bits as an undisturbed one.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from indexer.errors import CutShard, NotATar, PixelError, ReadError
from indexer.pixels import decode
from indexer.reader import read_shard
from indexer.types import (
    EmbeddingBatch,
    EmbeddingRow,
    EncoderSpec,
    Failure,
    Float16,
    Float32,
    Place,
    Sample,
    Shard,
    ShardResult,
    Stage,
    UInt8,
)

CHUNK_BYTES = 64 << 20  # undecoded images in one worker's hands
SPARE_JOBS = 64  # finished shards that may wait for the writer, beside four a worker
POLL_SECONDS = 0.1  # how soon a waiting thread notices that the run is to stop
SAMPLE_PICTURES = 16  # kept for the precision check

Known = Mapping[str, Sequence[tuple[int, Float16, float]]]  # content hash → (frame, unit vector, norm) of stored rows

ReadShard = Callable[[Shard], Iterator[Sample | Failure]]


class Encoder(Protocol):
    """What the pipeline needs of an encoder; `indexer.encoders.load` gives one."""

    @property
    def spec(self) -> EncoderSpec: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def device(self) -> str: ...

    @property
    def workers(self) -> int:
        """Threads that may call `embed` at once with profit."""
        ...

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) uint8 RGB → (n, dim) raw vectors. Thread-safe."""
        ...


@dataclass
class Job:
    """One shard in hand. `pending` counts the samples given out and not yet resolved."""

    shard: Shard
    replaces: bool
    known: Known
    rows: list[tuple[int, EmbeddingRow, Float16, float]] = field(default_factory=list)
    failures: list[tuple[int, Failure]] = field(default_factory=list)
    samples: int = 0
    pending: int = 0
    reused: int = 0
    read: bool = False
    partial: bool = False

    def result(self) -> ShardResult:
        """What is stored, in the shard's own order, whichever worker was faster."""
        self.rows.sort(key=lambda row: (row[0], row[1].place.frame))
        rows = tuple(row for _, row, _, _ in self.rows)
        batches: tuple[EmbeddingBatch, ...] = ()
        if rows:
            vectors = np.stack([vector for _, _, vector, _ in self.rows])
            batches = (EmbeddingBatch(rows, vectors, np.array([norm for *_, norm in self.rows], np.float32)),)
        failures = tuple(f for _, f in sorted(self.failures, key=lambda item: item[0]))
        return ShardResult(self.shard, batches, failures, self.samples, self.partial, self.replaces, self.reused)


@dataclass(frozen=True)
class Task:
    """One sample on its way, with its place in the shard's order."""

    job: Job
    order: int
    sample: Sample


class StopRun(Exception):
    """Raised inside the run's own threads when they are to end."""


class Stages:
    """The shared state of the threads; the calling thread takes finished shards from it."""

    def __init__(self, encoder: Encoder, *, workers: int, frames: str, read: ReadShard = read_shard) -> None:
        self.encoder, self.workers, self.frames = encoder, workers, frames
        self._read_shard = read
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.busy: defaultdict[str, float] = defaultdict(float)  # seconds by stage, summed over threads
        self.flags: Counter[str] = Counter()
        self.resolved = self.failed = 0  # images so far: rows and failures, and failures alone
        self.spread = Spread(encoder.spec.dim)
        self.sample_pictures: list[UInt8] = []
        self._lock = threading.Lock()
        self._chunks: queue.Queue[list[Task] | None] = queue.Queue(maxsize=workers + 1)
        self._jobs: deque[Job] = deque()
        self._room = threading.Semaphore(4 * workers + SPARE_JOBS)
        self._threads: list[threading.Thread] = []

    def start(self, plan: Sequence[tuple[Shard, bool]], known: Callable[[str], Known]) -> None:
        """Start reading `plan`: (shard, whether it replaces former rows). `known` gives a shard's stored vectors."""
        loops: list[Callable[[], None]] = [lambda: self._read(plan, known), *[self._work] * self.workers]
        for number, loop in enumerate(loops):
            thread = threading.Thread(target=self._guarded, args=(loop,), name=f"indexer-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def join(self) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def finished(self) -> Job | None:
        """The next shard of the plan, once every sample of it is resolved."""
        with self._lock:
            if not self._jobs or not self._jobs[0].read or self._jobs[0].pending:
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
        chunk: list[Task] = []
        nbytes = 0
        for shard, replaces in plan:
            self._wait(lambda: self._room.acquire(timeout=POLL_SECONDS))
            job = Job(shard, replaces, known(shard.name) if replaces else {})
            with self._lock:
                self._jobs.append(job)
            for task in self._tasks(job):
                chunk.append(task)
                nbytes += task.sample.nbytes
                if len(chunk) >= self.encoder.batch_size or nbytes >= CHUNK_BYTES:
                    self._give(chunk)
                    chunk, nbytes = [], 0
        if chunk:
            self._give(chunk)
        for _ in range(self.workers):
            self._give(None)

    def _tasks(self, job: Job) -> Iterator[Task]:
        stream = self._read_shard(job.shard)
        while True:
            start = time.perf_counter()
            try:
                item = next(stream, None)
            except ReadError as error:
                job.partial = True
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
        with self._lock:
            job.read = True

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


_NO_SAMPLE = Sample("", "", "", b"", -1, 0)


class Worker:
    """One thread's batch buffer: pictures wait here until the batch is full, across chunks and shards."""

    def __init__(self, stages: Stages) -> None:
        size = stages.encoder.spec.pixels.size
        self._stages = stages
        self._buffer = np.zeros((stages.encoder.batch_size, size, size, 3), np.uint8)
        self._waiting: list[tuple[Task, EmbeddingRow, bool]] = []  # with whether it is its sample's last frame
        self._flags: Counter[str] = Counter()

    def run(self) -> None:
        while (chunk := self._stages.take()) is not None:
            for task in chunk:
                if self._stages.stop.is_set():
                    raise StopRun
                self._decode(task)
            if not chunk:  # nothing to read for the moment: do not keep a shard waiting for a full batch
                self._embed()
        self._embed()

    def _decode(self, task: Task) -> None:
        sample, stages = task.sample, self._stages
        content = hashlib.sha256(sample.image).hexdigest()
        if content in task.job.known:
            kept = task.job.known[content]
            rows = [(_row(sample, content, frame), vector, norm) for frame, vector, norm in kept]
            stages.resolve(task, rows, [], samples=1, reused=len(rows))
            return
        start = time.perf_counter()
        held: EmbeddingRow | None = None  # decided one step late, so that the last frame is known to be the last
        try:
            for picture in decode(sample.image, sample.suffix, stages.encoder.spec.pixels, frames=stages.frames):
                if held is not None:
                    start = self._push(task, held, start, last=False)
                self._flags.update(picture.flags)
                self._buffer[len(self._waiting)] = picture.pixels
                held = _row(sample, content, picture.frame)
        except PixelError as error:
            if held is not None:
                start = self._push(task, held, start, last=False)
            stages.clock("decode", start)
            stages.resolve(task, [], [_failure(sample, error)], samples=1)
            return
        if held is None:
            stages.clock("decode", start)
            stages.resolve(task, [], [_failure(sample, PixelError("no frames"))], samples=1)
        else:
            stages.clock("decode", self._push(task, held, start, last=True))

    def _push(self, task: Task, row: EmbeddingRow, start: float, *, last: bool) -> float:
        """Queue the picture that lies in the buffer's next slot; a full batch is embedded off the decode clock."""
        self._waiting.append((task, row, last))
        if len(self._waiting) < len(self._buffer):
            return start
        self._stages.clock("decode", start)
        self._embed()
        return time.perf_counter()

    def _embed(self) -> None:
        if not self._waiting:
            return
        n, stages = len(self._waiting), self._stages
        start = time.perf_counter()
        raw = stages.encoder.embed(self._buffer)[:n]
        stages.clock("encode", start)
        stages.note_pictures(self._buffer[:n], self._flags)
        self._flags = Counter()
        vectors, norms, good = unit_rows(raw)
        stages.spread.add(vectors[good])
        for i, (task, row, last) in enumerate(self._waiting):
            if good[i]:
                stages.resolve(task, [(row, vectors[i], float(norms[i]))], [], samples=last)
            else:
                reason = "zero vector" if norms[i] == 0 else "vector not finite"
                error = PixelError(reason, f"norm {norms[i]}")
                stages.resolve(task, [], [_failure(task.sample, error, "encode")], samples=last)
        self._waiting.clear()


class Spread:
    """Tells a collapsed encoder: the mean pairwise cosine of unit vectors is the squared length of their mean."""

    def __init__(self, dim: int) -> None:
        self._sum, self._n = np.zeros(dim), 0
        self._lock = threading.Lock()

    def add(self, vectors: Float16) -> None:
        with self._lock:
            self._sum += vectors.sum(axis=0, dtype=np.float64)
            self._n += len(vectors)

    def mean_cosine(self) -> float | None:
        """Over all pairs of different rows; None below two rows."""
        if self._n < 2:
            return None
        return float((self._sum @ self._sum - self._n) / (self._n * (self._n - 1)))


def unit_rows(raw: Float32) -> tuple[Float16, Float32, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """(n, dim) raw → unit rows in float16, norms (n,), and which rows are finite and not zero."""
    raw = np.asarray(raw, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", raw, raw, dtype=np.float64))
    good = np.isfinite(norms) & (norms > 0) & (norms < np.finfo(np.float32).max)
    safe = np.where(good, norms, 1.0)
    units = np.where(good[:, None], raw, 0) / safe[:, None]
    return units.astype(np.float16), norms.astype(np.float32), good


def shard_reason(error: ReadError) -> str:
    """The stable words under which a shard that cannot be read to its end is counted."""
    if isinstance(error, NotATar):
        return "not a tar archive"
    return "shard is cut or damaged" if isinstance(error, CutShard) else "shard cannot be opened"


def frame_key(key: str, frame: int) -> str:
    """The row's key: the sample's, and from the second frame on `key#frame`."""
    return f"{key}#{frame}" if frame else key


def _row(sample: Sample, content: str, frame: int) -> EmbeddingRow:
    place = Place(sample.shard, sample.member, sample.offset, sample.nbytes, sample.suffix, frame)
    return EmbeddingRow(frame_key(sample.key, frame), place, content, sample.metadata)


def _failure(sample: Sample, error: PixelError, stage: Stage = "decode") -> Failure:
    return Failure(
        sample.shard, sample.key, stage, error.reason, error.detail[:500],
        sample.offset, sample.nbytes, sample.suffix, sample.member,
    )  # fmt: skip
