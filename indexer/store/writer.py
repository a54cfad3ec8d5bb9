"""Writing a table: exactly once by shard.

A commit group is written in this order, so that a crash after any step leaves a state the next run mends:
1. replaced shards lose their ledger row, then their rows; 2. the group's former failures go, its failures come;
3. ONE append holds all rows of the group; 4. the ledger rows say "done". Rows of a shard without a ledger row are
what a crash between 3 and 4 left: `recover` deletes them before anything is embedded again.
"""

from __future__ import annotations

import datetime
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from indexer.errors import StoreError
from indexer.store.lock import WriterLock
from indexer.store.schema import FAILURE_SCHEMA, LEDGER_SCHEMA, failures_table, rows_table
from indexer.store.store import EmbeddingStore, is_remote, join, quoted, vector_block
from indexer.types import EmbeddingBatch, Failure, Float16, ShardResult

COMPACT_FRAGMENTS = 64  # small fragments gathered before they are merged; readers slow down past ~100
RUN_FRAGMENTS = 8  # left as they are at the end of a run: merging rewrites up to a million rows
ROWS_PER_FRAGMENT = 1_048_576
KEEP_VERSIONS = datetime.timedelta(days=1)
IN_LIST = 500  # names in one SQL list


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
        self._lock = (
            None
            if is_remote(store.uri)
            else WriterLock(Path(store.uri) / f"{store.name}.lock", what=f"table {store.name} in {store.uri}")
        )
        self._keys = KeySet()

    def __enter__(self) -> StoreWriter:
        if self._lock:
            self._lock.__enter__()
        try:
            self.store.refresh()
            self._ledger = _open_or_create(self._path("shards"), LEDGER_SCHEMA)
            self._failures = _open_or_create(self._path("failures"), FAILURE_SCHEMA)
            self.entries = _entries(self._ledger)
            self.recovered = self._recover()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._lock:
            self._lock.__exit__(kind, error, tb)

    def commit(self, results: Sequence[ShardResult]) -> Committed:
        """Write a group of shards. Rows whose key the table already holds become failures."""
        replaced = [r.shard.name for r in results if r.replaces]
        if replaced:
            self._forget(replaced)
        batches, duplicates = self._without_duplicates(results)
        failures = [f for r in results for f in r.failures] + duplicates
        names = [r.shard.name for r in results]
        _delete(self._failures, "shard", names)
        if failures:
            self._failures = lance.write_dataset(failures_table(failures), self._failures, mode="append")
        rows, skipped = self._append([b for batches_of in batches for b in batches_of])
        self._write_ledger(results, batches, failures)
        return Committed(rows, len(duplicates), tuple(failures), skipped)

    def commit_retry(self, results: Sequence[ShardResult]) -> Committed:
        """Add rows that failed before to shards that are done, and put what failed again in place of the old failures.

        Rows come first: a crash in between leaves failures whose key is in the table, and the next retry drops them.
        """
        batches, _ = self._without_duplicates(results)
        rows, skipped = self._append([b for own in batches for b in own])
        for result in results:
            keys = [row.key for b in result.batches for row in b.rows] + [f.key for f in result.failures]
            for chunk in _chunks(keys):
                listed = ", ".join(map(quoted, chunk))
                self._failures.delete(f"shard = {quoted(result.shard.name)} AND stage <> 'store' AND key IN ({listed})")
        failures = [f for r in results for f in r.failures]
        if failures:
            self._failures = lance.write_dataset(failures_table(failures), self._failures, mode="append")
        for result, own in zip(results, batches, strict=True):
            better = sum(len(b.rows) for b in own)
            where = f"shard = {quoted(result.shard.name)}"
            if better:
                self._ledger.update({"embedded": f"embedded + {better}", "failed": f"failed - {better}"}, where=where)
        return Committed(rows, 0, tuple(failures), skipped)

    def vectors_by_content(self, shard: str) -> dict[str, list[tuple[int, Float16, float]]]:
        """Content hash → (frame, unit vector, norm) of a shard's rows: the same bytes are not embedded again."""
        known: dict[str, list[tuple[int, Float16, float]]] = {}
        for batch in self.store.scan(["content", "frame", "norm"], f"shard = {quoted(shard)}", vectors=True):
            vectors = vector_block(batch)
            rows = zip(*(batch.column(c).to_pylist() for c in ("content", "frame", "norm")), strict=True)
            for i, (content, frame, norm) in enumerate(rows):
                frames = known.setdefault(content, [])
                if all(frame != seen for seen, _, _ in frames):  # two files of the same bytes are one vector
                    frames.append((frame, vectors[i].copy(), norm))
        return known

    def tidy_when_due(self) -> None:
        """Merge small fragments once there are many: readers slow down past about a hundred."""
        for dataset in (self.store._dataset, self._ledger, self._failures):
            if len(dataset.get_fragments()) > COMPACT_FRAGMENTS:
                _compact(dataset)
        self.store.refresh()

    def tidy(self) -> None:
        """At the end of a run, when no commit waits for it."""
        for dataset in (self.store._dataset, self._ledger, self._failures):
            if len(dataset.get_fragments()) > RUN_FRAGMENTS:
                _compact(dataset)
        self.store.refresh()

    def optimize(self) -> None:
        """Merge fragments whatever their number, and drop old versions that no tag holds."""
        for dataset in (self.store._dataset, self._ledger, self._failures):
            _compact(dataset)
        self.store.refresh()

    def _path(self, kind: str) -> str:
        return join(self.store.uri, f"{self.store.name}.{kind}.lance")

    def _recover(self) -> int:
        """Delete rows that a crash left without a ledger row, and learn the keys of all others."""
        orphans: set[str] = set()
        for batch in self.store.scan(["key", "shard"]):
            shards = batch.column("shard")
            orphans.update(name for name in shards.unique().to_pylist() if name not in self.entries)
            self._keys.add(batch.column("key").to_pylist())
        if not orphans:
            return 0
        rows = self.store.count()
        _delete(self.store._dataset, "shard", sorted(orphans))
        self.store.refresh()
        self._relearn_keys()
        return rows - self.store.count()

    def _relearn_keys(self) -> None:
        self._keys = KeySet()
        for batch in self.store.scan(["key"]):
            self._keys.add(batch.column("key").to_pylist())

    def _forget(self, names: list[str]) -> None:
        _delete(self._ledger, "shard", names)
        keys = [
            key
            for chunk in _chunks(names)
            for batch in self.store.scan(["key"], f"shard IN ({', '.join(map(quoted, chunk))})")
            for key in batch.column("key").to_pylist()
        ]
        _delete(self.store._dataset, "shard", names)
        self.store.refresh()
        self._keys.discard(keys)

    def _without_duplicates(self, results: Sequence[ShardResult]) -> tuple[list[list[EmbeddingBatch]], list[Failure]]:
        suspects = self._keys.suspects([row.key for r in results for b in r.batches for row in b.rows])
        taken = self._stored_keys(suspects)
        kept: list[list[EmbeddingBatch]] = []
        duplicates: list[Failure] = []
        for result in results:
            own: list[EmbeddingBatch] = []
            for batch in result.batches:
                good = []
                for i, row in enumerate(batch.rows):
                    if row.key in taken:
                        p = row.place
                        detail = f"key {row.key!r} is in the table already"
                        duplicates.append(
                            Failure(
                                p.shard,
                                row.key,
                                "store",
                                "duplicate key",
                                detail,
                                p.offset,
                                p.nbytes,
                                p.suffix,
                                p.member,
                            )
                        )
                    else:
                        if row.key in suspects:
                            taken.add(row.key)
                        good.append(i)
                if len(good) < len(batch.rows):
                    batch = EmbeddingBatch(tuple(batch.rows[i] for i in good), batch.vectors[good], batch.norms[good])
                own.append(batch)
            kept.append(own)
        return kept, duplicates

    def _stored_keys(self, suspects: set[str]) -> set[str]:
        """Which of the suspects (equal hashes) really are in the table."""
        found: set[str] = set()
        for chunk in _chunks(sorted(suspects)):
            for batch in self.store.scan(["key"], f"key IN ({', '.join(map(quoted, chunk))})"):
                found.update(batch.column("key").to_pylist())
        return found

    def _append(self, batches: list[EmbeddingBatch]) -> tuple[int, Counter[str]]:
        if not any(b.rows for b in batches):
            return 0, Counter()
        dataset = self.store._dataset
        table, extra, skipped = rows_table(batches, dataset.schema)
        if extra:  # a column of nulls is metadata only; no row is rewritten
            dataset.add_columns(pa.schema(extra))
        lance.write_dataset(table, dataset, mode="append")
        self.store.refresh()
        self._keys.add(table.column("key").to_pylist())
        return table.num_rows, skipped

    def _write_ledger(
        self, results: Sequence[ShardResult], batches: list[list[EmbeddingBatch]], failures: list[Failure]
    ) -> None:
        failed = Counter(f.shard for f in failures)
        names = [r.shard.name for r in results]
        _delete(self._ledger, "shard", [n for n in names if n in self.entries])
        columns: dict[str, Any] = {
            "shard": names,
            "url": [r.shard.url for r in results],
            "identity": [r.shard.identity for r in results],
            "status": ["partial" if r.partial else "done" for r in results],
            "samples": [r.samples for r in results],
            "embedded": [sum(len(b.rows) for b in own) for own in batches],
            "failed": [failed[n] for n in names],
            "table_version": [self.store.version] * len(results),
            "finished_at": [datetime.datetime.now(datetime.UTC)] * len(results),
        }
        self._ledger = lance.write_dataset(pa.table(columns, schema=LEDGER_SCHEMA), self._ledger, mode="append")
        for r, status in zip(results, columns["status"], strict=True):
            self.entries[r.shard.name] = LedgerEntry(r.shard.url, r.shard.identity, status)


