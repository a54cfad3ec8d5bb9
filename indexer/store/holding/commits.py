"""Every commit to a table's datasets passes here: under the table's lock, with its lease checked right before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from indexer.addresses import is_remote, join
from indexer.store.holding.fence import fence, fence_all
from indexer.store.holding.lease import Lease
from indexer.store.holding.places import FilePlace, ObjectPlace
from indexer.store.lance_errors import writing
from indexer.store.lock import WriterLock

SIDES = ("shards", "failures", "text")
_leases: dict[str, Lease] = {}  # of this process: address of the table without its ending → lease


@contextmanager
def committing(dataset: Any, what: str = "") -> Iterator[None]:
    """Around one commit to this dataset, which was opened before: see `lease` for why the order matters.

    Raises StoreLocked where another writer has taken over, StoreError where Lance's commit fails. What a failed commit
    left is looked up by the next writer; it is never repeated.
    """
    lease = _lease_of(dataset.uri)
    with writing(what or dataset.uri):
        lease.require()
        try:
            yield
        except (OSError, ValueError, RuntimeError):
            lease.require()  # a commit that met a fence
            raise


def fence_after_cleanup(dataset: Any) -> None:
    """Keep a fence newer than the versions that were cleaned up, where another machine's writer may be asleep."""
    if _lease_of(dataset.uri).contested:
        fence(dataset)


class TableLock:
    """The right to write a table and its side tables. Raises StoreLocked, StoreError.

    In a folder it is the kernel's lock and a lease file, since the kernels of two machines may not know of each
    other's locks; in an object store a lease object.
    """

    def __init__(self, uri: str, table: str) -> None:
        what = f"table {table} in {uri}"
        self._stem = join(uri, table)
        remote = is_remote(uri)
        self._file = None if remote else WriterLock(Path(uri) / f"{table}.lock", what=what)
        self._place = ObjectPlace(uri, table) if remote else FilePlace(Path(uri), table)
        self._what = what
        self._held = ExitStack()

    @property
    def synced_until(self) -> float:
        """`WriterLock.synced_until`; 0 in an object store."""
        return self._file.synced_until if self._file else 0.0

    @synced_until.setter
    def synced_until(self, seconds: float) -> None:
        if self._file:
            self._file.synced_until = seconds

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the place."""
        return self._place.notes

    def __enter__(self) -> TableLock:
        with ExitStack() as stack:
            if self._file:
                stack.enter_context(self._file)
            lease = stack.enter_context(Lease(self._place, what=self._what))
            _leases[self._stem] = lease
            stack.callback(_leases.pop, self._stem, None)
            if lease.taken_over:
                fence_all([f"{self._stem}.lance", *(f"{self._stem}.{side}.lance" for side in SIDES)])
            self._held = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._held.__exit__(kind, error, tb)


def _lease_of(address: str) -> Lease:
    """The lease of a table, from the address of it or of one of its side tables. Raises KeyError where none is held."""
    stem = address.removesuffix(".lance")
    stem = next((stem.removesuffix(f".{side}") for side in SIDES if stem.endswith(f".{side}")), stem)
    if stem not in _leases:  # of pooled vectors, unless the database itself is a folder that is named so
        stem = address.rpartition(".pooled/")[0]
    return _leases[stem]
