"""What passes between the threads of a run: samples on their way, and the shard that gathers them."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from indexer.types import (
    EmbeddingBatch,
    EmbeddingRow,
    Encoder,
    Failure,
    Float16,
    Sample,
    Shard,
    ShardResult,
    UInt8,
    part_order,
)
from indexer.vectors import Spread

Known = Mapping[str, Mapping[str, tuple[Float16, float]]]  # content hash → part's name → stored unit vector and norm

SPARE_JOBS = 64  # finished shards that may wait for the writer, beside four a worker
SAMPLE_PICTURES = 16  # kept for the precision check
POLL_SECONDS = 0.1  # how soon a waiting thread notices that the run is to stop

ReadShard = Callable[[Shard], Iterator[Sample | Failure]]


class Decoder(Protocol):
    """Decodes many images at once, elsewhere than in the worker."""

    difference: float | None  # from the worker's own way on a sample; None until it is known

    def squares(self, images: Sequence[bytes]) -> list[UInt8 | None]:
        """(size, size, 3) of each image, None for those left to the worker. Thread-safe."""
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

    @property
    def resolved(self) -> bool:
        """Read to its end, and nothing of it on its way."""
        return self.read and not self.pending

    def result(self) -> ShardResult:
        """What is stored, in the shard's own order, whichever worker was faster."""
        self.rows.sort(key=lambda row: (row[0], part_order(row[1].place.part)))
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


class InFlight:
    """The books of a run, which its threads share: the shards in progress, what became of their samples, busy time."""

    def __init__(self, encoder: Encoder, *, workers: int) -> None:
        self.stop = threading.Event()
        self.busy: defaultdict[str, float] = defaultdict(float)  # seconds by stage, summed over threads
        self.flags: Counter[str] = Counter()
        self.resolved = self.failed = 0  # images so far: rows and failures, and failures alone
        self.reasons: Counter[str] = Counter()  # of failures, those of shards in progress too
        self.spread = Spread(encoder.spec.dim)
        self.sample_pictures: list[UInt8] = []
        self.room = threading.Semaphore(4 * workers + SPARE_JOBS)
        self._lock = threading.Lock()
        self._turned = threading.Condition(self._lock)  # a shard may have become the next finished one
        self._jobs: deque[Job] = deque()
        self._chunks: queue.Queue[list[Task] | None] = queue.Queue(maxsize=workers + 1)

    def begin(self, job: Job) -> None:
        """The next shard of the plan, of which tasks will come."""
        with self._lock:
            self._jobs.append(job)

    def count(self, job: Job) -> None:
        """One more sample of the shard is on its way."""
        with self._lock:
            job.samples += not job.partial
            job.pending += 1

    def end(self, job: Job) -> None:
        """The shard was read to its end."""
        with self._turned:
            job.read = True
            self._turned.notify()

    def give(self, chunk: list[Task] | None) -> None:
        """Hand a chunk to whichever worker is free; None ends one worker. Raises StopRun."""

        def put() -> bool:
            try:
                self._chunks.put(chunk, timeout=POLL_SECONDS)
            except queue.Full:
                return False
            return True

        self.wait(put)

    def wait(self, attempt: Callable[[], bool]) -> None:
        """Try until it succeeds. Raises StopRun at the run's stop."""
        while not self.stop.is_set():
            if attempt():
                return
        raise StopRun

    def finished(self, wait: float = 0.0) -> Job | None:
        """The next shard of the plan, once every sample of it is resolved; None where none is within `wait` seconds."""
        with self._turned:
            if not self._turned.wait_for(lambda: bool(self._jobs) and self._jobs[0].resolved, wait):
                return None
            self.room.release()
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
        """Book what became of a task; `samples` = 1 with its last part."""
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
