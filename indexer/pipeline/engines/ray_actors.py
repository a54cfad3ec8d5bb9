"""The engine of a Ray cluster: actors work on shards, the driver is the committer.

Ray core actors, not Ray Data, which runs a block again without knowing what was committed of it. An actor gets the
next shard only when it has answered, and gives a large one in parts, the next of which it makes while the driver
commits: so the driver and Ray's object store hold at most two parts of each actor.
"""

from __future__ import annotations

import gc
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from indexer.errors import EncoderError, EncoderMismatch
from indexer.pipeline.engines.engine import Lookup
from indexer.pipeline.engines.ray_cluster import Cluster, Died
from indexer.pipeline.engines.ray_worker import Either, Introduced, Step
from indexer.pipeline.heap import startup_objects_left_alone
from indexer.pipeline.in_flight import POLL_SECONDS, Before, Planned, held_nowhere
from indexer.pipeline.tally import Tally
from indexer.store.writing.keys import Digests, SamplesOfShard, digests_of
from indexer.types import UNREAD, EmbeddingBatch, Failure, ShardResult

TRIES = 3  # of a shard that kills its worker
DIED = "worker died"
BARREN = 5  # workers that die one after the other before their first answer end the run
SILENT_SECONDS = 600.0  # without an answer, after which an actor counts as dead
PARTS_A_COMMIT = 4  # which costs about as much as two thousand rows, and many workers wait for one driver
COLLECT_SECONDS = 60.0  # between two garbage collections: rows are many and have no cycles
STOP_SECONDS = 20.0  # for the actors' settled parts at a stop


@dataclass
class _Work:
    """A shard that is to be done, and what was received of it."""

    planned: Planned
    before: Before
    tries: int = 0
    samples: int = 0
    begun: bool = False  # a part of it was given to the committer
    places: list[Digests] = field(default_factory=list)  # of the samples received
    failures: set[Failure] = field(default_factory=set)

    def fresh(self, result: ShardResult) -> ShardResult:
        """What of a result is new: another actor may have begun the shard before."""
        new = tuple(f for f in result.failures if f not in self.failures)
        self.failures.update(new)
        if result.more:  # the last part ends the shard
            self.remember(result.batches, new)
        self.samples = max(self.samples, result.samples)
        replaces, self.begun = self.planned.replaces and not self.begun, True
        shard = replace(self.planned.shard, identity=result.shard.identity)
        return replace(result, shard=shard, failures=new, replaces=replaces)

    def remember(self, batches: Sequence[EmbeddingBatch], failures: Sequence[Failure]) -> None:
        name = self.planned.shard.name
        places = [(name, row.place.member, row.place.offset) for batch in batches for row in batch.rows]
        self.places.append(digests_of([*places, *((name, f.member, f.offset) for f in failures if f.offset >= 0)]))

    def again(self) -> tuple[Planned, Before]:
        """What an actor is given: the shard without the samples that were received."""
        before = replace(self.before, held=held_nowhere)  # which asks the table: the commit does
        if self.places:
            received = SamplesOfShard(np.sort(np.concatenate(self.places)), self.planned.shard.name)
            before = replace(before, stored=Either(before.stored, received))
        return replace(self.planned, shard=replace(self.planned.shard, beside=None)), before

    def given_up(self, cause: str) -> ShardResult:
        """The shard's last part: a failure. The next run reads the shard again."""
        shard = replace(self.planned.shard, identity=UNREAD)
        failure = Failure(shard.name, "", "read", DIED, f"{TRIES} workers died of it: {cause}")
        return self.fresh(ShardResult(shard, (), (failure,), self.samples, partial=True))


class _Slot:
    """An actor, the answer that it owes, and its shard."""

    def __init__(self, actor: Any) -> None:
        self.actor = actor
        self.work: _Work | None = None
        self.ask(actor.introduce.remote())

    def ask(self, answer: Any) -> None:
        self.answer, self.since = answer, time.monotonic()


