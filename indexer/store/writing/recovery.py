"""Recovery when a writer opens a table: repairs the state that a crash of the previous writer left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from indexer.store.filters import quoted
from indexer.store.lance_calls import chunks, delete
from indexer.store.rows import batches
from indexer.store.table import EmbeddingStore
from indexer.store.writing.keys import StoredSamples, count_by_shard, delete_rows
from indexer.store.writing.side_tables import BEGUN, FailureTable, Ledger, lost_shards, recounted


@dataclass(frozen=True)
class Tables:
    """The three tables that a writer keeps consistent; `sync` writes the changes of one to the disk."""

    store: EmbeddingStore
    ledger: Ledger
    failures: FailureTable
    sync: Callable[[str], None]  # lance | shards.lance | failures.lance


def recover(tables: Tables, *, mended: bool) -> int:
    """Make rows, failures and ledger consistent; returns how many rows were deleted.

    After a regular end this reads the rows created after the last commit (none), the ledger and the failures, not the
    whole table. Where a version was rolled back (`mended`), the rows of every shard are counted.
    """
    store, ledger, failures = tables.store, tables.ledger, tables.failures
    counted = ledger.counted_version
    everything = mended or counted > store.version
    rows = count_by_shard(store, None if everything else f"_row_created_at_version > {counted}")
    if everything and ledger.drop(lost_shards(ledger.entries, rows, failures.counts)):
        tables.sync("shards.lance")
    orphans = sorted(rows.keys() - ledger.entries.keys())
    if delete(store._dataset, "shard", orphans):
        tables.sync("lance")
    begun = {name: entry.table_version for name, entry in ledger.entries.items() if entry.status == BEGUN}
    former = _drop_former(tables, begun)
    store.refresh()
    _drop_failures(tables, begun)
    _recount(tables, rows, everything=everything)  # last, since it records the version up to which all rows are counted
    return sum(rows[name] for name in orphans) + former


def _drop_former(tables: Tables, begun: Mapping[str, int]) -> int:
    """Delete the rows of begun shards that are older than their "begun" entry: their former content."""
    deleted = 0
    for version in sorted(set(begun.values())):
        for names in chunks(sorted(name for name, since in begun.items() if since == version)):
            where = f"shard IN ({', '.join(map(quoted, names))}) AND _row_created_at_version <= {version}"
            parts = [batch.column("_rowid").to_numpy() for batch in tables.store.scan([], where)]
            ids = np.concatenate(parts) if parts else np.empty(0, np.int64)
            if delete_rows(tables.store._dataset, ids.astype(np.int64)):
                tables.sync("lance")
            deleted += len(ids)
    return deleted


def _drop_failures(tables: Tables, begun: Mapping[str, int]) -> None:
    """Delete failures of unknown shards, and those of begun shards that will be reported again.

    A sample with a stored part is not read again, so the failures of its other parts are kept.
    """
    failures, store = tables.failures, tables.store
    changed = failures.drop([name for name in failures.counts if name not in tables.ledger.entries])
    for names in chunks(sorted(begun.keys() & failures.counts.keys())):
        where = f"shard IN ({', '.join(map(quoted, names))})"
        stored = StoredSamples(store.scan(StoredSamples.COLUMNS, where), store.count(where))
        gone: list[tuple[int, str]] = []
        columns = list(StoredSamples.COLUMNS)
        for batch in batches(failures.dataset, columns, where, with_row_id=True):
            again = np.delete(np.arange(batch.num_rows), stored.which(batch))
            rows = batch.take(pa.array(again))
            gone += zip(rows.column("_rowid").to_pylist(), rows.column("shard").to_pylist(), strict=True)
        failures.drop_rows(gone)
        changed = changed or bool(gone)
    if changed:
        tables.sync("failures.lance")


def _recount(tables: Tables, rows: Counter[str], *, everything: bool) -> None:
    """Correct the ledger's counts of shards that have new rows, or another number of failures."""
    failures, entries = tables.failures.counts, dict(tables.ledger.entries)
    if not everything:
        doubtful = {n: e for n, e in entries.items() if e.status != BEGUN and (n in rows or failures[n] != e.failed)}
        rows, entries = Counter(), doubtful
        for names in chunks(sorted(doubtful)):
            rows.update(count_by_shard(tables.store, f"shard IN ({', '.join(map(quoted, names))})"))
    changed = recounted(entries, rows, failures, tables.store.version)
    if changed:
        tables.ledger.put(changed)
        tables.sync("shards.lance")
