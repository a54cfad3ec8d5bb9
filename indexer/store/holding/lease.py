"""A lease: the right to write a table, for as long as its holder shows that it lives.

`flock` ends with its process, but holds on one machine only, and an object store has no locks. A lease is a record
beside the table with its holder, a heartbeat and a fencing number that grows with each holder. It decides who may
begin; that no late commit of a former holder succeeds is the work of `fence`:

- a holder opens a table's version, then reads its lease (`require`), then commits against that version;
- a holder that took over commits the fence to each table before it reads them.
A former holder that was stopped anywhere therefore either committed before the fence, and is seen, or its commit is
refused, because its version is older than the fence, or because its lease is gone. No clock takes part in this.
Clocks decide only how long a silent holder is waited for.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Protocol

from indexer.errors import StoreError, StoreLocked
from indexer.store.lock import is_alive

LEASE_SECONDS = 30.0  # without a heartbeat, after which another writer takes over; INDEXER_LEASE_SECONDS sets another
BEATS = 5  # in that time
POLLS = 20  # looks at a silent holder in that time


@dataclass(frozen=True)
class Record:
    """What the lease says."""

    holder: str  # random
    fence: int  # grows by one with each holder
    machine: str  # host's boot and process namespace
    host: str
    pid: int
    since: str
    seconds: float
    ended: bool = False  # the holder has given the lease back
    whole: bool = False  # and none of its commits was of unknown outcome
    contested: bool = False  # another machine's holder was ever taken over: old versions leave a fence behind

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Record | None:
        """The record; None for a damaged one."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError):
            return None

    @property
    def words(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


@dataclass(frozen=True)
class Seen:
    """A lease as it was read."""

    record: Record | None  # None where it cannot be read
    fence: int  # its number, also where the record cannot be read
    stamp: object  # differs after every heartbeat


class Place(Protocol):
    """Where a lease is kept. Every method raises OSError where the place cannot be reached."""

    local: bool  # a holder on this machine that is not waited for has ended, which flock tells
    notes: tuple[str, ...]  # what a user should know of this place

    def read(self) -> Seen | None:
        """The lease; None where there never was one."""
        ...

    def age(self, seen: Seen) -> float:
        """Seconds since the last heartbeat, by the place's clock alone."""
        ...

    def take(self, record: Record, after: Seen | None) -> bool:
        """Make `record` the lease, unless it changed since `after` was read; whether it is."""
        ...

    def renew(self, record: Record) -> bool:
        """Write the holder's own record again; whether it was still the lease."""
        ...

    def is_mine(self, record: Record) -> bool:
        """Whether this holder's record still is the lease."""
        ...


class Lease:
    """Held between `__enter__` and `__exit__`, renewed by a thread. Raises StoreLocked, StoreError."""

    def __init__(self, place: Place, *, what: str) -> None:
        self._place, self._what = place, what
        self._record: Record | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._turn = threading.Lock()  # the heartbeat and the end write one after the other
        self.taken_over = False  # from a holder that did not end, or not well
        self.notes = place.notes

    @property
    def contested(self) -> bool:
        """Whether a holder of another machine was ever taken over."""
        return self._record is not None and self._record.contested

    def __enter__(self) -> Lease:
        with self._errors():
            self._record = self._taken()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        record, self._record = self._record, None
        if record is None:
            return
        self._stop.set()
        try:
            with self._errors(), self._turn:
                held = self._place.renew(replace(record, ended=True, whole=kind is None))
        except StoreError:
            if kind is None:
                raise
            return
        if not held and kind is None:
            raise self._lost()

    def require(self) -> None:
        """Raise StoreLocked where another writer has taken the lease over."""
        record = self._record
        if record is None:
            raise self._lost()
        with self._errors():
            mine = self._place.is_mine(record)
        if not mine:
            raise self._lost()

    def _taken(self) -> Record:
        seen = self._silent(self._place.read())
        before = seen.record if seen else None
        machine = _machine()
        # Of a record that cannot be read nothing is known: its holder may sleep on another machine
        foreign = not (self._place.local and before is not None and before.machine == machine)
        self.taken_over = seen is not None and foreign and not (before and before.ended and before.whole)
        record = Record(
            holder=secrets.token_hex(16),
            fence=seen.fence + 1 if seen else 1,
            machine=machine,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=time.strftime("%Y-%m-%d %H:%M:%S"),
            seconds=_seconds(),
            contested=self.taken_over or bool(before and before.contested),
        )
        if not self._place.take(record, seen):
            raise StoreLocked(f"{self._what} was taken by another writer a moment ago. Wait for it to end.")
        return record

    def _silent(self, seen: Seen | None) -> Seen | None:
        """The lease once its holder ended, or sent no heartbeat for its time. Raises StoreLocked while it lives."""
        first, watched, start = seen, 0.0, time.monotonic()
        while seen is not None and first is not None and not self._is_free(seen, watched):
            seconds = seen.record.seconds if seen.record else LEASE_SECONDS
            time.sleep(min(1.0, seconds / POLLS))
            seen, watched = self._place.read(), time.monotonic() - start
            if seen is not None and seen.stamp != first.stamp and not (seen.record and seen.record.ended):
                raise self._busy(seen.record)
        return seen

    def _is_free(self, seen: Seen, watched: float) -> bool:
        record = seen.record
        if record is not None and record.ended:
            return True
        if record is not None and record.machine == _machine():
            if self._place.local or not is_alive(record.pid):
                return True  # the kernel gave us its lock, or it is not among the processes
            if watched == 0 and self._place.age(seen) <= record.seconds:
                raise self._busy(record)
        return max(watched, self._place.age(seen)) > (record.seconds if record else LEASE_SECONDS)

    def _beat(self) -> None:
        while not self._stop.wait(_seconds() / BEATS):
            record = self._record
            if record is None:
                return
            with suppress(OSError), self._turn:  # a store that does not answer now may answer the next time
                if not self._stop.is_set() and not self._place.renew(record):
                    return  # lost: the next commit says so

    def _busy(self, record: Record | None) -> StoreLocked:
        holder = record.words if record else "another process"
        return StoreLocked(
            f"{self._what} is being written by {holder}. Wait for it to end, or stop that process; a writer that is "
            f"silent for {record.seconds if record else LEASE_SECONDS:g} seconds loses its lease."
        )

    def _lost(self) -> StoreLocked:
        return StoreLocked(
            f"{self._what} was taken over by another writer, since this process sent no heartbeat for "
            f"{_seconds():g} seconds: what it had not committed is not in the table. Run the same command again."
        )

    def _errors(self) -> _Unreachable:
        return _Unreachable(self._what)


class _Unreachable:
    """Maps OSError of a place to StoreError."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, OSError):
            cause = os.strerror(error.errno) if error.errno else str(error)
            raise StoreError(
                f"{self._what} cannot be written: its lease cannot be read or written ({cause})."
            ) from error


def _seconds() -> float:
    try:
        return max(0.2, float(os.environ.get("INDEXER_LEASE_SECONDS", "")))
    except ValueError:
        return LEASE_SECONDS


def _machine() -> str:
    """Names the running kernel and the space of its process ids: containers of one machine differ in it."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()
