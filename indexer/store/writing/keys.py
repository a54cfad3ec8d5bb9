"""The writer's indexes of a table's rows: keys, row ids by shard, and stored samples of a begun shard."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from indexer.store.filters import quoted
from indexer.store.holding.commits import committing
from indexer.store.lance_calls import IN_LIST, chunks
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import EmbeddingBatch, EmbeddingRow, Failure, Float16, Int64, ShardResult

Digests = npt.NDArray[np.bytes_]  # (n,) of 16 bytes each

_RANGES = 200  # row id ranges in one SQL filter
_BATCH_ROWS = 65_536  # of one narrow column


@dataclass(frozen=True)
class Unique:
    """Rows of new keys, a list of batches for each result, and what became of the others."""

    batches: list[list[EmbeddingBatch]]
    duplicates: list[Failure]
    adopted: Counter[str]  # rows by shard


@dataclass(frozen=True, slots=True)
class _Taken:
    """The row that has a key."""

    content: str
    shard: str
    stays: bool  # False in a shard that is about to be replaced


class TableKeys:
    """The keys of one table, read when the first rows are added, then updated by the writer."""

    def __init__(self, store: EmbeddingStore) -> None:
        self._store = store
        self._known: KeySet | None = None
        self._lock = threading.RLock()  # the thread that reads shards asks `may_have`
        self.replaced = set[str]()  # shards whose stored rows this writer's run is going to delete

    @property
    def learnt(self) -> bool:
        return self._known is not None

    def add(self, keys: Iterable[str]) -> None:
        with self._lock:
            if self._known is not None:
                self._known.add(keys)

    def discard(self, hashes: Int64) -> None:
        """Remove the keys of deleted rows, given by `key_hashes`."""
        with self._lock:
            if self._known is not None:
                self._known.discard(hashes)

    def may_have(self, key: str) -> bool:
        """Whether the table may have a row of this key; where not, it has none. Any thread may call it."""
        with self._lock:
            return self._learn().has(key)

    def without_duplicates(self, results: Sequence[ShardResult]) -> Unique:
        """Each result's batches without rows whose key the table or an earlier row has.

        Such a row is adopted where the other has the same bytes, lies in another shard and stays; else it is a failure.
        """
        keys = [row.key for r in results for b in r.batches for row in b.rows]
        with self._lock:
            suspects = self._learn().suspects(keys) if keys else set()
        taken = self._stored(suspects)
        kept: list[list[EmbeddingBatch]] = []
        duplicates: list[Failure] = []
        adopted = Counter[str]()
        for result in results:
            own: list[EmbeddingBatch] = []
            for batch in result.batches:
                good = []
                for i, row in enumerate(batch.rows):
                    other = taken.get(row.key)
                    if other is not None and self._stands_for(other, row):
                        adopted[row.place.shard] += 1
                    elif other is not None:
                        duplicates.append(_duplicate(row))
                    else:
                        if row.key in suspects:
                            taken[row.key] = _Taken(row.content, row.place.shard, stays=True)
                        good.append(i)
                if len(good) < len(batch.rows):
                    batch = EmbeddingBatch(tuple(batch.rows[i] for i in good), batch.vectors[good], batch.norms[good])
                own.append(batch)
            kept.append(own)
        return Unique(kept, duplicates, adopted)

    def _stands_for(self, other: _Taken, row: EmbeddingRow) -> bool:
        return other.content == row.content and other.shard != row.place.shard and other.stays

    def of_others(self, duplicates: Sequence[Failure]) -> list[Failure]:
        """The duplicates whose key belongs to another image; the rest are rows of an image that is stored already."""
        columns = ["key", "shard", "member", "offset"]
        stored = {
            tuple(row[name] for name in columns)
            for chunk in chunks(sorted({f.key for f in duplicates}))
            for batch in self._store.scan(columns, f"key IN ({', '.join(map(quoted, chunk))})")
            for row in batch.to_pylist()
        }
        return [f for f in duplicates if (f.key, f.shard, f.member, f.offset) not in stored]

    def _learn(self) -> KeySet:
        if self._known is None:
            self._known = KeySet()
            for batch in self._store.scan(["key"], batch_rows=_BATCH_ROWS):
                self._known.add(batch.column("key").to_pylist())
        return self._known

    def _stored(self, suspects: set[str]) -> dict[str, _Taken]:
        """The suspects (keys of equal hash) that are in the table."""
        found: dict[str, _Taken] = {}
        columns = ["key", "content", "shard"]
        for chunk in chunks(sorted(suspects)):
            for batch in self._store.scan(columns, f"key IN ({', '.join(map(quoted, chunk))})"):
                for key, content, shard in zip(*(batch.column(c).to_pylist() for c in columns), strict=True):
                    found[key] = _Taken(content, shard, stays=shard not in self.replaced)
        return found


def _duplicate(row: EmbeddingRow) -> Failure:
    p, detail = row.place, f"key {row.key!r} is in the table already"
    return Failure(p.shard, row.key, "store", "duplicate key", detail, p.offset, p.nbytes, p.suffix, p.member)


class KeySet:
    """64-bit hashes of a table's keys: 40 million take 320 MB. Keys of equal hash must be compared in the table.

    The hashes are held in sorted runs, each at least twice as long as the next: adding is cheap, and there are few
    runs to search.
    """

    def __init__(self) -> None:
        self._runs: list[Int64] = []

    def add(self, keys: Iterable[str]) -> None:
        run = np.unique(key_hashes(keys))
        if not len(run):
            return
        self._runs.append(run)
        while len(self._runs) > 1 and len(self._runs[-2]) < 2 * len(self._runs[-1]):
            merged = np.concatenate([self._runs.pop(), self._runs.pop()])
            merged.sort(kind="stable")  # timsort merges two sorted halves in one pass
            self._runs.append(merged)

    def discard(self, hashes: Int64) -> None:
        """Remove keys, given by `key_hashes`."""
        gone = np.unique(hashes)
        for number, run in enumerate(self._runs):
            spots = np.searchsorted(run, gone)
            found = spots[(spots < len(run)) & (run[np.minimum(spots, len(run) - 1)] == gone)] if len(run) else spots
            if len(found):
                self._runs[number] = np.delete(run, found)

    def has(self, key: str) -> bool:
        """Whether the key's hash is in the set."""
        # Not by numpy, which lets other threads run for each search, and then waits for its turn again
        asked = hash(key)
        for run in self._runs:
            spot = bisect_left(run.data, asked)
            if spot < len(run) and run[spot] == asked:
                return True
        return False

    def suspects(self, keys: Sequence[str]) -> set[str]:
        """Keys whose hash is in the set, or that occur twice in `keys`."""
        hashes = key_hashes(keys)
        known = np.zeros(len(keys), bool)
        for run in self._runs:
            if len(run):
                spots = np.searchsorted(run, hashes)
                known |= run[np.minimum(spots, len(run) - 1)] == hashes
        twice = {key for key, n in Counter(keys).items() if n > 1}
        return twice | {key for key, old in zip(keys, known.tolist(), strict=True) if old}