class RayActors:
    """Implements `engine.Engine` on an open cluster."""

    def __init__(self, cluster: Cluster) -> None:
        """Waits for a first actor. Raises its error, or EncoderError where none starts."""
        self._cluster = cluster
        self._waiting: deque[_Work | Planned] = deque()
        self._barren = 0  # actors that died before their first answer, one after the other
        self._left = 0  # shards whose last part was not given to the caller yet
        self._lookup: Lookup | None = None
        self.stop = threading.Event()
        first = _Slot(cluster.actor())
        self._slots = [first]
        while not cluster.ready([first.answer], POLL_SECONDS):
            cluster.require_room(time.monotonic() - first.since)
        introduced, first.answer = cluster.answer(first.answer), None
        if not isinstance(introduced, Introduced):
            raise EncoderError(f"no worker of the Ray cluster starts: {introduced.cause}. See Ray's logs of it.")
        self.parts_a_commit = PARTS_A_COMMIT
        self.spec, self.device = introduced.spec, introduced.device
        self.workers, self.readers = introduced.threads * cluster.workers, cluster.workers
        self.tally = Tally(self.spec.dim)

    @property
    def device_seconds(self) -> float | None:
        return None

    @property
    def decoder_difference(self) -> float | None:
        return None

    def counts(self) -> dict[str, int]:
        return {"workers": sum(slot.work is not None for slot in self._slots)}

    def results(self, plan: Sequence[Planned], lookup: Lookup) -> Iterator[ShardResult | None]:
        self._waiting, self._lookup, self._left = deque(plan), lookup, len(plan)
        for slot in self._slots:
            self._next(slot)
        while len(self._slots) < min(self._cluster.workers, len(plan)):
            self._slots.append(_Slot(self._cluster.actor()))
        collected, enabled = time.monotonic(), gc.isenabled()
        gc.collect()
        with startup_objects_left_alone():
            gc.disable()
            try:
                while self._left and not self.stop.is_set():
                    if time.monotonic() - collected > COLLECT_SECONDS:
                        gc.collect()
                        collected = time.monotonic()
                    answers = [slot.answer for slot in self._slots if slot.answer is not None]
                    ready = self._cluster.ready(answers, POLL_SECONDS)
                    found = [result for slot in list(self._slots) for result in self._heard(slot, ready)]
                    self._keep_busy()
                    yield from found
                    if not found:
                        yield None
            finally:
                if enabled:
                    gc.enable()

    def settled(self) -> list[ShardResult]:
        """At a stop, what the actors have; in a run they give parts of their own accord."""
        if not self.stop.is_set():
            return []
        until, found = time.monotonic() + STOP_SECONDS, list[ShardResult]()
        busy = [(slot, slot.work) for slot in self._slots if slot.work is not None]
        for work, answer in [(w, a) for slot, w in busy for a in (slot.answer, slot.actor.stop.remote())]:
            if self._cluster.ready([answer], max(0.0, until - time.monotonic())):
                step = self._cluster.answer(answer)
                found += self._taken(work, step) if isinstance(step, Step) else []
        return found

    def close(self) -> None:
        self.stop.set()
        for slot in self._slots:
            self._cluster.kill(slot.actor)
        self._slots = []

    def _heard(self, slot: _Slot, ready: set[Any]) -> list[ShardResult]:
        """What an actor's answer gives, if there is one; asks it for more, or puts another in its place."""
        if slot.answer not in ready:
            silent = slot.work is not None and time.monotonic() - slot.since > SILENT_SECONDS
            return self._replaced(slot, Died(f"no answer for {SILENT_SECONDS:g} seconds")) if silent else []
        answer = self._cluster.answer(slot.answer)
        if isinstance(answer, Died):
            return self._replaced(slot, answer)
        self._barren = 0
        work = slot.work
        if work is None:
            if answer.spec.fingerprint != self.spec.fingerprint:
                raise EncoderMismatch(stored=self.spec.fingerprint, given=f"{answer.spec.fingerprint} of a worker")
            self._next(slot)
            return []
        if answer.result is None or answer.result.more:
            slot.ask(slot.actor.step.remote())
        else:
            self._next(slot)
        return self._taken(work, answer)

    def _taken(self, work: _Work, step: Step) -> list[ShardResult]:
        if step.facts is not None:
            self.tally.merge(step.facts)
        if (beside := work.planned.shard.beside) is not None:
            for name, data in step.files:
                beside(name, data)
        if step.result is None:
            return []
        result = work.fresh(step.result)
        self._left -= not result.more
        self.tally.count(sum(len(batch.rows) for batch in result.batches), result.failures)
        return [result]

    def _keep_busy(self) -> None:
        """Give the shard of an actor that died to one that has nothing to do, and do not wait for ever for none."""
        for slot in self._slots:
            if slot.answer is None and self._waiting:
                self._next(slot)
        if self._left and all(slot.work is None for slot in self._slots):
            self._cluster.require_room(time.monotonic() - max(slot.since for slot in self._slots))

    def _next(self, slot: _Slot) -> None:
        """Give an actor that has answered the next shard."""
        slot.work = slot.answer = None
        if not self._waiting or self._lookup is None:
            return
        following = self._waiting.popleft()
        slot.work = following if isinstance(following, _Work) else _Work(following, self._lookup(following))
        slot.ask(slot.actor.begin.remote(*slot.work.again()))

    def _replaced(self, slot: _Slot, died: Died) -> list[ShardResult]:
        """Put a new actor in the place of one that died. Its shard is begun again, or given up."""
        self._cluster.kill(slot.actor)
        work, slot.work = slot.work, None
        self._barren += work is None
        if self._barren >= BARREN:
            raise EncoderError(f"{BARREN} workers died before they began: {died.cause}. See Ray's logs of them.")
        slot.actor = self._cluster.actor()
        slot.ask(slot.actor.introduce.remote())
        if work is None:
            return []
        work.tries += died.itself
        if work.tries < TRIES:
            self._waiting.appendleft(work)
            return []
        result = work.given_up(died.cause)
        self._left -= 1
        self.tally.count(0, result.failures)
        return [result]
