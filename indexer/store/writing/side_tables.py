"""The writer's side tables of a table of embeddings: the ledger of shards, and the failures."""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from indexer.addresses import join
from indexer.remote.objects import is_prefix
from indexer.store.filters import quoted
from indexer.store.holding.commits import committing
from indexer.store.lance_calls import append, chunks, delete, open_or_create
from indexer.store.mend import exists
from indexer.store.rows import batches
from indexer.store.schema import FAILURE_SCHEMA, LEDGER_SCHEMA, failures_table, side_schema
from indexer.store.table import EmbeddingStore
from indexer.types import Failure, ShardResult

BEGUN = "begun"  # some parts of the shard are stored and more follow; with any other status the shard is complete
RETRIED = "stage IN ('decode', 'encode') OR reason = 'unreadable file'"  # other failures stay until their shard changes


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """The ledger row of one shard."""

    url: str  # without passwords and signatures
    identity: str
    status: str  # done | partial | begun
    samples: int = 0
    embedded: int = 0  # rows; 0 while begun, as are samples and failed
    failed: int = 0
    table_version: int = 0  # of the main table once the shard was complete; while begun: before its first row
    adopted: int = 0  # images that were in the table under another shard, with the same bytes


class Ledger:
    """The ledger of the table with this identity, open for its writer.

    `entries` has its rows by shard name, about 500 bytes a shard.
    """

    def __init__(self, path: str, identity: str) -> None:
        self.dataset = open_or_create(path, side_schema(LEDGER_SCHEMA, identity))
        self.entries: dict[str, LedgerEntry] = {}
        columns = ["shard", *LedgerEntry.__dataclass_fields__]
        for batch in batches(self.dataset, columns):
            for name, *facts in zip(*(batch.column(c).to_pylist() for c in columns), strict=True):
                self.entries[name] = LedgerEntry(*facts)

    @property
    def counted_version(self) -> int:
        """The highest table version in an entry: rows created up to it are counted, or of a begun shard."""
        return max((entry.table_version for entry in self.entries.values()), default=0)

    def put(self, entries: Mapping[str, LedgerEntry]) -> None:
        """Insert or replace these rows, by shard name, in one commit."""
        if not entries:
            return
        now = datetime.datetime.now(datetime.UTC)
        facts = [{"shard": name, **_fields(entry), "finished_at": now} for name, entry in entries.items()]
        table = pa.Table.from_pylist(facts, schema=LEDGER_SCHEMA)
        if entries.keys() & self.entries.keys():
            with committing(self.dataset):  # one atomic commit: a crash leaves either the old rows or the new ones
                upsert = self.dataset.merge_insert("shard").when_matched_update_all().when_not_matched_insert_all()
                upsert.conflict_retries(0).execute(table)
        else:
            self.dataset = append(self.dataset, table)
        self.entries.update(entries)

    def drop(self, names: Sequence[str]) -> bool:
        """Delete these rows; returns whether there were any."""
        for name in names:
            self.entries.pop(name, None)
        return delete(self.dataset, "shard", names)


def entries_of(store: EmbeddingStore) -> dict[str, LedgerEntry]:
    """The ledger's newest rows by shard name, for a process that does not hold the table's lock."""
    address = join(store.uri, f"{store.name}.shards.lance")
    there = exists(Path(address)) if store.path is not None else is_prefix(address)
    columns = LedgerEntry.__dataclass_fields__
    rows = store.ledger().select(["shard", *columns]).to_pylist() if there else []
    return {row.pop("shard"): LedgerEntry(**row) for row in rows}


def lost_shards(entries: Mapping[str, LedgerEntry], rows: Counter[str], failures: Counter[str]) -> list[str]:
    """Shards with fewer rows plus failures than the ledger counts: a version that held them was rolled back."""
    return [
        name
        for name, entry in entries.items()
        if entry.status != BEGUN and rows[name] + failures[name] < entry.embedded + entry.failed
    ]