def key_hashes(keys: Iterable[str]) -> Int64:
    """Python's hashes of the keys (n,); valid in this process only."""
    return np.fromiter(map(hash, keys), np.int64)


class ShardRows:
    """Row ids of each shard's rows, as ranges: a shard's rows are appended together, so memory grows with shards.

    The map is built on first use by one pass over the shard column, and then updated with added rows. Row ids are
    stable, so neither deletion nor compaction changes it. A filter on a range of row ids reads no column (4 million
    rows: 10 ms, where `shard = …` takes 240 ms). Thread-safe.
    """

    def __init__(self, store: EmbeddingStore) -> None:
        self._store = store
        self._ranges: dict[str, list[tuple[int, int]]] = {}
        self._version = 0
        self._lock = threading.Lock()

    def filters(self, shards: Iterable[str]) -> list[str]:
        """SQL expressions that together match these shards' rows."""
        with self._lock:
            self._catch_up()
            ranges = [span for name in shards for span in self._ranges.get(name, ())]
        return [
            " OR ".join(f"(_rowid >= {start} AND _rowid < {stop})" for start, stop in ranges[i : i + _RANGES])
            for i in range(0, len(ranges), _RANGES)
        ]

    def vectors_by_content(self, shard: str) -> dict[str, dict[str, tuple[Float16, float]]]:
        """Content hash → part's name → unit vector and norm, of a shard's rows."""
        known: dict[str, dict[str, tuple[Float16, float]]] = {}
        view = self._store.at(self._store.version)
        for where in self.filters([shard]):
            for batch in view.scan(["content", "part", "norm"], where, vectors=True):
                vectors = vector_block(batch)
                rows = zip(*(batch.column(c).to_pylist() for c in ("content", "part", "norm")), strict=True)
                for i, (content, part, norm) in enumerate(rows):
                    # the first of two files with the same bytes
                    known.setdefault(content, {}).setdefault(part, (vectors[i].copy(), norm))
        return known

    def samples(self, shard: str) -> SamplesOfShard:
        """The stored samples of a shard."""
        view, filters = self._store.at(self._store.version), self.filters([shard])
        rows = sum(view.count(where) for where in filters)
        batches = (batch for where in filters for batch in view.scan(StoredSamples.COLUMNS, where))
        return StoredSamples(batches, rows).of(shard)

    def counts(self, shards: Iterable[str]) -> Counter[str]:
        """The number of rows of each of these shards."""
        with self._lock:
            self._catch_up()
            return Counter({name: sum(stop - start for start, stop in self._ranges.get(name, ())) for name in shards})

    def forget(self, shards: Iterable[str]) -> None:
        """Remove these shards, whose rows were deleted."""
        with self._lock:
            for name in shards:
                self._ranges.pop(name, None)

    def read_again(self) -> None:
        """Build the map anew, after rows were given to another shard."""
        with self._lock:
            self._ranges, self._version = {}, 0

    def _catch_up(self) -> None:
        store = self._store.at(self._store.version)  # one version, though another thread may commit
        if store.version == self._version:
            return
        where = f"_row_created_at_version > {self._version}" if self._version else None
        for batch in store.scan(["shard"], where, batch_rows=_BATCH_ROWS):
            shards = batch.column("shard").dictionary_encode()
            codes, ids = shards.indices.to_numpy(), batch.column("_rowid").to_numpy().astype(np.int64)
            starts = np.flatnonzero((np.diff(codes, prepend=-1) != 0) | (np.diff(ids, prepend=-2) != 1))
            for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(ids)], strict=True):
                self._add(shards.dictionary[int(codes[start])].as_py(), int(ids[start]), int(ids[stop - 1]) + 1)
        self._version = store.version

    def _add(self, name: str, start: int, stop: int) -> None:
        ranges = self._ranges.setdefault(name, [])
        if ranges and ranges[-1][1] == start:
            ranges[-1] = (ranges[-1][0], stop)
        else:
            ranges.append((start, stop))


