"""A loaded index: candidates from FAISS, scores from the stored vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexer.ann.exact import Found, best, exact_topk, gather, nothing, rescore, spare
from indexer.ann.files import index_path, vector_paths, verify
from indexer.ann.kinds import KINDS, Kind, bitmap_of, nearest, read_index
from indexer.ann.manifest import Manifest, Settings, read_manifest
from indexer.ann.vectors import Rows, VectorFile
from indexer.errors import IndexFileError
from indexer.types import Float32, Int64, UInt8

EXACT_SCAN_ROWS = 50_000  # so few allowed rows are scanned in about 10 ms at 512 dimensions, with recall 1
MAX_INDEX_K = 2_048  # beyond this the index's heaps cost more than a scan


@dataclass(frozen=True)
class Allowed:
    """The rows of an index that may be found."""

    row_ids: Int64  # (m,)
    bitmap: UInt8 | None  # None where m is scanned exactly anyway


def allow(row_ids: Int64) -> Allowed:
    return Allowed(row_ids, bitmap_of(row_ids) if len(row_ids) > EXACT_SCAN_ROWS else None)


@dataclass(frozen=True)
class Searchable:
    """A FAISS index and the rows its ids stand for."""

    index: Any
    kind: Kind
    rows: Rows
    stale: bool = False  # it has entries whose row is gone or was updated


class VectorIndex:
    """Immutable once loaded: threads may search it at once."""

    def __init__(self, manifest: Manifest, index: Any, rows: VectorFile) -> None:
        self.manifest, self.rows = manifest, rows
        self._searchable = Searchable(index, KINDS[manifest.kind], rows, manifest.stale > 0)

    def search(self, queries: Float32, k: int, allowed: Allowed | None = None) -> Found:
        """The k best allowed rows of each unit query (q, dim), exact scores, id -1 where fewer are allowed."""
        n = len(self.rows) if allowed is None else len(allowed.row_ids)
        if not n or not len(queries):
            return nothing(len(queries), k)
        selective = allowed is not None and allowed.bitmap is None
        if selective or k > MAX_INDEX_K:
            return self.scan(queries, k, allowed)
        bitmap = None if allowed is None else allowed.bitmap
        found = answer(self._searchable, queries, k, self.manifest.settings, bitmap=bitmap, share=n / len(self.rows))
        short = (found[1] >= 0).sum(1) < min(k, n)
        if short.any():  # the lists looked into held too few; k rows are owed wherever k rows match
            found[0][short], found[1][short] = self.scan(queries[short], k, allowed)
        return found

    def scan(self, queries: Float32, k: int, allowed: Allowed | None = None) -> Found:
        """The same, exactly, from every allowed row's stored vector."""
        if allowed is None:
            return exact_topk([(self.rows.row_ids, self.rows.vectors)], queries, k)
        positions = self.rows.positions(allowed.row_ids)
        return exact_topk(gather(self.rows.row_ids, self.rows.vectors, positions), queries, k)


def answer(
    over: Searchable, queries: Float32, k: int, settings: Settings, *, bitmap: UInt8 | None = None, share: float = 1.0
) -> Found:
    """Candidates of the index, re-ranked exactly from its rows. May find fewer than k: the lists it looks into are few.

    Where only a share of the rows is allowed, as many more lists are looked into, so that as many allowed rows
    are scored as without a filter.
    """
    fetch = min(max(spare(k), settings.rerank * k // 10), len(over.rows))
    nprobe = int(np.ceil(settings.nprobe / share))
    _, ids = nearest(over.index, over.kind, queries, fetch, nprobe, bitmap)
    if over.stale:
        ids = _once(ids)
    positions = over.rows.positions(ids)
    return best(rescore(over.rows.vectors, positions, queries), np.where(positions >= 0, ids, -1), k)


def load(directory: Path) -> VectorIndex | None:
    """The current index of a directory, checked by hash; None where none was built. Raises IndexFileError."""
    manifest = read_manifest(directory)
    while manifest is not None:
        try:
            return _load(directory, manifest)
        except (IndexFileError, FileNotFoundError):
            current = read_manifest(directory)
            if current is None or current.generation == manifest.generation:
                raise
            manifest = current  # a builder replaced it, and removed its files, while we were reading
    return None


def _load(directory: Path, manifest: Manifest) -> VectorIndex:
    if manifest.kind not in KINDS:
        raise IndexFileError(f"{directory}: index kind {manifest.kind!r} is not known here. Upgrade embedding-indexer.")
    verify(directory, manifest)
    rows = VectorFile(vector_paths(directory, manifest.generation), manifest.dim)
    return VectorIndex(manifest, read_index(index_path(directory, manifest.generation)), rows)


def _once(ids: Int64) -> Int64:
    """Each row's ids with repeats set to -1: an updated row has two entries where the old one cannot be removed."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, 1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1
    out = np.empty_like(ids)
    np.put_along_axis(out, order, ordered, 1)
    return out
