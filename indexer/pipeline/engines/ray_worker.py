"""What runs inside a Ray actor: the same work on a shard as in a run on one machine, given in parts when asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from indexer.pipeline.engines.threads import Threads
from indexer.pipeline.in_flight import Before, Planned, Stored
from indexer.pipeline.tally import TallyFacts
from indexer.types import Encoder, EncoderSpec, ShardResult

ANSWER_SECONDS = 5.0  # an actor answers at least that often, so that one that hangs is told from one that works
PART_SECONDS = 30.0  # after which the settled part of a large shard is given, however small


@dataclass(frozen=True)
class WorkerOptions:
    """The same for every actor of a run."""

    make: Callable[[], Encoder]  # picklable
    threads: int | None  # None: the encoder's own number
    frames: str
    part_rows: int  # of an answer, about
    time: str = "first"


@dataclass(frozen=True)
class Introduced:
    """An actor's first answer."""

    spec: EncoderSpec
    device: str
    threads: int


@dataclass(frozen=True)
class Step:
    """One answer about the shard in progress."""

    result: ShardResult | None  # None: nothing is ready yet
    facts: TallyFacts | None = None  # with the last result of a shard
    files: tuple[tuple[str, bytes], ...] = ()  # small ones that belong to the run, as a slide's tissue, by name


@dataclass(frozen=True)
class Either:
    """The samples that are in one of two containers."""

    first: Stored
    second: Stored

    def __contains__(self, place: object) -> bool:
        return place in self.first or place in self.second


class ShardWorker:
    """One actor: works through one shard at a time."""

    def __init__(self, options: WorkerOptions) -> None:
        self._options = options
        self._engine: Threads | None = None
        self._results: Iterator[ShardResult | None] = iter(())
        self._given = 0.0  # when the last result was
        self._files: list[tuple[str, bytes]] = []  # not given to the driver yet

    @cached_property
    def _encoder(self) -> Encoder:
        """Not made with the actor: of an error there, Ray tells only that the actor died."""
        return self._options.make()

    @property
    def _threads(self) -> int:
        return self._options.threads or self._encoder.workers

    def introduce(self) -> Introduced:
        return Introduced(self._encoder.spec, self._encoder.device, self._threads)

    def begin(self, planned: Planned, before: Before) -> Step:
        """Begin a shard. Its results must all be asked for before the next one begins."""
        self._engine = Threads(
            self._encoder,
            workers=self._threads,
            frames=self._options.frames,
            time=self._options.time,
            part_rows=self._options.part_rows,
        )
        planned = replace(planned, shard=replace(planned.shard, beside=self._keep))
        self._results = self._engine.results([planned], lambda _: before)
        self._given = time.monotonic()
        return self.step()

    def step(self) -> Step:
        """The next result of the shard, or none where it is not ready within ANSWER_SECONDS."""
        asked = time.monotonic()
        for result in self._results:
            now = time.monotonic()
            if result is not None:
                return self._answer(result)
            if now - self._given > PART_SECONDS and (parts := self._settled()):
                return self._answer(parts[0])
            if now - asked > ANSWER_SECONDS:
                return self._with_files(Step(None))
        return self._ended()

    def stop(self) -> Step:
        """The settled part of the shard in progress, for a run that is stopped."""
        parts = self._settled()
        return self._answer(parts[0]) if parts else self._with_files(Step(None))

    def _keep(self, name: str, data: bytes) -> None:
        self._files.append((name, data))

    def _with_files(self, step: Step) -> Step:
        files = tuple(self._files)
        del self._files[: len(files)]  # the thread that reads may add another
        return replace(step, files=files)

    def _settled(self) -> list[ShardResult]:
        return self._engine.settled() if self._engine is not None else []

    def _answer(self, result: ShardResult) -> Step:
        self._given = time.monotonic()
        # the driver has the shard, and need not get its list of files back
        light = replace(result, shard=replace(result.shard, files=(), stored=(), beside=None))
        return self._with_files(Step(light)) if result.more else replace(self._ended(), result=light)

    def _ended(self) -> Step:
        """Ends the engine's threads. Raises the error of one of them."""
        if self._engine is None:
            return self._with_files(Step(None))
        engine, self._engine = self._engine, None
        engine.close()
        return self._with_files(Step(None, engine.tally.facts()))