def count_by_shard(store: EmbeddingStore, where: str | None = None) -> Counter[str]:
    """The number of rows of each shard, by one pass over the shard column."""
    rows: Counter[str] = Counter()
    for batch in store.scan(["shard"], where, batch_rows=_BATCH_ROWS):
        for count in pc.value_counts(batch.column("shard")):
            rows[count["values"].as_py()] += count["counts"].as_py()
    return rows


def delete_rows(dataset: Any, row_ids: Int64) -> bool:
    """Delete rows by id; returns whether there were any ids."""
    for chunk in (row_ids[i : i + IN_LIST] for i in range(0, len(row_ids), IN_LIST)):
        with committing(dataset):
            dataset.delete(f"_rowid IN ({', '.join(map(str, chunk.tolist()))})", conflict_retries=0)
    return len(row_ids) > 0


class StoredSamples:
    """The samples that the table holds, by (shard, member, offset): sorted digests of 16 bytes a row."""

    COLUMNS = ("shard", "member", "offset")

    def __init__(self, batches: Iterable[Any], rows: int) -> None:
        """From batches with COLUMNS, of at most `rows` rows in all."""
        digests, done = np.zeros(rows, "S16"), 0
        for batch in batches:
            own = row_digests(batch, self.COLUMNS)
            digests[done : done + len(own)] = own
            done += len(own)
        self._sorted: Digests = digests[:done]
        self._sorted.sort()

    def which(self, batch: Any) -> Int64:
        """Positions in a batch with COLUMNS of the rows whose sample is stored."""
        return spots_of(self._sorted, row_digests(batch, self.COLUMNS))[0]

    def of(self, shard: str) -> SamplesOfShard:
        return SamplesOfShard(self._sorted, shard)


@dataclass(frozen=True)
class SamplesOfShard:
    """The stored samples of one shard. All parts of a sample are stored by one commit, or none."""

    digests: Digests
    shard: str

    def __contains__(self, place: object) -> bool:
        """Whether the sample at this (member, offset) has a row in the table."""
        if not isinstance(place, tuple):
            return False
        return bool(len(spots_of(self.digests, digests_of([(self.shard, *place)]))[0]))


def row_digests(batch: Any, columns: Sequence[str]) -> Digests:
    """The digest of each row's values in these columns."""
    return digests_of(zip(*(batch.column(name).to_pylist() for name in columns), strict=True))


def digests_of(rows: Iterable[Sequence[object]]) -> Digests:
    """A 16-byte BLAKE2b digest of each tuple: among 10^9, the probability of a collision is about 10^-21."""
    texts = ("\0".join(map(str, row)).encode() for row in rows)
    return np.frombuffer(b"".join(hashlib.blake2b(text, digest_size=16).digest() for text in texts), "S16")


def spots_of(digests: Digests, asked: Digests) -> tuple[Int64, Int64]:
    """Matches of `asked` in the sorted `digests`: their positions in `asked`, and in `digests`."""
    if not len(digests):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    spots = np.minimum(np.searchsorted(digests, asked), len(digests) - 1)
    found = np.flatnonzero(digests[spots] == asked)
    return found, spots[found]
