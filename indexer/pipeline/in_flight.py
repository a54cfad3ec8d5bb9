"""Shards in progress: collects the outcomes of their samples and returns them in the shard's own order."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from indexer.memory import budget
from indexer.memory.budget import Admission
from indexer.pipeline.tally import Tally
from indexer.types import EmbeddingBatch, EmbeddingRow, Failure, Float16, Sample, Shard, ShardResult, part_order

Known = Mapping[str, Mapping[str, tuple[Float16, float]]]  # content hash → part's name → stored unit vector and norm
Stored = Container[tuple[str, int]]  # (member, offset) of the samples whose rows are in the table
Held = Callable[[Sample], bool]  # whether the table has the image, of this key and bytes, under another shard
EmbeddedRow = tuple[EmbeddingRow, Float16, float]  # the row, its unit vector (dim,), its norm

SPARE_JOBS = 64  # shards in progress, or finished and waiting for the writer, beside four a worker
MOST_JOBS = 4096  # where they hold fewer rows than one commit, as many small shards do during a commit
TOGETHER = 64  # resolved shards at which the caller's thread is woken: each time takes turns from the workers
TOGETHER_ROWS = 1024  # of them: rows that wait take memory
POLL_SECONDS = 0.1  # how often a waiting thread looks at the stop event

ReadShard = Callable[[Shard], Iterator[Sample | Failure]]


Withdrawn = Callable[[str], str]  # the hash of a key whose image was deleted by request; "" for any other


def none_withdrawn(key: str) -> str:  # noqa: ARG001 - implements Withdrawn
    """For a table from which nothing was deleted."""
    return ""


def held_nowhere(sample: Sample) -> bool:  # noqa: ARG001 - implements Held
    """For a table that has no other shard."""
    return False


@dataclass(frozen=True)
class Before:
    """What the table has of a shard, or of its images, before the shard is worked through."""

    known: Known = field(default_factory=dict)
    stored: Stored = ()
    held: Held = held_nowhere
    withdrawn: Withdrawn = none_withdrawn


@dataclass(frozen=True)
class Planned:
    """A shard to process."""

    shard: Shard
    replaces: bool = False  # rows of its former content are stored and will be deleted
    resumes: bool = False  # an earlier run stored a part of it, which is kept


@dataclass
class SampleOutcome:
    """The rows and failures of one sample so far."""

    rows: list[EmbeddedRow] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    reused: int = 0
    done: bool = False


class Job:
    """One shard in progress. Samples are dispatched in order and settled in any order; results are taken in order.

    A shard of many rows is taken in parts: its rows need not all be held, and a stop loses no settled sample.
    """

    def __init__(self, plan: Planned, before: Before | None = None) -> None:
        self.shard, self.before = plan.shard, before or Before()
        self.samples = 0  # whole ones read
        self.adopted = 0  # of these, in the table under another shard
        self.read = self.partial = False  # read to its end; ended early (truncated or damaged)
        self._replaces = plan.replaces
        self._given = self._low = 0  # samples dispatched; all below `_low` are settled
        self._open: dict[int, SampleOutcome] = {}
        self._rows: list[EmbeddedRow] = []  # settled but not taken yet
        self._failures: list[Failure] = []
        self._reused = 0

    def give(self) -> int:
        """Register one more sample; returns its position in the shard's order."""
        self._given += 1
        self._open[self._given - 1] = SampleOutcome()
        return self._given - 1

    def settle(
        self, order: int, rows: Sequence[EmbeddedRow], failures: Sequence[Failure], *, done: bool, reused: int = 0
    ) -> None:
        """Add what became of a sample; `done` with the last of it."""
        outcome = self._open[order]
        outcome.rows.extend(rows)
        outcome.failures.extend(failures)
        outcome.reused += reused
        outcome.done = done
        while (lowest := self._open.get(self._low)) is not None and lowest.done:
            del self._open[self._low]
            self._low += 1
            if len(lowest.rows) > 1:  # stored and new ones may be mixed
                lowest.rows.sort(key=lambda row: part_order(row[0].place.part))
            self._rows.extend(lowest.rows)
            self._failures.extend(lowest.failures)
            self._reused += lowest.reused

    @property
    def resolved(self) -> bool:
        """Whether the shard was read to its end and all of its samples are settled."""
        return self.read and not self._open

    @property
    def settled(self) -> int:
        """The number of rows and failures that can be taken now."""
        return len(self._rows) + len(self._failures)

    def take(self) -> ShardResult:
        """All settled rows and failures not taken before; the last part once the shard is resolved."""
        batches: tuple[EmbeddingBatch, ...] = ()
        if self._rows:
            vectors = np.stack([vector for _, vector, _ in self._rows])
            norms = np.array([norm for *_, norm in self._rows], np.float32)
            batches = (EmbeddingBatch(tuple(row for row, *_ in self._rows), vectors, norms),)
        result = ShardResult(
            shard=self.shard,
            batches=batches,
            failures=tuple(self._failures),
            samples=self.samples,
            partial=self.partial,
            replaces=self._replaces,
            reused=self._reused,
            more=not self.resolved,
            adopted=self.adopted,
        )
        self._rows, self._failures, self._reused, self._replaces = [], [], 0, False
        return result


