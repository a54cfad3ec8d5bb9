"""The engine of a machine with GPUs: processes read and decode, and send batches to the encoder of this process.

One interpreter runs one thread at a time. Between two calls of a decoder each thread waits for its turn, and on 16
cores 16 threads decoded 1,719 JPEG files a second where 16 processes decoded 4,698 (512 px, an H100's machine); beside
that, reading and bookkeeping took some 400 µs an image there. A GPU embeds thousands of images in that second. So each
process works on shards of its own, with few threads; the encoder, the table and the counts stay in this one. With 8
processes a ViT-B/32 got 3,826 images a second there, with 12 of them 4,564 (benchmarks/gpu.py).

An image that the table has under another shard is embedded again, as by Ray's actors: the commit then adopts it.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess  # runs this interpreter with a module of this package, never a shell
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from indexer.archive.buckets import Bucket
from indexer.children import deaf_to_stops, environment, python_command
from indexer.cores import cores
from indexer.errors import EncoderError
from indexer.memory.budget import machine_bytes
from indexer.pipeline.engines.child import Beside, Ended, Orders, Sampled
from indexer.pipeline.engines.engine import Lookup
from indexer.pipeline.engines.lent import SharedBatches, Terms, serve, shared_file
from indexer.pipeline.engines.threads import Threads
from indexer.pipeline.in_flight import POLL_SECONDS, Planned, held_nowhere
from indexer.pipeline.options import RunOptions
from indexer.pipeline.tally import Tally
from indexer.types import Encoder, Shard, ShardResult

MOST_SHARDS = 64  # given to a process and not done
LEAST_SHARDS = 2  # one is read while the last images of the one before are decoded
GIVEN_BYTES = 64 << 20  # of shards given to a process, beyond LEAST_SHARDS
UNKNOWN_BYTES = 16 << 20  # counted for a shard of unknown size
FEWEST_CORES = 4  # with fewer, this process alone keeps them busy
PROCESS_BYTES = 3 << 30  # of the machine's memory to each process, which takes about 1 GB
SEATS = 3  # threads of a process that decode, of which one may wait for the GPU
FEWEST_PART_ROWS = 1024
OWN_DESCRIPTORS = 2  # open here for a process, beside one for each of its seats: its orders and its memory
OTHER_DESCRIPTORS = 1024  # of tables, archives and GPUs
STOP_SECONDS = 20.0  # for the processes' settled parts at a stop
CLOSE_SECONDS = 5.0  # for what they counted, at an error


def processes_for(encoder: Encoder, asked: int | None) -> int:
    """How many processes decode for this encoder: those asked for; with a GPU three for four cores, else 0."""
    if asked is not None:
        return asked if asked > 1 else 0
    if not encoder.device.startswith("cuda") or cores() < FEWEST_CORES:
        return 0
    return max(2, min(3 * cores() // 4, machine_bytes() // PROCESS_BYTES))


@dataclass
class _Child:
    """A process, and the shards that it was given."""

    process: subprocess.Popen[bytes]
    orders: Connection
    shards: dict[str, Planned] = field(default_factory=dict)
    given: int = 0  # bytes of these shards
    ended: Ended | None = None

    @property
    def hungry(self) -> bool:
        return len(self.shards) < LEAST_SHARDS or (len(self.shards) < MOST_SHARDS and self.given < GIVEN_BYTES)

    @property
    def load(self) -> tuple[int, int]:
        """No process gets a second shard before each has one, nor much more than the others."""
        return self.given, len(self.shards)


def nbytes_of(shard: Shard) -> int:
    return UNKNOWN_BYTES if shard.nbytes is None else shard.nbytes


class Processes:
    """Implements `engine.Engine`. A plan of fewer shards than half the processes is left to the threads of this one."""

    parts_a_commit = 1

    def __init__(self, encoder: Encoder, processes: int, options: RunOptions) -> None:
        self.encoder, self.spec, self.device = encoder, encoder.spec, encoder.device
        self._options, self._processes = options, processes
        own = options.workers or encoder.workers
        self._threads = Threads(
            encoder, workers=own, frames=options.frames, time=options.time, part_rows=options.commit_rows
        )
        self._seats = 0  # of each process
        self.workers, self.readers = own, 1
        self.tally, self.stop = self._threads.tally, self._threads.stop
        self._children: list[_Child] = []
        self._serving: list[threading.Thread] = []
        self._error: BaseException | None = None
        self._alone = True

    def results(self, plan: Sequence[Planned], lookup: Lookup) -> Iterator[ShardResult | None]:
        self._alone = 2 * len(plan) < self._processes
        if self._alone:
            yield from self._threads.results(plan, lookup)
            return
        workers = self._options.workers or SEATS * self._processes
        self._processes = min(self._processes, len(plan))
        self._seats = -(-workers // self._processes)
        self.workers, self.readers = self._processes * self._seats, self._processes
        self._begin()
        waiting, left = deque(plan), len(plan)
        while left and not self.stop.is_set():
            while waiting and (hungry := [child for child in self._children if child.hungry]):
                _give(min(hungry, key=lambda child: child.load), waiting.popleft(), lookup)
            found = list(self._heard(POLL_SECONDS))
            left -= sum(not result.more for result in found)
            yield from found
            if not found:
                yield None
        for child in self._children:
            _send(child, None)
        if not self.stop.is_set():
            yield from self._until_ended()  # no result comes after a shard's last part

    def settled(self) -> list[ShardResult]:
        """At a stop, what the processes have; in a run they give parts of their own accord."""
        if self._alone:
            return self._threads.settled()
        if not self.stop.is_set():
            return []
        for child in self._children:
            _send(child, False)
        return list(self._until_ended())

    def counts(self) -> dict[str, int]:
        return {}

    @property
    def device_seconds(self) -> float | None:
        return self._threads.device_seconds

    @property
    def decoder_difference(self) -> float | None:
        return self._threads.decoder_difference

    def close(self) -> None:
        self._threads.close()  # sets `stop`
        for child in self._children:
            if child.ended is None:
                _send(child, False)
        for _ in self._until_ended(CLOSE_SECONDS):
            pass  # of a run that ends with an error: the next one makes it again
        for child in self._children:
            if child.ended is None:
                child.process.kill()
            child.orders.close()
            child.process.wait()
        for thread in self._serving:
            thread.join()
        if self._error is not None:
            raise self._error

    def _begin(self) -> None:
        """Start the processes, and a thread for each of their seats."""
        terms = Terms(self.spec, self.encoder.batch_size, self.device, self._seats)
        part_rows = max(self._options.commit_rows // self._processes, FEWEST_PART_ROWS)
        orders = Orders(terms, self._options.frames, self._options.time, part_rows, self._processes)
        _make_room(self._processes * (OWN_DESCRIPTORS + self._seats))
        try:
            with ExitStack() as stack:
                turn = shared_file(1)
                stack.callback(os.close, turn)
                for _ in range(self._processes):
                    self._start(orders, turn)
        except OSError as error:
            raise EncoderError(
                f"the processes that decode cannot be started, {len(self._children)} of {self._processes} were "
                f"({error.strerror}). Ask for fewer with --processes, or raise the limit (ulimit -n, -u)."
            ) from error

    def _start(self, orders: Orders, turn: int) -> None:
        """Start a process. Raises OSError, and leaves nothing open then."""
        with ExitStack() as stack:
            memory = shared_file(orders.terms.nbytes)
            stack.callback(os.close, memory)
            pairs = []
            for _ in range(1 + self._seats):
                pairs.append(socket.socketpair())
                for end in pairs[-1]:
                    stack.enter_context(end)
            theirs = [end.fileno() for _, end in pairs]
            numbers = [str(number) for number in (theirs[0], memory, turn, *theirs[1:])]
            batches = SharedBatches(orders.terms, memory)
            with deaf_to_stops():  # until it has handlers of its own
                process = subprocess.Popen(
                    python_command("indexer.pipeline.engines.child", *numbers),
                    stdin=subprocess.DEVNULL,
                    env=environment(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1"),
                    pass_fds=[memory, turn, *theirs],
                    start_new_session=True,  # Ctrl-C must reach the parent only
                )
            own, *seats = (Connection(end.detach()) for end, _ in pairs)
        self._children.append(_Child(process, own))
        _send(self._children[-1], orders)
        for number, seat in enumerate(seats):
            thread = threading.Thread(
                target=serve, args=(self.encoder, self._threads.decoder, batches, number, seat), daemon=True
            )
            thread.start()
            self._serving.append(thread)

    def _heard(self, seconds: float) -> Iterator[ShardResult]:
        """What the processes tell within that time. Ends the run at the error of one."""
        alive = {child.orders: child for child in self._children if child.ended is None}
        for ready in wait(list(alive), seconds):
            child = alive[ready]  # type: ignore[index]  # what was given
            try:
                message = child.orders.recv()
            except (EOFError, OSError):
                message = self._died(child)
            if isinstance(message, Ended):
                child.ended = message
                self.tally.merge(message.facts)
                if message.error is not None:
                    self._error = self._error or message.error
                    self.stop.set()
            elif isinstance(message, Sampled):
                self.tally.note_pictures(message.pictures, Counter())
            elif isinstance(message, Beside):
                if (beside := child.shards[message.shard].shard.beside) is not None:
                    beside(message.name, message.data)
            else:
                yield self._taken(child, message)

    def _taken(self, child: _Child, result: ShardResult) -> ShardResult:
        name = result.shard.name
        whole = child.shards[name].shard
        if not result.more:
            del child.shards[name]
            child.given -= nbytes_of(whole)
        self.tally.count(sum(len(batch.rows) for batch in result.batches), result.failures)
        return replace(result, shard=replace(whole, identity=result.shard.identity))

    def _died(self, child: _Child) -> Ended:
        code = child.process.wait()
        names = ", ".join(child.shards) or "none"
        words = (
            f"a process that decodes has ended by itself ({_words(code)}), at work on {names}. What was committed is "
            "kept: run the same command again, with --processes 1 if it happens twice."
        )
        return Ended(Tally(self.spec.dim).facts(), EncoderError(words))

    def _until_ended(self, seconds: float = STOP_SECONDS) -> Iterator[ShardResult]:
        """The results that come before each process's last message, unless nothing comes for so long."""
        waited = 0.0
        while waited < seconds and any(child.ended is None for child in self._children):
            found = list(self._heard(POLL_SECONDS))
            waited = 0.0 if found else waited + POLL_SECONDS
            yield from found


def _make_room(descriptors: int) -> None:
    """Raise the soft limit of open files for so many more, as far as the hard one allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OTHER_DESCRIPTORS + descriptors
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # a system may have a limit of its own: then some process does not start
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _give(child: _Child, planned: Planned, lookup: Lookup) -> None:
    """A shard for a process. What asks the table stays here: the commit does."""
    child.shards[planned.shard.name] = planned
    child.given += nbytes_of(planned.shard)
    files = planned.shard.files
    files = files.in_hand() if isinstance(files, Bucket) else files
    light = replace(planned, shard=replace(planned.shard, beside=None, files=files))
    _send(child, (light, replace(lookup(planned), held=held_nowhere)))


def _send(child: _Child, message: Any) -> None:
    with suppress(BrokenPipeError, ConnectionError):  # it has ended: its last message tells why
        child.orders.send(message)


def _words(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
