"""One table version as a search sees it: an index, the rows it lacks, and the rows it should not have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from indexer.ann.exact import Block, Found, Resident, exact_topk, gather, merge, nothing
from indexer.ann.index import Allowed, VectorIndex, allow
from indexer.ann.vectors import Rows
from indexer.errors import IndexFileError, StoreError
from indexer.store.table import EmbeddingStore, vector_block
from indexer.types import Float16, Float32, Int64

TAKE_ROWS = 65_536


@dataclass(frozen=True)
class Fresh:
    """Rows that only the table has: newer than the index, updated since, or all where there is no index."""

    resident: Resident
    rows: Rows
    keys: list[str]


@dataclass(frozen=True)
class Snapshot:
    """Immutable, so that threads search it while a newer one is made."""

    view: EmbeddingStore  # held at `version`
    version: int
    index: VectorIndex | None
    fresh: Fresh | None  # None: no index and too many rows for memory, so each search streams the table
    gone: Int64  # sorted row ids in the index that were deleted or updated since
    live: Allowed | None  # of the index; None where nothing in it is gone

    @property
    def commit(self) -> str:
        """Of the version: the number alone may come back (`TableState`)."""
        return self.view.state.commit

    def search(self, queries: Float32, k: int, allowed: Int64 | None) -> Found:
        """The k best rows of each unit query; `allowed` are sorted row ids of this version, None for all."""
        found = nothing(len(queries), k)
        if self.index is not None:
            found = merge(found, self.index.search(queries, k, self._allowed_in_index(allowed)), k)
        if self.fresh is None:
            return merge(found, exact_topk(_stream(self.view, allowed), queries, k), k)
        return merge(found, self._search_fresh(queries, k, allowed), k)

    def scan(self, queries: Float32, k: int) -> Found:
        """The same over all rows, exactly, without the index's approximation."""
        if self.index is None:
            return self.search(queries, k, None)
        return merge(self.index.scan(queries, k, self.live), self._search_fresh(queries, k, None), k)

    def keys(self, row_ids: Int64) -> list[str]:
        """Keys of rows found in this snapshot, in order."""
        if self.fresh is None:
            found, rows = self.view.take(row_ids, ["key"])
            return list(rows.column("key").to_pylist()) if found.all() else []
        spots = self.fresh.rows.positions(row_ids)
        keys = [self.fresh.keys[s] if s >= 0 else "" for s in spots]
        if self.index is not None:
            old = np.flatnonzero(spots < 0)
            for i, key in zip(old, self.index.rows.keys(self.index.rows.positions(row_ids[old])), strict=True):
                keys[i] = key
        return keys

    def describe(self) -> str:
        """In words: what answers a search in this version."""
        if self.index is None:
            return f"exact scan of all rows, table version {self.version}"
        manifest = self.index.manifest
        words = (
            f"{manifest.kind} index of {manifest.rows} rows, recall@10 measured {manifest.measured.recall_at_10:.3f}"
        )
        fresh = len(self.fresh.rows) if self.fresh is not None else 0
        if fresh or len(self.gone):
            words += f"; {fresh} newer rows scanned, {len(self.gone)} left out (`indexer build-ann --refresh`)"
        return f"{words}; table version {self.version}"

    def _allowed_in_index(self, allowed: Int64 | None) -> Allowed | None:
        if allowed is None or self.index is None:
            return self.live
        inside = allowed[self.index.rows.positions(allowed) >= 0]
        return allow(inside[~np.isin(inside, self.gone)] if len(self.gone) else inside)

    def _search_fresh(self, queries: Float32, k: int, allowed: Int64 | None) -> Found:
        fresh = self.fresh
        if fresh is None or not len(fresh.rows):
            return nothing(len(queries), k)
        if allowed is None:
            return fresh.resident.search(queries, k)
        spots = fresh.rows.positions(allowed)
        return exact_topk(gather(fresh.rows.row_ids, fresh.rows.vectors, spots[spots >= 0]), queries, k)


def first_snapshot(view: EmbeddingStore, index: VectorIndex | None, memory_bytes: int) -> Snapshot:
    """The table at the view's version. Raises IndexFileError where the index is of another table or encoder."""
    none = np.empty(0, np.int64)
    if index is not None:
        _check(index, view)
        built = index.manifest
        try:
            then = view.at(built.version, identity=built.identity, commit=built.commit)
            return advance(Snapshot(then, then.version, index, _fresh(Rows(none, _empty(view)), []), none, None), view)
        except StoreError as error:
            raise IndexFileError(
                f"the index of table {view.name} cannot be brought up to date: {error} "
                "Build it anew with `indexer build-ann`, or search with --exact."
            ) from error
    if view.count() * view.dim * 2 > memory_bytes:
        return Snapshot(view, view.version, None, None, none, None)
    everything = view.vectors(None, ["key"])
    keys = everything.columns.column("key").to_pylist()
    return Snapshot(view, view.version, None, _fresh(Rows(everything.row_ids, everything.vectors), keys), none, None)


