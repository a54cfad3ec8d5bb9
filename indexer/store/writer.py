"""Writes a table: every row exactly once, by shard.

A commit group is written in this order, so that the next writer can recover from a crash after any step:
1. a shard that is replaced, or comes in several parts, gets a ledger row "begun" with its new identity and the
   table's version; then the rows of its former content are deleted;
2. the group's former failures are deleted and its failures appended;
3. one append adds all rows of the group;
4. one commit of the ledger sets every complete shard to "done" or "partial".
Each step is synced to the disk before the next begins.

Recovery of the next writer on opening:
- rows of a shard without a ledger row (a crash between 3 and 4) are deleted, since they may be incomplete;
- a begun shard keeps its rows (each append is atomic), except those older than its "begun" (former content). `stored`
  names its samples, so that only the others are embedded; failures of those others are deleted, since they will be
  reported again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from indexer.addresses import join
from indexer.disk import DiskSync
from indexer.errors import StoreError
from indexer.redact import stored_address
from indexer.store.formats.migrate import migrate
from indexer.store.holding.commits import committing
from indexer.store.lance_calls import append, require_whole
from indexer.store.lance_errors import writing
from indexer.store.mend import lost_by, mend, rolled_back
from indexer.store.schema import rows_table
from indexer.store.table import EmbeddingStore
from indexer.store.writing import compaction, gone
from indexer.store.writing.begun import BegunShards
from indexer.store.writing.carried import CarriedLabels
from indexer.store.writing.compactor import Compactor
from indexer.store.writing.deleted import Doomed, Tombstones, delete_images
from indexer.store.writing.held import HeldElsewhere
from indexer.store.writing.keys import SamplesOfShard, ShardRows, TableKeys
from indexer.store.writing.moved import NewAddress, move
from indexer.store.writing.recovery import Tables, recover
from indexer.store.writing.side_tables import BEGUN, FailureTable, Ledger, LedgerEntry, recounted
from indexer.types import UNREAD, EmbeddingBatch, Failure, Float16, Int64, ShardResult


@dataclass(frozen=True)
class Committed:
    """Counts of one commit group."""

    embedded: int
    duplicates: int
    failures: tuple[Failure, ...]
    columns_skipped: Counter[str]
    labels_kept: int = 0  # rows of replaced shards whose labels were copied to the new row of the same key and content
    labels_lost: int = 0  # labelled rows of replaced shards that have no such new row
    adopted: int = 0  # images of complete shards that the table has under another shard
    unread: int = 0  # shards that are to be read again: images they adopted may have gone with a replaced shard


@dataclass(frozen=True)
class _Completed:
    """Of the shards that a commit completed."""

    labels_lost: int
    adopted: int
    unread: int


class StoreWriter:
    """The only writer of a table; a context manager that holds the table's lock."""

    def __init__(self, store: EmbeddingStore) -> None:
        self.store = store
        self._held = ExitStack()

    def __enter__(self) -> StoreWriter:
        with ExitStack() as stack:
            held = stack.enter_context(self.store.lock())
            self.notes = held.notes  # on the place where the lease is kept
            self._disk, self._whole = DiskSync(held.synced_until), dict[str, set[str]]()
            broken = self._mend()
            self.renamed = migrate(self.store.uri, self.store.name)
            self.store.refresh()
            self._keys, self._rows = TableKeys(self.store), ShardRows(self.store)
            identity = self.store.state.identity
            self._ledger = Ledger(self._path("shards"), identity)
            self._failures = FailureTable(self._path("failures"), identity)
            self._sync("lance", "shards.lance", "failures.lance")
            held.synced_until = time.time()
            self.tombstones = Tombstones(self.store)
            self._adopted = Counter[str]()  # rows, found at a commit, of shards that are not complete
            self._expected = set[str]()
            self._failed = False
            self._tables = Tables(self.store, self._ledger, self._failures, self._sync)
            self._compactor = Compactor(self._tables)
            self.recovered = recover(self._tables, mended=bool(broken))
            self._begun = BegunShards(self._tables, self._rows, self._keys)
            for manifest in broken:
                if manifest.parents[1] == self.store.path and (lost := lost_by(manifest)):
                    self.notes += (f"table {self.store.name}: {lost}",)
                manifest.unlink(missing_ok=True)
            self._held = stack.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._held.__exit__(kind, error, tb)

    @property
    def entries(self) -> dict[str, LedgerEntry]:
        """The ledger, by shard name."""
        return self._ledger.entries

    def commit(self, results: Sequence[ShardResult], labels: CarriedLabels | None = None) -> Committed:
        """Write a group of shards, or parts of shards. Rows whose key the table already holds become failures.

        A part with `more` leaves its shard begun; a part without it completes the shard, with counts taken from the
        tables. A begun shard is continued without `replaces`, and started again with it. `labels` are of rows among
        `results`, in columns that the table has.
        """
        with self._unless_failed():
            return self._commit(results, labels or CarriedLabels())

    def _commit(self, results: Sequence[ShardResult], more_labels: CarriedLabels) -> Committed:
        first = {r.shard.name: r for r in reversed(results) if r.shard.name not in self._begun.open}
        plain = self._begun.begin(list(first.values()))
        unique = self._keys.without_duplicates(results)
        batches, duplicates = unique.batches, unique.duplicates
        self._adopted.update(unique.adopted)
        ours = [f for f in duplicates if f.shard in self._begun.open]
        if ours:  # an image of a begun shard may come twice, before and after a crash
            duplicates = [f for f in duplicates if f.shard not in self._begun.open] + self._keys.of_others(ours)
        failures = [f for r in results for f in r.failures] + duplicates
        changed = self._failures.drop(plain)
        if self._failures.append(failures) or changed:
            self._sync("failures.lance")
        labels = [self._begun.open[r.shard.name] for r in results if r.shard.name in self._begun.open]
        labels.append(more_labels)
        rows, skipped, kept = self._append_rows([b for own in batches for b in own], labels)
        done = self._complete(results, batches, failures)
        return Committed(
            rows, len(duplicates), tuple(failures), skipped, kept, done.labels_lost, done.adopted, done.unread
        )

    def commit_retry(self, results: Sequence[ShardResult]) -> Committed:
        """Add rows of samples that had failed to shards that are done, and replace the old failures of the others.

        New rows and failures are written before the old failures are deleted, so that a crash loses none: the next
        retry drops old failures whose sample has a row or a newer failure.
        """
        with self._unless_failed():
            unique = self._keys.without_duplicates(results)
            batches, duplicates = unique.batches, unique.duplicates
            old = self._failures.retried(results)
            # With those of truncated shards, which are stored already
            failed = [f for r in results for f in r.failures]
            failures = [f for f in failed if f.stage != "read"] + (others := self._keys.of_others(duplicates))
            rows, skipped, _ = self._append_rows([b for own in batches for b in own], [])
            if self._failures.append(failures):
                self._sync("failures.lance")
            self._failures.drop_rows(old)
            self._sync("failures.lance")
            # Counted, since a killed retry may have stored some
            held = self._rows.counts({r.shard.name for r in results})
            entries = {n: replace(e := self.entries[n], adopted=e.adopted + unique.adopted[n]) for n in held}
            self._ledger.put(recounted(entries, held, self._failures.counts, self.store.version))
            self._sync("shards.lance")
            return Committed(rows, len(others), (*failed, *others), skipped, adopted=unique.adopted.total())

    def add_columns(self, fields: Sequence[pa.Field]) -> list[str]:
        """Add columns of nulls; returns their names."""
        if fields:
            with self._unless_failed():
                dataset = self.store._dataset
                with committing(dataset):
                    dataset.add_columns(pa.schema(fields))
                self._sync("lance")
                self.store.refresh()
        return [field.name for field in fields]

    def expect(self, shards: Collection[str], replaced: Collection[str]) -> None:
        """The shards that a run is going to commit, and those of them whose stored rows will be deleted."""
        self._expected = set(shards)
        self._keys.replaced = set(replaced)

    def held_elsewhere(self) -> HeldElsewhere:
        """Which images rows of other shards than the expected ones have."""
        return HeldElsewhere(self.store, self._keys, self._expected)

    def stored(self, shard: str) -> SamplesOfShard:
        """The samples of a begun shard, by (member, offset), that the table holds. Thread-safe."""
        return self._rows.samples(shard)

    def vectors_by_content(self, shard: str) -> dict[str, dict[str, tuple[Float16, float]]]:
        """Content hash → part's name → unit vector and norm, of a shard's rows. Thread-safe."""
        return self._rows.vectors_by_content(shard)

    def move(self, moves: Mapping[str, NewAddress]) -> int:
        """Give shards, by their names, the addresses they have now; how many rows got one. Nothing is embedded."""
        with self._unless_failed():
            return move(self._tables, moves)

    def rows_of(self, shards: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """`_rowid`, `key`, `shard`, `member` and `content` of these shards' rows."""
        return gone.rows_of(self._tables, shards)

    def set_aside(self, keys: Collection[str], name: str, url: str) -> None:
        """Give the rows of these keys to shard `name`, so that they outlive their own one."""
        with self._unless_failed():
            gone.set_aside(self._tables, keys, name, url)
            self._rows.read_again()

    def drop_rows(self, row_ids: Int64) -> None:
        """Delete rows by id."""
        with self._unless_failed():
            gone.drop_rows(self._tables, row_ids)

    def drop_shards(self, names: Sequence[str]) -> None:
        """Delete shards with their rows, failures and ledger rows."""
        with self._unless_failed():
            gone.drop_shards(self._tables, names)

    def failures_of(self, keys: Collection[str]) -> list[tuple[int, str, str]]:
        """(row id, shard, key) of the failures of samples of these keys."""
        return self._failures.of_keys(keys)

    def delete_images(self, doomed: Doomed) -> None:
        """Delete images by request. The receipt, which names them by hash, must be on the disk."""
        with self._unless_failed():
            delete_images(self._tables, doomed)

    def tidy_when_due(self) -> None:
        """Merge small fragments once there are many: more than about a hundred slow readers down."""
        self._compactor.merge(compaction.COMPACT_FRAGMENTS)

    def tidy(self) -> None:
        """Merge small fragments at the end of a run, when no commit has to wait."""
        self._compactor.merge(compaction.RUN_FRAGMENTS)

    def optimize(self) -> None:
        """Merge all small fragments whatever their number, and drop old versions without a tag."""
        self._compactor.merge(None)

    def purge(self) -> None:
        """Rewrite every fragment without its deleted rows, and drop every version but the newest and the tagged."""
        self._compactor.merge(None, purge=True)

    def _path(self, kind: str) -> str:
        return join(self.store.uri, f"{self.store.name}.{kind}.lance")

    def _mend(self) -> list[Path]:
        """Roll back damaged versions of the three tables; returns all manifests that were ever rolled back."""
        if self.store.path is None:
            return []
        tables = [self.store.path, Path(self._path("shards")), Path(self._path("failures"))]
        for table in tables:
            mend(table)
        return [manifest for table in tables for manifest in rolled_back(table)]

    def _sync(self, *kinds: str) -> None:
        if self.store.path is None:
            return
        with writing(f"table {self.store.name}"):
            for kind in kinds:
                path = Path(self.store.uri) / f"{self.store.name}.{kind}"
                self._disk.sync(path)
                require_whole(path, self._whole.setdefault(kind, set()))

    @contextmanager
    def _unless_failed(self) -> Iterator[None]:
        """Refuses further commits after a failed one, which only the recovery of a new writer can repair."""
        if self._failed:
            raise StoreError(f"a commit to table {self.store.name} has failed. Run the same command again.")
        self._failed = True
        yield
        self._failed = False

    def _append_rows(
        self, batches: list[EmbeddingBatch], labels: Iterable[CarriedLabels]
    ) -> tuple[int, Counter[str], int]:
        """Append rows. Returns the numbers of rows, of metadata values that stayed in `meta` only, by field, and of
        rows with labels of a replaced row.
        """
        if not any(b.rows for b in batches):
            return 0, Counter(), 0
        dataset, kept = self.store._dataset, 0
        table, extra, skipped = rows_table(batches, dataset.schema)
        if extra:  # adding a column of nulls changes metadata only; no row is rewritten
            with committing(dataset):
                dataset.add_columns(pa.schema(extra))
        for carried in {id(own): own for own in labels if len(own)}.values():
            table, rows = carried.applied(table)
            kept += rows
        append(dataset, table)
        self._sync("lance")
        self.store.refresh()
        self._keys.add(table.column("key").to_pylist())
        return table.num_rows, skipped, kept

    def _complete(
        self, results: Sequence[ShardResult], batches: list[list[EmbeddingBatch]], failures: list[Failure]
    ) -> _Completed:
        """Write the ledger rows of the shards that are complete."""
        lost, replaced, failed = 0, False, Counter(f.shard for f in failures)
        begun = self._begun.open
        rows = self._rows.counts(begun) if any(not r.more and r.shard.name in begun for r in results) else {}
        done: dict[str, LedgerEntry] = {}
        for r, own in zip(results, batches, strict=True):
            name = r.shard.name
            counts = sum(len(b.rows) for b in own), failed[name]
            opened = begun.get(name)
            if opened is not None:
                if r.more:
                    continue
                counts = rows[name], self._failures.counts[name]
                lost += opened.lost(name)
                replaced = True
                del begun[name]
            status = "partial" if r.partial else "done"
            done[name] = LedgerEntry(
                stored_address(r.shard.url), r.shard.identity, status, r.samples, *counts, self.store.version,
                r.adopted + self._adopted.pop(name, 0),
            )  # fmt: skip
        again = self._adopters(done) if replaced else {}
        if done:
            self._ledger.put(done | again)
            self._sync("shards.lance")
        return _Completed(lost, sum(entry.adopted for entry in done.values()), len(again))

    def _adopters(self, done: Mapping[str, LedgerEntry]) -> dict[str, LedgerEntry]:
        """Shards that adopted images, marked to be read again: these may have gone with a replaced shard."""
        return {
            name: replace(entry, identity=UNREAD)
            for name, entry in self.entries.items()
            if entry.adopted and name not in done and entry.identity != UNREAD and entry.status != BEGUN
        }
