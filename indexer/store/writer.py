"""Writing a table: exactly once by shard.

A commit group is written in this order, so that a crash after any step leaves a state the next run mends:
1. replaced shards lose their ledger row, then their rows; 2. the group's former failures go, its failures come;
3. ONE append holds all rows of the group; 4. the ledger rows say "done". Each step is on the disk before the next
begins. Rows of a shard without a ledger row are what a crash between 3 and 4 left: they are deleted before anything
is embedded again.
"""

from __future__ import annotations

import datetime
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from indexer.disk import DiskSync
from indexer.redact import redacted
from indexer.store.keys import TableKeys
from indexer.store.lance_calls import append, chunks, delete, open_or_create, require_whole
from indexer.store.lance_errors import writing
from indexer.store.mend import mend, taken_back
from indexer.store.migrate import migrate
from indexer.store.schema import FAILURE_SCHEMA, LEDGER_SCHEMA, failures_table, rows_table, side_schema
from indexer.store.table import EmbeddingStore, join, quoted, vector_block
from indexer.types import EmbeddingBatch, Failure, Float16, ShardResult

COMPACT_FRAGMENTS = 64  # small fragments gathered before they are merged; readers slow down past ~100
RUN_FRAGMENTS = 8  # left as they are at the end of a run: merging rewrites up to a million rows
MERGE = {  # pages are copied as they are where that can be done: a sixth of the memory, a quarter of the time
    "target_rows_per_fragment": 1_048_576,
    "compaction_mode": "try_binary_copy",
    "batch_size": 1024,
    "num_threads": 1,
}
RETRIED = "stage IN ('decode', 'encode') OR reason = 'unreadable file'"  # others stay until their shard changes
KEEP_VERSIONS = datetime.timedelta(days=1)


@dataclass(frozen=True)
class LedgerEntry:
    """What the ledger says of one shard."""

    url: str
    identity: str
    status: str  # done | partial


@dataclass(frozen=True)
class Committed:
    """What one commit group wrote."""

    embedded: int
    duplicates: int
    failures: tuple[Failure, ...]
    columns_skipped: Counter[str]