def advance(old: Snapshot, view: EmbeddingStore) -> Snapshot:
    """`old` brought to the view's version by what changed between. Raises StoreError where old's version is gone."""
    if old.fresh is None:
        return Snapshot(view, view.version, old.index, None, old.gone, old.live)
    delta = view.delta(old.version, commit=old.commit)
    touched = np.unique(np.concatenate([delta.inserted, delta.updated, delta.deleted]))
    if not len(touched):
        return Snapshot(view, view.version, old.index, old.fresh, old.gone, old.live)
    row_ids, vectors, keys = _take(view, touched)
    kept = ~np.isin(old.fresh.rows.row_ids, touched)
    gone = old.gone
    if old.index is not None:
        same = _same(old.index.rows, row_ids, vectors)  # a label import touches rows, not their vectors
        inside = touched[old.index.rows.positions(touched) >= 0]
        gone = np.union1d(np.setdiff1d(old.gone, touched), np.setdiff1d(inside, row_ids[same]))
        row_ids, vectors = row_ids[~same], vectors[~same]
        keys = [key for key, drop in zip(keys, same, strict=True) if not drop]
    rows = Rows(
        np.concatenate([old.fresh.rows.row_ids[kept], row_ids]), np.concatenate([old.fresh.rows.vectors[kept], vectors])
    )
    keys = [key for key, keep in zip(old.fresh.keys, kept, strict=True) if keep] + keys
    live = None
    if old.index is not None and len(gone):
        live = allow(np.setdiff1d(old.index.rows.row_ids, gone, assume_unique=True))
    return Snapshot(view, view.version, old.index, _fresh(rows, keys), gone, live)


def _fresh(rows: Rows, keys: list[str]) -> Fresh:
    resident = Resident(rows.row_ids, rows.vectors)
    return Fresh(resident, Rows(rows.row_ids, resident.vectors), keys)  # one copy of the vectors, not two


def _empty(view: EmbeddingStore) -> Float16:
    return np.empty((0, view.dim), np.float16)


def _take(view: EmbeddingStore, row_ids: Int64) -> tuple[Int64, Float16, list[str]]:
    """Those of the rows that exist: ids, vectors, keys."""
    ids, vectors, keys = [np.empty(0, np.int64)], [_empty(view)], list[str]()
    for start in range(0, len(row_ids), TAKE_ROWS):
        part = row_ids[start : start + TAKE_ROWS]
        found, rows = view.take(part, ["key"], vectors=True)
        ids.append(part[found])
        vectors.extend(vector_block(batch) for batch in rows.to_batches())
        keys.extend(rows.column("key").to_pylist())
    return np.concatenate(ids), np.concatenate(vectors), keys


def _same(rows: Rows, row_ids: Int64, vectors: Float16) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    positions = rows.positions(row_ids)
    same = positions >= 0
    same[same] = (rows.vectors[positions[same]] == vectors[same]).all(1)
    return same


def _stream(view: EmbeddingStore, allowed: Int64 | None) -> Iterator[Block]:
    for batch in view.scan([], vectors=True):
        row_ids, vectors = row_ids_of(batch), vector_block(batch)
        if allowed is not None:
            keep = np.isin(row_ids, allowed)
            row_ids, vectors = row_ids[keep], vectors[keep]
        yield row_ids, vectors


def row_ids_of(batch: pa.RecordBatch) -> Int64:
    """The batch's `_rowid` column as int64."""
    ids: Int64 = batch.column("_rowid").to_numpy().astype(np.int64)
    return ids


def _check(index: VectorIndex, view: EmbeddingStore) -> None:
    manifest = index.manifest
    if manifest.fingerprint != view.spec.fingerprint or manifest.table != view.name:
        raise IndexFileError(
            f"the index beside table {view.name} was built for {manifest.table} ({manifest.fingerprint}), "
            f"this table's encoder is {view.spec.fingerprint}. Build it anew with `indexer build-ann`."
        )
    if view.tags().get(manifest.tag) != manifest.version:
        raise IndexFileError(
            f"the index beside table {view.name} is of version {manifest.version}, which this table no longer has "
            f"(tag {manifest.tag}). Build it anew with `indexer build-ann`, or search with --exact."
        )
