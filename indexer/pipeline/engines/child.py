"""What runs in a process that reads and decodes for an encoder of its parent: the same threads as in a run by itself.

`python -m indexer.pipeline.engines.child SOCKET MEMORY TURN SEAT...`, descriptors that the parent opened.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from indexer.children import STOPS
from indexer.memory import budget
from indexer.pipeline.engines.feed import Feed
from indexer.pipeline.engines.lent import LentDecoder, LentEncoder, Seats, SharedBatches, Terms, portable
from indexer.pipeline.engines.threads import Threads
from indexer.pipeline.heap import startup_objects_left_alone
from indexer.pipeline.in_flight import Before, Planned
from indexer.pipeline.report import CPU_DECODER
from indexer.pipeline.tally import TallyFacts
from indexer.pixels.isolated import large_turn
from indexer.types import ShardResult, UInt8

PART_SECONDS = 20.0  # after which what is settled of the shards in progress is given, however little


@dataclass(frozen=True)
class Orders:
    """How a child works, sent first."""

    terms: Terms
    frames: str
    time: str
    part_rows: int
    siblings: int  # children of the run: each takes its share of the memory


@dataclass(frozen=True)
class Beside:
    """A small file that belongs to the run, as a slide's tissue."""

    shard: str
    name: str
    data: bytes


@dataclass(frozen=True)
class Sampled:
    """The first pictures of a child (n, size, size, 3)."""

    pictures: UInt8


@dataclass(frozen=True)
class Ended:
    """The last message: what a child counted, and the error that ended it."""

    facts: TallyFacts
    error: BaseException | None = None


class Child:
    """One process's work, told over `parent`: (Planned, Before) for a shard, None for no more, False for a stop."""

    def __init__(self, parent: Connection, memory: int, seats: list[Connection]) -> None:
        self._parent = parent
        self._sending = threading.Lock()
        orders: Orders = parent.recv()
        share = budget.machine_bytes() // budget.SHARE // orders.siblings
        for kind in (budget.UNDECODED, budget.DECODED):
            kind.nbytes = max(budget.LEAST_BYTES, share)
        lent = Seats(SharedBatches(orders.terms, memory), seats)
        encoder = LentEncoder(orders.terms, lent)
        on_gpu = encoder.spec.pixels.decoder != CPU_DECODER
        self._engine = Threads(
            encoder,
            workers=encoder.workers,
            frames=orders.frames,
            time=orders.time,
            part_rows=orders.part_rows,
            decoder=LentDecoder(orders.terms, lent) if on_gpu else None,
        )
        self._feed = Feed()
        self._before: dict[str, Before] = {}
        threading.Thread(target=self._listen, name="indexer-orders", daemon=True).start()

    def run(self) -> None:
        """Work until all shards are done, or the parent wants no more."""
        error: BaseException | None = None
        given, sampled = time.monotonic(), False
        try:
            for result in self._engine.results(self._feed, lambda planned: self._before.pop(planned.shard.name)):
                now = time.monotonic()
                if not sampled and self._engine.tally.sample_pictures:
                    sampled = True
                    self._send(Sampled(np.stack(self._engine.tally.sample_pictures)))
                parts = [result] if result is not None else []
                if not parts and now - given > PART_SECONDS:
                    parts = self._engine.settled()
                    given = now
                for part in parts:
                    self._give(part)
                    given = now
            for part in self._engine.settled():  # at a stop
                self._give(part)
            self._engine.close()
        except BaseException as raised:  # noqa: BLE001 - raised again by the parent
            error = raised
        self._send(Ended(self._engine.tally.facts(), error and portable(error)))

    def _give(self, result: ShardResult) -> None:
        # The parent has the shard, and need not get its list of files back
        self._send(replace(result, shard=replace(result.shard, files=(), stored=(), beside=None)))
        if not result.more:
            self._engine.tally.end(result.shard.name)

    def _send(self, message: Any) -> None:
        with self._sending:
            self._parent.send(message)

    def _listen(self) -> None:
        try:
            while True:
                order: tuple[Planned, Before] | bool | None = self._parent.recv()
                if order is None:
                    self._feed.end()
                elif isinstance(order, tuple):
                    self._begin(*order)
                else:
                    self._engine.stop.set()
        except (EOFError, OSError):
            os._exit(1)  # the parent is gone, and with it the encoder and the table

    def _begin(self, planned: Planned, before: Before) -> None:
        name = planned.shard.name

        def beside(file: str, data: bytes) -> None:
            self._send(Beside(name, file, data))

        self._before[name] = before
        self._feed.put(replace(planned, shard=replace(planned.shard, beside=beside)))


def main(arguments: list[str]) -> None:
    # The parent gets them too, and tells when to stop. Not ignored, nor blocked as they have been until here: programs
    # that shards are read from would inherit that.
    for number in STOPS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
    parent, memory, turn, *seats = map(int, arguments)
    large_turn.share(turn)
    child = Child(Connection(parent), memory, [Connection(seat) for seat in seats])
    with startup_objects_left_alone():
        child.run()


if __name__ == "__main__":
    from indexer.pipeline.engines import child  # this module under its own name, by which the parent knows its messages

    child.main(sys.argv[1:])