class KeySet:
    """The keys of a table as 8 bytes each: 40 million take 320 MB. Equal hashes are only a suspicion."""

    MERGE = 1 << 20

    def __init__(self) -> None:
        self._sorted = np.empty(0, np.int64)
        self._recent: set[int] = set()

    def add(self, keys: Iterable[str]) -> None:
        self._recent.update(map(hash, keys))
        if len(self._recent) >= self.MERGE:
            recent = np.fromiter(self._recent, np.int64, len(self._recent))
            self._sorted = np.union1d(self._sorted, recent)
            self._recent = set()

    def discard(self, keys: Iterable[str]) -> None:
        gone = np.fromiter(map(hash, keys), np.int64)
        self._recent.difference_update(gone.tolist())
        self._sorted = np.setdiff1d(self._sorted, gone, assume_unique=True)

    def suspects(self, keys: Sequence[str]) -> set[str]:
        """Keys whose hash is known, or that occur twice in `keys`."""
        hashes = np.fromiter(map(hash, keys), np.int64, len(keys))
        spots = np.searchsorted(self._sorted, hashes)
        known = np.zeros(len(keys), bool)
        if len(self._sorted):
            known = self._sorted[np.minimum(spots, len(self._sorted) - 1)] == hashes
        twice = {key for key, n in Counter(keys).items() if n > 1}
        return twice | {k for k, h, old in zip(keys, hashes.tolist(), known, strict=True) if old or h in self._recent}


