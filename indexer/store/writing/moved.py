"""Gives shards that lie elsewhere now their new addresses: in the ledger, the failures and the rows.

Each step is one commit, on the disk before the next, and after each the tables are whole under the old addresses or
under the new ones, whichever `recovery` then keeps:
1. the ledger gets the new addresses beside the old ones; 2. the failures are copied under the new ones; 3. the `shard`
column of the rows is rewritten, and no other; 4. the ledger loses the old addresses; 5. the failures lose them. A
second call completes what a crash left: what is done already is counted, not done again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from indexer.errors import StoreError
from indexer.store.lance_calls import update_columns
from indexer.store.lance_errors import writing
from indexer.store.rows import batches
from indexer.store.writing.keys import count_by_shard
from indexer.store.writing.recovery import Tables
from indexer.store.writing.side_tables import BEGUN, LedgerEntry

_SAME = ("key", "stage", "reason", "offset", "member")  # two failures of one shard that agree in these are one


@dataclass(frozen=True)
class NewAddress:
    """Where a shard lies now."""

    name: str  # Shard.name
    url: str
    identity: str


def move(tables: Tables, moves: Mapping[str, NewAddress]) -> int:
    """Move the shards of these names; how many rows got a new address. Raises StoreError before anything is written.

    Where the ledger has a shard of the new name already, the two become one.
    """
    ledger, store = tables.ledger, tables.store
    for old, new in moves.items():
        _require_fit(ledger.entries[old], ledger.entries.get(new.name), new.name)
    failures = _copied(tables, moves)
    rows = count_by_shard(store)
    ledger.put(
        {
            new.name: _entry(ledger.entries, rows, old, new, tables.failures.counts, failures)
            for old, new in moves.items()
        }
    )
    tables.sync("shards.lance")
    if tables.failures.append_rows(failures):
        tables.sync("failures.lance")
    names = {old: new.name for old, new in moves.items()}
    with writing(f"the addresses of table {store.name}"):
        moved = update_columns(store._dataset, lambda fragment: _new_names(fragment, names))
    tables.sync("lance")
    store.refresh()
    ledger.drop(list(moves))
    tables.sync("shards.lance")
    if tables.failures.drop(moves):
        tables.sync("failures.lance")
    return moved


def _require_fit(old: LedgerEntry, new: LedgerEntry | None, name: str) -> None:
    """A shard begun at the new place has a mark of its own of which rows are former content."""
    if new is not None and new.status == BEGUN and (old.status, old.table_version) != (BEGUN, new.table_version):
        raise StoreError(
            f"shard {name} is stored in part, since a run was stopped: index it to its end, then relocate."
        )


def _entry(
    entries: Mapping[str, LedgerEntry],
    rows: Mapping[str, int],
    old: str,
    new: NewAddress,
    failed: Mapping[str, int],
    copied: pa.Table,
) -> LedgerEntry:
    """The ledger row of both shards together, counted from the tables: a second call finds the same."""
    base = entries.get(new.name, entries[old])
    if base.status == BEGUN:
        return replace(base, url=new.url, identity=new.identity)
    more = int(pc.sum(pc.equal(copied.column("shard"), new.name)).as_py() or 0)
    counts = rows.get(old, 0) + rows.get(new.name, 0), failed.get(new.name, 0) + more
    samples = max(base.samples, entries[old].samples)
    return replace(base, url=new.url, identity=new.identity, samples=samples, embedded=counts[0], failed=counts[1])


def _copied(tables: Tables, moves: Mapping[str, NewAddress]) -> pa.Table:
    """The failures of the old addresses under the new ones, without those that are there."""
    names = {old: new.name for old, new in moves.items()}
    found = tables.failures.of([*names, *names.values()]).to_pylist()
    there = {(row["shard"], *(row[name] for name in _SAME)) for row in found if row["shard"] not in names}
    copies = [row | {"shard": names[row["shard"]]} for row in found if row["shard"] in names]
    fresh = [row for row in copies if (row["shard"], *(row[name] for name in _SAME)) not in there]
    return pa.Table.from_pylist(fresh, schema=tables.failures.columns)


def _new_names(fragment: Any, names: Mapping[str, str]) -> pa.Table:
    """`key` and the new `shard` of the fragment's rows that move."""
    old = pa.array(list(names), pa.string())
    found = batches(fragment, ["key", "shard"])
    parts = [pa.Table.from_batches([b]).filter(pc.is_in(b.column("shard"), value_set=old)) for b in found]
    rows = pa.concat_tables(parts) if parts else pa.table({"key": pa.array([], pa.string()), "shard": []})
    spots = pc.index_in(rows.column("shard"), value_set=old)
    new = pa.chunked_array([pa.array(list(names.values()), pa.string())]).take(spots)
    return pa.table({"key": rows.column("key"), "shard": new})


def below(address: str, prefix: str) -> bool:
    """Whether an address is `prefix`, one of its groups of files, or lies below it."""
    return address == prefix or address.startswith((f"{prefix.rstrip('/')}/", f"{prefix}#"))
