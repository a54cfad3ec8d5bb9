"""A table version prepared for search: its index, the rows newer than it, and the index rows that are outdated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pyarrow as pa

from indexer.ann.exact import Block, Found, exact_topk, merge, no_hits
from indexer.ann.index import Allowed, Effort, VectorIndex, scan
from indexer.ann.rowset import RowSet
from indexer.ann.vectors import HeldRows, KeyedBlock, KeyedRows, gathered
from indexer.errors import IndexFileError, StoreError
from indexer.store.rows import Delta, vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Bool, Float16, Float64, Int64

MOST_ROWS, FEWEST_ROWS = 65_536, 1_024  # limits of the rows read from the table at once


@dataclass(frozen=True)
class Snapshot:
    """Immutable: threads may search it while a newer one is made."""

    view: EmbeddingStore  # held at one version
    memory_bytes: int  # limit of vectors and keys held; more rows are mapped from a temporary file, or streamed
    index: VectorIndex | None
    fresh: KeyedRows | None  # rows not in the index (all rows without one); None: each search streams the table
    gone: Int64  # sorted row ids in the index that were deleted or updated since
    live: Allowed | None  # rows of the index that are still valid; None where all are
    effort: Effort | None = None  # notes how queries under a filter are answered; of one search, so no thread shares it

    @property
    def version(self) -> int:
        return self.view.version

    @property
    def commit(self) -> str:
        """The version's commit: the version number alone may be reused (`TableState`)."""
        return self.view.state.commit

    @property
    def approximate(self) -> bool:
        """Whether a search may miss a near row."""
        return self.index is not None and self.index.approximate

    def count(self) -> int:
        """The number of rows that can be found."""
        if self.fresh is None:
            return self.view.count()
        return len(self.fresh) + (len(self.index.rows) - len(self.gone) if self.index is not None else 0)

    def search(self, queries: Float64, k: int, allowed: RowSet | None) -> Found:
        """The k best rows of each unit query (q, dim); `allowed` are row ids of this version, None for all.

        The result has min(k, rows) columns.
        """
        k = min(k, self.count())
        if self.fresh is None:
            return exact_topk(_stream(self.view, allowed), queries, k)
        if self.index is None:
            return _search_rows(self.fresh, queries, k, allowed)
        filtered = None if allowed is None else self.effort or Effort()
        found = self.index.search(queries, k, self._allowed_in_index(allowed), filtered)
        return merge(found, _search_rows(self.fresh, queries, k, allowed), k) if len(self.fresh) else found

    def scan(self, queries: Float64, k: int) -> Found:
        """`search` over all rows, exactly, without the index's approximation."""
        if self.index is None or self.fresh is None:
            return self.search(queries, k, None)
        return merge(self.index.scan(queries, k, self.live), _search_rows(self.fresh, queries, k, None), k)

    def everything(self) -> RowSet:
        """A superset of the row ids of this version, from which excluded rows can be subtracted."""
        if self.fresh is None:
            return RowSet.of(row_ids_of(batch) for batch in self.view.scan([], batch_rows=MOST_ROWS))
        fresh = RowSet.of([self.fresh.row_ids])
        return fresh if self.index is None else fresh | self.index.row_set

    def keys(self, row_ids: Int64) -> list[str]:
        """Keys of rows found in this snapshot, in order."""
        if self.fresh is None:
            found, rows = self.view.take(row_ids, ["key"])
            return list(rows.column("key").to_pylist()) if found.all() else []
        if self.index is not None and not len(self.fresh):
            return self.index.rows.keys(self.index.rows.positions(row_ids))
        spots = self.fresh.positions(row_ids)
        keys = np.full(len(row_ids), "", object)
        keys[spots >= 0] = self.fresh.keys(spots[spots >= 0])
        if self.index is not None:
            old = spots < 0
            keys[old] = self.index.rows.keys(self.index.rows.positions(row_ids[old]))
        return list(keys)

    def describe(self) -> str:
        """One line on what answers a search in this version: index, recall, newer rows, version."""
        under = str(self.effort or "")
        return self._described(under) if under else self._unfiltered

    @cached_property
    def _unfiltered(self) -> str:
        return self._described("")

    def _described(self, under: str) -> str:
        """`under`: how queries under a filter were answered; the measured recall holds without one only."""
        if self.index is None:
            return f"exact scan of all rows, table version {self.version}"
        manifest = self.index.manifest
        recall = f"recall@10 measured {manifest.measured.recall_at_10:.3f}"
        if manifest.queries:
            recall += f" on the queries {manifest.queries}"
        how = f"the allowed rows {under}" if under else recall
        words = f"{manifest.kind} index of {manifest.rows} rows, {how}"
        fresh = len(self.fresh) if self.fresh is not None else 0
        if fresh or len(self.gone):
            words += f"; {fresh} newer rows scanned, {len(self.gone)} left out (`indexer build-ann --refresh`)"
        return f"{words}; table version {self.version}"

    def _allowed_in_index(self, allowed: RowSet | None) -> Allowed | None:
        if allowed is None or self.index is None:
            return self.live
        return self.index.allow(allowed if self.live is None else allowed & self.live.rows)


