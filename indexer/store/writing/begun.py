"""Shards that are stored in part: begun by this writer or by an earlier one, and continued or started again."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from indexer.errors import StoreError
from indexer.redact import stored_address
from indexer.store.filters import quoted
from indexer.store.holding.commits import committing
from indexer.store.lance_calls import chunks
from indexer.store.writing.carried import CarriedLabels, label_columns
from indexer.store.writing.keys import ShardRows, TableKeys, key_hashes
from indexer.store.writing.recovery import Tables
from indexer.store.writing.side_tables import BEGUN, LedgerEntry
from indexer.types import ShardResult


class BegunShards:
    """`open` has the begun shards of this writer, with the labels of their deleted rows, kept for the new ones."""

    def __init__(self, tables: Tables, rows: ShardRows, keys: TableKeys) -> None:
        self._tables, self._rows, self._keys = tables, rows, keys
        self.open = dict[str, CarriedLabels]()
        self._resumable = self._left_by_earlier_writers()

    def begin(self, first: Sequence[ShardResult]) -> list[str]:
        """Mark as begun the shards that are replaced, come in parts, or were begun before.

        Returns the names of those whose former failures must be deleted: all except continued ones.
        """
        entries = self._tables.ledger.entries
        resumed = {r.shard.name for r in first if not r.replaces and r.shard.name in self._resumable}
        again = [r for r in first if r.replaces or r.more]
        known = [r for r in again if r.shard.name in entries and r.shard.name not in resumed]
        parts = [r for r in first if r.more and r.shard.name not in entries]
        if known or parts:
            version = self._tables.store.version
            self._tables.ledger.put(
                {
                    r.shard.name: LedgerEntry(
                        stored_address(r.shard.url), r.shard.identity, BEGUN, table_version=version
                    )
                    for r in (*known, *parts)
                }
            )
            self._tables.sync("shards.lance")
        none = CarriedLabels()
        self.open.update({r.shard.name: none for r in parts})
        if known:
            self._forget([r.shard.name for r in known])
        self.open.update({name: self._resumable.pop(name) for name in resumed})
        return [r.shard.name for r in first if r.shard.name not in resumed]

    def _forget(self, names: list[str]) -> None:
        """Delete the rows of these begun shards' former content, and keep their labels for the new rows."""
        labels, hashes, store = CarriedLabels(), [np.empty(0, np.int64)], self._tables.store
        own, filters = label_columns(store), self._rows.filters(names)
        for where in filters if own or self._keys.learnt else ():
            for batch in store.scan([*CarriedLabels.COLUMNS, *own], where):
                labels.add(batch, own)
                if self._keys.learnt:
                    hashes.append(key_hashes(batch.column("key").to_pylist()))
        for where in filters:
            dataset = store._dataset
            with committing(dataset):
                dataset.delete(where, conflict_retries=0)
        self._tables.sync("lance")
        store.refresh()
        self._keys.replaced.difference_update(names)  # rows of these shards are new ones from now on
        self._rows.forget(names)
        self._keys.discard(np.concatenate(hashes))
        self.open.update({name: labels for name in names})

    def _left_by_earlier_writers(self) -> dict[str, CarriedLabels]:
        """The shards that are begun, with the labels of their deleted rows in the version before."""
        store, labels = self._tables.store, CarriedLabels()
        begun = {name: entry for name, entry in self._tables.ledger.entries.items() if entry.status == BEGUN}
        for version in sorted({entry.table_version for entry in begun.values()}):
            with suppress(StoreError):  # cleaned up since: those labels are lost
                old = store.at(version)
                for chunk in chunks([name for name, entry in begun.items() if entry.table_version == version]):
                    own = label_columns(old)
                    where = f"shard IN ({', '.join(map(quoted, chunk))})"
                    for batch in old.scan([*CarriedLabels.COLUMNS, *own], where) if own else ():
                        labels.add(batch, own)
        if len(labels):
            for where in self._rows.filters(begun):
                for batch in store.scan(["key", "content"], where):
                    labels.use(batch)
        return dict.fromkeys(begun, labels)