def _open_or_create(path: str, schema: pa.Schema) -> Any:
    try:
        return lance.dataset(path)
    except (ValueError, OSError) as error:
        if "not found" not in str(error).lower():
            raise StoreError(f"{path} cannot be opened: {str(error).splitlines()[0]}") from error
        return lance.write_dataset(schema.empty_table(), path, schema=schema)


def _compact(dataset: Any) -> None:
    """Merge small fragments; drop versions older than a day that no tag holds."""
    dataset.optimize.compact_files(target_rows_per_fragment=ROWS_PER_FRAGMENT)
    dataset.cleanup_old_versions(older_than=KEEP_VERSIONS, error_if_tagged_old_versions=False)


def _entries(ledger: Any) -> dict[str, LedgerEntry]:
    rows = ledger.to_table(columns=["shard", "url", "identity", "status"]).to_pylist()
    return {r["shard"]: LedgerEntry(r["url"], r["identity"], r["status"]) for r in rows}


def _delete(dataset: Any, column: str, values: Sequence[str]) -> None:
    for chunk in _chunks(values):
        where = f"{column} IN ({', '.join(map(quoted, chunk))})"
        if dataset.count_rows(filter=where):  # an empty delete would still be a version
            dataset.delete(where)


def _chunks(values: Sequence[str]) -> Iterable[Sequence[str]]:
    return (values[i : i + IN_LIST] for i in range(0, len(values), IN_LIST))