def recounted(
    entries: Mapping[str, LedgerEntry], rows: Counter[str], failures: Counter[str], version: int
) -> dict[str, LedgerEntry]:
    """The entries that need correction, with correct counts and no version above the table's.

    A retry killed between two writes leaves rows that the ledger does not count, or a sample counted twice, as a row
    and as the failure that the next retry drops.
    """
    changed: dict[str, LedgerEntry] = {}
    for name, entry in entries.items():
        if entry.status == BEGUN:
            continue
        counts = rows[name], failures[name]
        more = sum(counts) >= entry.embedded + entry.failed or rows[name] >= entry.embedded
        if (more and counts != (entry.embedded, entry.failed)) or entry.table_version > version:
            known = counts if more else (entry.embedded, entry.failed)
            changed[name] = replace(entry, embedded=known[0], failed=known[1], table_version=version)
    return changed


def _fields(entry: LedgerEntry) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in LedgerEntry.__dataclass_fields__}


class FailureTable:
    """The failures of the table with this identity, open for its writer; `counts` has their number by shard."""

    def __init__(self, path: str, identity: str) -> None:
        self.dataset = open_or_create(path, side_schema(FAILURE_SCHEMA, identity))
        self.counts: Counter[str] = Counter()
        for batch in batches(self.dataset, ["shard"]):
            for count in pc.value_counts(batch.column("shard")):
                self.counts[count["values"].as_py()] += count["counts"].as_py()

    def append(self, failures: Sequence[Failure]) -> bool:
        """Append failures in one commit; returns whether there were any."""
        if failures:
            self.dataset = append(self.dataset, failures_table(failures))
            self.counts.update(f.shard for f in failures)
        return bool(failures)

    @property
    def columns(self) -> pa.Schema:
        return self.dataset.schema

    def append_rows(self, rows: pa.Table) -> bool:
        """Add rows of `columns` in one commit; whether there were any."""
        if rows.num_rows:
            self.dataset = append(self.dataset, rows)
            self.counts.update(rows.column("shard").to_pylist())
        return bool(rows.num_rows)

    def of(self, shards: Sequence[str]) -> pa.Table:
        """All failures of these shards."""
        known = [name for name in shards if self.counts[name]]
        parts = [self.dataset.to_table(filter=f"shard IN ({', '.join(map(quoted, chunk))})") for chunk in chunks(known)]
        return pa.concat_tables(parts) if parts else self.columns.empty_table()

    def of_keys(self, keys: Collection[str]) -> list[tuple[int, str, str]]:
        """(row id, shard, key) of the failures with these keys."""
        found: list[tuple[int, str, str]] = []
        for batch in batches(self.dataset, ["shard", "key"], with_row_id=True):
            columns = (batch.column(name).to_pylist() for name in ("_rowid", "shard", "key"))
            found += [row for row in zip(*columns, strict=True) if row[2] in keys]
        return found

    def drop(self, shards: Iterable[str]) -> bool:
        """Delete all failures of these shards; returns whether there were any."""
        known = [name for name in shards if self.counts[name]]
        for name in known:
            del self.counts[name]
        return delete(self.dataset, "shard", known)

    def retried(self, results: Sequence[ShardResult]) -> list[tuple[int, str]]:
        """(row id, shard) of each failure that these results of a retry replace, from one scan."""
        keys: dict[str, set[str]] = {}
        for result in results:
            own = keys.setdefault(result.shard.name, set())
            own.update(row.key for b in result.batches for row in b.rows)
            own.update(f.key for f in result.failures)
        found: list[tuple[int, str]] = []
        for chunk in chunks(list(keys)):
            where = f"shard IN ({', '.join(map(quoted, chunk))}) AND ({RETRIED})"
            for batch in batches(self.dataset, ["key", "shard"], where, with_row_id=True):
                columns = (batch.column(name).to_pylist() for name in ("_rowid", "key", "shard"))
                found += [(i, shard) for i, key, shard in zip(*columns, strict=True) if key in keys[shard]]
        return found

    def drop_rows(self, rows: Sequence[tuple[int, str]]) -> None:
        """Delete failures by (row id, shard)."""
        for chunk in chunks(rows):
            with committing(self.dataset):
                self.dataset.delete(f"_rowid IN ({', '.join(str(i) for i, _ in chunk)})", conflict_retries=0)
        self.counts.subtract(shard for _, shard in rows)
        self.counts += Counter()  # removes zero counts