def first_snapshot(
    view: EmbeddingStore, index: VectorIndex | None, memory_bytes: int, delta: Delta | None = None
) -> Snapshot:
    """A snapshot of the view's version. Raises IndexFileError where the index is of another table or encoder.

    `delta` holds the changes since the index, where the caller has read them already.
    """
    none = np.empty(0, np.int64)
    view.require_readable()
    if index is not None:
        index.rows.keep_within(memory_bytes)
        delta = changes_since(index, view) if delta is None else delta
        no_rows = gathered([], view.dim, memory_bytes)
        return _changed_by(Snapshot(view, memory_bytes, index, no_rows, none, None), view, delta)
    fresh = None
    if view.count() * view.dim * 2 <= memory_bytes:
        everything = view.vectors(None, ["key"])
        keys = everything.columns.column("key").combine_chunks().cast(pa.large_string())
        fresh = HeldRows(everything.row_ids, everything.vectors, keys)
    return Snapshot(view, memory_bytes, None, fresh, none, None)


def changes_since(index: VectorIndex, view: EmbeddingStore) -> Delta:
    """The changes between the index and the view. Raises IndexFileError where the index is of another table."""
    _check(index, view)
    built = index.manifest
    try:
        then = view.at(built.version, identity=built.identity, commit=built.commit)
        return view.delta(then.version, commit=then.state.commit)
    except StoreError as error:
        raise IndexFileError(
            f"the index of table {view.name} cannot be brought up to date: {error} "
            "Build it again with `indexer build-ann`, or search with --exact."
        ) from error


def advance(old: Snapshot, view: EmbeddingStore) -> Snapshot:
    """`old` updated to the view's version with the changes between. Raises StoreError where old's version is gone."""
    if old.fresh is None:
        return replace(old, view=view)
    return _changed_by(old, view, view.delta(old.version, commit=old.commit))


def _changed_by(old: Snapshot, view: EmbeddingStore, delta: Delta) -> Snapshot:
    changes = np.concatenate([delta.inserted, delta.updated, delta.deleted])
    if not len(changes):  # before `unique`, which imports numpy.ma
        return replace(old, view=view)
    touched = np.unique(changes)
    unchanged: list[Int64] = []  # rows of the index updated without a change of their vectors, e.g. by a label import
    step = int(np.clip(old.memory_bytes // 8 // (2 * view.dim), FEWEST_ROWS, MOST_ROWS))
    before = gathered([], view.dim, old.memory_bytes) if old.fresh is None else old.fresh

    def rows() -> Iterator[KeyedBlock]:
        yield from before.blocks(np.flatnonzero(~np.isin(before.row_ids, touched)), step)
        for row_ids, vectors, keys in _taken(view, touched, step):
            changed = _changed(old.index, row_ids, vectors)
            unchanged.append(row_ids[~changed])
            yield row_ids[changed], vectors[changed], keys.filter(pa.array(changed))

    fresh = gathered(rows(), view.dim, old.memory_bytes)
    gone, live = old.gone, None
    if old.index is not None:
        inside = touched[old.index.rows.positions(touched) >= 0]
        same = np.concatenate([np.empty(0, np.int64), *unchanged])
        gone = np.union1d(np.setdiff1d(old.gone, touched), np.setdiff1d(inside, same))
        if len(gone):
            live = old.index.allow(old.index.row_set - RowSet.of([gone]))
    return Snapshot(view, old.memory_bytes, old.index, fresh, gone, live)


def row_ids_of(batch: pa.RecordBatch) -> Int64:
    """The batch's `_rowid` column as int64."""
    ids: Int64 = batch.column("_rowid").to_numpy().astype(np.int64)
    return ids


def _check(index: VectorIndex, view: EmbeddingStore) -> None:
    """Raises IndexFileError where the index was built for another table, encoder or history."""
    manifest = index.manifest
    if manifest.fingerprint != view.spec.fingerprint or manifest.table != view.name:
        raise IndexFileError(
            f"the index beside table {view.name} was built for {manifest.table} ({manifest.fingerprint}), "
            f"this table's encoder is {view.spec.fingerprint}. Build it again with `indexer build-ann`."
        )
    if view.tags().get(manifest.tag) != manifest.version:
        raise IndexFileError(
            f"the index beside table {view.name} is of version {manifest.version}, which this table no longer has "
            f"(tag {manifest.tag}). Build it again with `indexer build-ann`, or search with --exact."
        )


def _search_rows(rows: KeyedRows, queries: Float64, k: int, allowed: RowSet | None) -> Found:
    if not len(rows):
        return no_hits(len(queries), 0)
    if allowed is None and isinstance(rows, HeldRows):
        return rows.resident.search(queries, k)
    return scan(rows, queries, k, None if allowed is None else Allowed(allowed, len(rows)))


def _taken(view: EmbeddingStore, row_ids: Int64, step: int) -> Iterator[KeyedBlock]:
    """The rows with these ids that exist, `step` at a time: ids, vectors, keys."""
    for start in range(0, len(row_ids), step):
        part = row_ids[start : start + step]
        found, rows = view.take(part, ["key"], vectors=True)
        blocks = [np.empty((0, view.dim), np.float16), *(vector_block(batch) for batch in rows.to_batches())]
        yield part[found], np.concatenate(blocks), rows.column("key").combine_chunks()


def _changed(index: VectorIndex | None, row_ids: Int64, vectors: Float16) -> Bool:
    """Mask (n,) of the rows whose vector differs from the index's or is not in it."""
    if index is None:
        return np.ones(len(row_ids), bool)
    positions = index.rows.positions(row_ids)
    changed = positions < 0
    inside = ~changed
    changed[inside] = (index.rows.vectors[positions[inside]] != vectors[inside]).any(1)
    return changed


def _stream(view: EmbeddingStore, allowed: RowSet | None) -> Iterator[Block]:
    for batch in view.scan([], vectors=True):
        row_ids, vectors = row_ids_of(batch), vector_block(batch)
        if allowed is not None:
            keep = allowed.has(row_ids)
            row_ids, vectors = row_ids[keep], vectors[keep]
        yield row_ids, vectors