@dataclass(frozen=True)
class Task:
    """One sample in progress, with its position in the shard's order."""

    job: Job
    order: int
    sample: Sample


class StopRun(Exception):
    """Raised inside a run's own threads when they are to end."""


class InFlight:
    """State shared by the threads of a run: the shards in progress, and a queue of chunks for the workers."""

    def __init__(self, tally: Tally, *, workers: int, part_rows: int) -> None:
        """`part_rows`: a shard is taken in parts of about so many rows."""
        self.tally, self.stop, self.admission = tally, threading.Event(), Admission(budget.UNDECODED)
        self._spare_jobs = 4 * workers + SPARE_JOBS
        self._part_rows = max(part_rows, 1)
        self._lock = threading.Lock()
        self._turned = threading.Condition(self._lock)  # notified when the first shard may have a part to take
        self._taken = threading.Condition(self._lock)  # notified when a part was taken
        self._jobs: deque[Job] = deque()
        self._resolved = 0  # shards whose last part can be taken
        self._settled = 0  # rows and failures of them that can be taken
        self._chunks: queue.Queue[list[Task] | None] = queue.Queue(maxsize=workers + 1)

    def room(self, wait: float = 0.0) -> bool:
        """Whether another shard may be begun, within `wait` seconds."""
        with self._taken:
            return self._taken.wait_for(self._has_room, wait)

    def _has_room(self) -> bool:
        jobs = len(self._jobs)
        return jobs < self._spare_jobs or (jobs < MOST_JOBS and self._settled < self._part_rows)

    @property
    def busy(self) -> bool:
        """Whether there are shards of which something is left to take."""
        return bool(self._jobs)

    def begin(self, job: Job) -> None:
        """Register the next shard of the plan."""
        with self._lock:
            self._jobs.append(job)

    def task(self, job: Job, sample: Sample) -> Task:
        """Register one more sample of the shard, whose image is held until `seen`."""
        self.admission.work(len(sample.image))
        with self._lock:
            job.samples += not job.partial
            return Task(job, job.give(), sample)

    def seen(self, task: Task) -> None:
        """The image of a task is decoded, and its bytes are dropped."""
        self.admission.work(-len(task.sample.image))

    def end(self, job: Job) -> None:
        """Mark the shard as read to its end."""
        with self._turned:
            job.read = True
            self._resolved += job.resolved
            self._tell(job)

    def resolve(
        self, task: Task, rows: Sequence[EmbeddedRow], failures: Sequence[Failure], *, done: bool, reused: int = 0
    ) -> None:
        """Add what became of a sample; `done` with the last of it."""
        job = task.job
        self.tally.count(len(rows), failures)
        if done:
            self.tally.settle(task.sample)
        with self._turned:
            before = job.settled
            job.settle(task.order, rows, failures, done=done, reused=reused)
            self._settled += job.settled - before
            self._resolved += done and job.resolved
            self._tell(job)

    def _tell(self, job: Job) -> None:
        """Wake the caller's thread where it can take something, for many small shards once."""
        many = self._resolved >= min(TOGETHER, len(self._jobs)) or self._settled >= TOGETHER_ROWS
        if (many and self._resolved) or job.settled >= self._part_rows:
            self._turned.notify()

    def finished(self, wait: float = 0.0) -> ShardResult | None:
        """The next shard of the plan, or a large enough part of it; None where there is none within `wait` seconds."""
        with self._turned:
            if not self._turned.wait_for(self._ready, wait):
                return None
            return self._take(self._jobs[0])

    def settled(self) -> list[ShardResult]:
        """The settled parts of the shards in progress, in the plan's order."""
        with self._turned:
            return [self._take(job) for job in list(self._jobs) if job.resolved or job.settled]

    def _ready(self) -> bool:
        return bool(self._jobs) and (self._jobs[0].resolved or self._jobs[0].settled >= self._part_rows)

    def _take(self, job: Job) -> ShardResult:
        self._settled -= job.settled
        result = job.take()
        if not result.more:
            self._jobs.remove(job)
            self._resolved -= 1
        self._taken.notify()
        return result

    def give(self, chunk: list[Task] | None) -> None:
        """Queue a chunk for the next free worker; None ends one worker. Raises StopRun."""

        def put() -> bool:
            try:
                self._chunks.put(chunk, timeout=POLL_SECONDS)
            except queue.Full:
                return False
            return True

        self.wait(put)

    def chunk(self) -> list[Task] | None:
        """A worker's next chunk; an empty one after a timeout, None at the end. Raises StopRun."""
        if self.stop.is_set():
            raise StopRun
        try:
            return self._chunks.get(timeout=POLL_SECONDS)
        except queue.Empty:
            return []

    def wait(self, attempt: Callable[[], bool]) -> None:
        """Repeat `attempt` until it returns True. Raises StopRun at the run's stop."""
        while not self.stop.is_set():
            if attempt():
                return
        raise StopRun
