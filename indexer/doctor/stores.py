"""Whether an object store that is to hold a database does what several writers need."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.redact import stored_address
from indexer.remote.objects import is_object
from indexer.store.holding.places import ObjectPlace

ARCHIVES = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".parquet", ".csv")


@dataclass(frozen=True)
class TriedStore:
    """What a put-if-absent and a put-if-match did at an address."""

    address: str
    reachable: bool
    conditional_puts: bool
    detail: str

    @property
    def problem(self) -> str:
        return "" if self.conditional_puts else f"{self.address}: {self.detail}"


def is_database_place(address: str) -> bool:
    """Whether an address is a place in an object store where a database may lie, not a shard or a pattern."""
    return is_object(address) and not address.lower().endswith(ARCHIVES) and not any(c in address for c in "*?[{")


def try_store(address: str) -> TriedStore:
    """Puts one small object there twice, and deletes it."""
    name = stored_address(address)
    try:
        holds = ObjectPlace(address, "doctor").prove()
    except OSError as error:
        return TriedStore(name, False, False, str(error).removeprefix(f"{name}: "))
    if holds:
        return TriedStore(name, True, True, "conditional puts hold: one writer at a time, whatever the machine")
    return TriedStore(
        name, True, False, "a second put-if-absent succeeded, so that only one writer may run: nothing tells two apart"
    )