class StoreWriter:
    """The one writer of a table. A context manager: it holds the table's lock."""

    def __init__(self, store: EmbeddingStore) -> None:
        self.store = store
        self._keys = TableKeys(store)
        self._disk = DiskSync()
        self._held = ExitStack()

    def __enter__(self) -> StoreWriter:
        with ExitStack() as stack:
            held = stack.enter_context(self.store.lock())
            self._disk = DiskSync(held.synced_until if held else 0.0)
            broken = self._mend()
            self.renamed = migrate(self.store.uri, self.store.name)
            self.store.refresh()
            identity = self.store.state.identity
            self._ledger = open_or_create(self._path("shards"), side_schema(LEDGER_SCHEMA, identity))
            self._failures = open_or_create(self._path("failures"), side_schema(FAILURE_SCHEMA, identity))
            self._sync("lance", "shards.lance", "failures.lance")
            if held:
                held.synced_until = time.time()
            self.entries = _entries(self._ledger)
            self.recovered = self._recover(mended=bool(broken))
            for manifest in broken:
                manifest.unlink(missing_ok=True)
            self._held = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._held.__exit__(kind, error, tb)

    def commit(self, results: Sequence[ShardResult]) -> Committed:
        """Write a group of shards. Rows whose key the table already holds become failures."""
        replaced = [r.shard.name for r in results if r.replaces]
        if replaced:
            self._forget(replaced)
        batches, duplicates = self._keys.without_duplicates(results)
        failures = [f for r in results for f in r.failures] + duplicates
        names = [r.shard.name for r in results]
        changed = delete(self._failures, "shard", names)
        if failures:
            self._failures = append(self._failures, failures_table(failures))
        if failures or changed:
            self._sync("failures.lance")
        rows, skipped = self._append_rows([b for batches_of in batches for b in batches_of])
        self._write_ledger(results, batches, failures)
        return Committed(rows, len(duplicates), tuple(failures), skipped)

    def commit_retry(self, results: Sequence[ShardResult]) -> Committed:
        """Add rows that failed before to shards that are done, and put what failed again in place of the old failures.

        What is new comes first, so that a crash in between loses no name: the next retry finds rows that are in the
        table, or failures beside their older copies, and drops the older.
        """
        batches, duplicates = self._keys.without_duplicates(results)
        old = [row_id for result in results for row_id in self._retried(result)]
        told = [f for r in results for f in r.failures]  # also that a shard breaks off, which is stored already
        failures = [f for f in told if f.stage != "read"] + (others := self._keys.of_others(duplicates))
        rows, skipped = self._append_rows([b for own in batches for b in own])
        if failures:
            self._failures = append(self._failures, failures_table(failures))
            self._sync("failures.lance")
        for chunk in chunks(old):
            with writing(self._failures.uri):
                self._failures.delete(f"_rowid IN ({', '.join(map(str, chunk))})")
        self._sync("failures.lance")
        for result in results:  # counted, not added up: a retry that died may have stored some of the rows
            where = f"shard = {quoted(result.shard.name)}"
            self._count(result.shard.name, self.store.count(where), self._failures.count_rows(filter=where))
        self._sync("shards.lance")
        return Committed(rows, len(others), (*told, *others), skipped)

    def vectors_by_content(self, shard: str) -> dict[str, dict[str, tuple[Float16, float]]]:
        """Content hash → part's name → unit vector and norm, of a shard's rows. Any thread may call it."""
        known: dict[str, dict[str, tuple[Float16, float]]] = {}
        store = EmbeddingStore.open(self.store.uri, self.store.name)  # Lance reads by no handle that commits just now
        for batch in store.scan(["content", "part", "norm"], f"shard = {quoted(shard)}", vectors=True):
            vectors = vector_block(batch)
            rows = zip(*(batch.column(c).to_pylist() for c in ("content", "part", "norm")), strict=True)
            for i, (content, part, norm) in enumerate(rows):
                known.setdefault(content, {}).setdefault(
                    part, (vectors[i].copy(), norm)
                )  # of two equal files the first
        return known

    def tidy_when_due(self) -> None:
        """Merge small fragments once there are many: readers slow down past about a hundred."""
        self._compact(COMPACT_FRAGMENTS)

    def tidy(self) -> None:
        """At the end of a run, when no commit waits for it."""
        self._compact(RUN_FRAGMENTS)

    def optimize(self) -> None:
        """Merge fragments whatever their number, and drop old versions that no tag holds."""
        self._compact(0)

    def _compact(self, most: int) -> None:
        """Merge the fragments of each table that has more; drop versions older than a day that no tag holds."""
        tables = {"lance": self.store._dataset, "shards.lance": self._ledger, "failures.lance": self._failures}
        for kind, dataset in tables.items():
            if len(dataset.get_fragments()) > most:
                with writing(f"table {self.store.name}, whose fragments were to be merged,"):
                    dataset.optimize.compact_files(**MERGE)
                self._sync(kind)  # the merged files are on the disk before those they stand for go
                with writing(f"table {self.store.name}, whose old versions were to go,"):
                    dataset.cleanup_old_versions(older_than=KEEP_VERSIONS, error_if_tagged_old_versions=False)
        self.store.refresh()

    def _path(self, kind: str) -> str:
        return join(self.store.uri, f"{self.store.name}.{kind}.lance")

    def _mend(self) -> list[Path]:
        """Take back what a power failure broke of the three tables; what is left of it, also of a former mending."""
        if self.store.path is None:
            return []
        tables = [self.store.path, Path(self._path("shards")), Path(self._path("failures"))]
        for table in tables:
            mend(table)
        return [manifest for table in tables for manifest in taken_back(table)]

    def _sync(self, *kinds: str) -> None:
        if self.store.path is None:
            return
        with writing(f"table {self.store.name}"):
            for kind in kinds:
                path = Path(self.store.uri) / f"{self.store.name}.{kind}"
                self._disk.sync(path)
                require_whole(path)

    def _recover(self, *, mended: bool) -> int:
        """Delete rows and failures that a crash left without a ledger row, and learn the keys of all others."""
        rows: Counter[str] = Counter()
        for batch in self.store.scan(["key", "shard"]):
            for count in pc.value_counts(batch.column("shard")):
                rows[count["values"].as_py()] += count["counts"].as_py()
            self._keys.add(batch.column("key").to_pylist())
        self._reckon(rows, mended=mended)
        strays = set(self._failures.to_table(columns=["shard"]).column("shard").unique().to_pylist())
        if delete(self._failures, "shard", sorted(strays - self.entries.keys())):
            self._sync("failures.lance")
        orphans = sorted(rows.keys() - self.entries.keys())
        if orphans:
            delete(self.store._dataset, "shard", orphans)
            self._sync("lance")
            self.store.refresh()
            self._keys.relearn()
        return sum(rows[name] for name in orphans)

    def _reckon(self, rows: Counter[str], *, mended: bool) -> None:
        """Bring the ledger in line with what is there.

        A retry that died between two writes leaves rows that its ledger rows do not count, or counts a sample twice, as
        a row and as the failure that the next retry drops. Where a version was taken back, a shard that has fewer rows
        and failures than its ledger row says is not done.
        """
        failures = Counter(self._failures.to_table(columns=["shard"]).column("shard").to_pylist())
        lost: list[str] = []
        changed = False
        for entry in self._ledger.to_table(columns=["shard", "embedded", "failed"]).to_pylist():
            name, said = entry["shard"], entry["embedded"] + entry["failed"]
            counts = rows[name], failures[name]
            found = sum(counts)
            if found < said and mended:
                lost.append(name)
            elif (found >= said or rows[name] >= entry["embedded"]) and counts != (entry["embedded"], entry["failed"]):
                self._count(name, *counts)
                changed = True
        if delete(self._ledger, "shard", lost) or changed:
            self._sync("shards.lance")
        for name in lost:
            del self.entries[name]

    def _retried(self, result: ShardResult) -> list[int]:
        """Row ids of the failures that this result stands in for."""
        keys = {row.key for b in result.batches for row in b.rows} | {f.key for f in result.failures}
        found = self._failures.to_table(
            columns=["key"], filter=f"shard = {quoted(result.shard.name)} AND ({RETRIED})", with_row_id=True
        ).to_pydict()
        return [row_id for key, row_id in zip(found["key"], found["_rowid"], strict=True) if key in keys]

    def _count(self, shard: str, embedded: int, failed: int) -> None:
        with writing(f"the ledger of table {self.store.name}"):
            counts = {"embedded": str(embedded), "failed": str(failed)}
            self._ledger.update(counts, where=f"shard = {quoted(shard)}")

    def _forget(self, names: list[str]) -> None:
        delete(self._ledger, "shard", names)
        self._sync("shards.lance")
        keys = [
            key
            for chunk in chunks(names)
            for batch in self.store.scan(["key"], f"shard IN ({', '.join(map(quoted, chunk))})")
            for key in batch.column("key").to_pylist()
        ]
        delete(self.store._dataset, "shard", names)
        self._sync("lance")
        self.store.refresh()
        self._keys.discard(keys)

    def _append_rows(self, batches: list[EmbeddingBatch]) -> tuple[int, Counter[str]]:
        if not any(b.rows for b in batches):
            return 0, Counter()
        dataset = self.store._dataset
        table, extra, skipped = rows_table(batches, dataset.schema)
        if extra:  # a column of nulls is metadata only; no row is rewritten
            with writing(f"table {self.store.name}"):
                dataset.add_columns(pa.schema(extra))
        append(dataset, table)
        self._sync("lance")
        self.store.refresh()
        self._keys.add(table.column("key").to_pylist())
        return table.num_rows, skipped

    def _write_ledger(
        self, results: Sequence[ShardResult], batches: list[list[EmbeddingBatch]], failures: list[Failure]
    ) -> None:
        failed = Counter(f.shard for f in failures)
        names = [r.shard.name for r in results]
        delete(self._ledger, "shard", [n for n in names if n in self.entries])
        columns: dict[str, Any] = {
            "shard": names,
            "url": [redacted(r.shard.url) for r in results],
            "identity": [r.shard.identity for r in results],
            "status": ["partial" if r.partial else "done" for r in results],
            "samples": [r.samples for r in results],
            "embedded": [sum(len(b.rows) for b in own) for own in batches],
            "failed": [failed[n] for n in names],
            "table_version": [self.store.version] * len(results),
            "finished_at": [datetime.datetime.now(datetime.UTC)] * len(results),
        }
        self._ledger = append(self._ledger, pa.table(columns, schema=LEDGER_SCHEMA))
        self._sync("shards.lance")
        for r, status in zip(results, columns["status"], strict=True):
            self.entries[r.shard.name] = LedgerEntry(r.shard.url, r.shard.identity, status)


def _entries(ledger: Any) -> dict[str, LedgerEntry]:
    rows = ledger.to_table(columns=["shard", "url", "identity", "status"]).to_pylist()
    return {r["shard"]: LedgerEntry(r["url"], r["identity"], r["status"]) for r in rows}
