"""Which keys a table holds, in 8 bytes each, so that a writer of millions of rows meets each key once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from indexer.store.lance_calls import chunks
from indexer.store.table import EmbeddingStore, quoted
from indexer.types import EmbeddingBatch, EmbeddingRow, Failure, Int64, ShardResult


class TableKeys:
    """The keys of one table. Its writer tells what comes and goes."""

    def __init__(self, store: EmbeddingStore) -> None:
        self._store, self._known = store, KeySet()

    def add(self, keys: Iterable[str]) -> None:
        self._known.add(keys)

    def discard(self, keys: Iterable[str]) -> None:
        self._known.discard(keys)

    def relearn(self) -> None:
        """From the table as it is."""
        self._known = KeySet()
        for batch in self._store.scan(["key"]):
            self._known.add(batch.column("key").to_pylist())

    def without_duplicates(self, results: Sequence[ShardResult]) -> tuple[list[list[EmbeddingBatch]], list[Failure]]:
        """Each result's batches without rows whose key the table or an earlier row has, and those as failures."""
        suspects = self._known.suspects([row.key for r in results for b in r.batches for row in b.rows])
        taken = self._stored(suspects)
        kept: list[list[EmbeddingBatch]] = []
        duplicates: list[Failure] = []
        for result in results:
            own: list[EmbeddingBatch] = []
            for batch in result.batches:
                good = []
                for i, row in enumerate(batch.rows):
                    if row.key in taken:
                        duplicates.append(_duplicate(row))
                    else:
                        if row.key in suspects:
                            taken.add(row.key)
                        good.append(i)
                if len(good) < len(batch.rows):
                    batch = EmbeddingBatch(tuple(batch.rows[i] for i in good), batch.vectors[good], batch.norms[good])
                own.append(batch)
            kept.append(own)
        return kept, duplicates

    def of_others(self, duplicates: Sequence[Failure]) -> list[Failure]:
        """Those whose key another image has; the others are of an image whose rows the table has already."""
        columns = ["key", "shard", "member", "offset"]
        stored = {
            tuple(row[name] for name in columns)
            for chunk in chunks(sorted({f.key for f in duplicates}))
            for batch in self._store.scan(columns, f"key IN ({', '.join(map(quoted, chunk))})")
            for row in batch.to_pylist()
        }
        return [f for f in duplicates if (f.key, f.shard, f.member, f.offset) not in stored]

    def _stored(self, suspects: set[str]) -> set[str]:
        """Which of the suspects (equal hashes) really are in the table."""
        found: set[str] = set()
        for chunk in chunks(sorted(suspects)):
            for batch in self._store.scan(["key"], f"key IN ({', '.join(map(quoted, chunk))})"):
                found.update(batch.column("key").to_pylist())
        return found


def _duplicate(row: EmbeddingRow) -> Failure:
    p, detail = row.place, f"key {row.key!r} is in the table already"
    return Failure(p.shard, row.key, "store", "duplicate key", detail, p.offset, p.nbytes, p.suffix, p.member)


class KeySet:
    """The hashes of a table's keys: 40 million take 320 MB. Equal hashes are only a suspicion.

    They lie in sorted runs, each at least twice as long as the next: adding is cheap, and few runs are looked into.
    """

    def __init__(self) -> None:
        self._runs: list[Int64] = []

    def add(self, keys: Iterable[str]) -> None:
        run = np.unique(_hashes(keys))
        if not len(run):
            return
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            merged = np.concatenate([self._runs.pop(), self._runs.pop()])
            merged.sort(kind="stable")  # which merges two sorted halves in one pass
            self._runs.append(merged)

    def discard(self, keys: Iterable[str]) -> None:
        gone = _hashes(keys)
        self._runs = [run[~np.isin(run, gone)] for run in self._runs]

    def suspects(self, keys: Sequence[str]) -> set[str]:
        """Keys whose hash is known, or that occur twice in `keys`."""
        hashes = _hashes(keys)
        known = np.zeros(len(keys), bool)
        for run in self._runs:
            if len(run):
                spots = np.searchsorted(run, hashes)
                known |= run[np.minimum(spots, len(run) - 1)] == hashes
        twice = {key for key, n in Counter(keys).items() if n > 1}
        return twice | {key for key, old in zip(keys, known.tolist(), strict=True) if old}


def _hashes(keys: Iterable[str]) -> Int64:
    """Python's own, which differ from process to process: they never leave this one."""
    return np.fromiter(map(hash, keys), np.int64)
