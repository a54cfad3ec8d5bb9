"""A loaded index: its engine proposes candidates, which are re-ranked by their stored vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from indexer.ann.engines.kinds import ENGINES
from indexer.ann.engines.protocol import IndexEngine, K
from indexer.ann.exact import BLOCK_ROWS, Block, Found, exact_topk, kth_score, no_hits, padded, replaced, spare
from indexer.ann.files import index_path, vector_paths, verify
from indexer.ann.manifest import WAY_OUT, Manifest, Settings, read_manifest
from indexer.ann.rerank import rank
from indexer.ann.rowset import RowSet
from indexer.ann.sound import unsound
from indexer.ann.vectors import Rows, VectorFile
from indexer.errors import IndexFileError
from indexer.types import Bool, Float64, Int64

EXACT_SCAN_ROWS = 50_000  # up to so many allowed rows are scanned exactly: about 10 ms at 512 dimensions
MAX_INDEX_K = 2_048  # for larger k the index's heaps cost more than a scan
# Recall is measured for the nearest rows. Under a filter the hits may be farther than the NEAR·k nearest of all rows,
# where the tuned settings found as few as a fifth of them (benchmarks/filters). The search is then repeated WIDER times
# as wide until the best CHECKED hits stayed AGREE times, or a scan takes less time.
NEAR, WIDER, CHECKED, AGREE = 4, 4, 20, 2
# Lists hold fewer of the 100 nearest than of the 10 for which their number is tuned: recall .957 for .984 at 200,000
# overlapping rows of 512 numbers. With (k / 10)^DEEPER as many lists it is .993, for an eighth more time; as many rows
# as SEEN_EACH for each hit matter where a table is small, or most of the nearest rows are excluded.
DEEPER, SEEN_EACH = 0.25, 8
TUNED = K + 1  # hits up to which the settings are as measured; one more, since a stored row finds itself
GATHERED = 35  # time for a row that is ranked, by that for one of a scan of all rows: 500 of 200,000 rows take 6 ms
LINKS = 32  # rows that a graph sees for each entry of its queue
SEEN, RANKED = 1 / 8, 4  # time for a row that an index sees, or that is ranked, by that for a row scanned: roughly


@dataclass(frozen=True)
class Allowed:
    """The rows of an index that a search may return."""

    rows: RowSet
    count: int  # of rows of the index among them


@dataclass(frozen=True)
class Searchable:
    """An engine's index and the rows that its ids refer to."""

    index: Any
    engine: IndexEngine
    rows: Rows
    stale: bool = False  # has entries whose row was deleted or updated


@dataclass
class Effort:
    """How the queries of one search were answered."""

    tuned: int = 0  # by the index, with the settings that its recall was measured with
    widened: int = 0  # by the index, under a filter, ever wider until no hit changed
    scanned: int = 0  # by an exact scan

    def __str__(self) -> str:
        ways = {
            "searched as widely as measured": self.tuned,
            "searched more widely until the hits stayed": self.widened,
            "scanned exactly": self.scanned,
        }
        used = {words: count for words, count in ways.items() if count}
        if len(used) == 1:
            return next(iter(used))
        return ", ".join(f"{count} {words}" for words, count in used.items())


class VectorIndex:
    """A loaded index. Immutable: threads may search it concurrently."""

    def __init__(self, manifest: Manifest, index: Any, rows: VectorFile) -> None:
        self.manifest, self.rows = manifest, rows
        self._searchable = Searchable(index, ENGINES[manifest.kind], rows, manifest.stale > 0)

    @property
    def approximate(self) -> bool:
        return self._searchable.engine.error is None

    @cached_property
    def row_set(self) -> RowSet:
        """The ids of the index's rows. Raises IndexFileError for ids that no table of this size has."""
        return RowSet.of(self.rows.sound_ids(65_536))

    def allow(self, rows: RowSet) -> Allowed:
        """The given rows that are in the index."""
        inside = rows & self.row_set
        return Allowed(inside, len(inside))

    def search(self, queries: Float64, k: int, allowed: Allowed | None = None, filtered: Effort | None = None) -> Found:
        """The k best allowed rows of each unit query (q, dim) with exact scores; id -1 where fewer are allowed.

        `filtered` is given where the user chose the allowed rows, and notes how the queries were answered: these rows
        may be far from the query, where the tuned settings find few of them.
        """
        n = len(self.rows) if allowed is None else allowed.count
        k, effort = min(k, n), filtered or Effort()
        if not k or not len(queries):
            return no_hits(len(queries), k)
        if k > MAX_INDEX_K or (n <= EXACT_SCAN_ROWS if allowed is not None else self._scan_is_as_quick(k)):
            effort.scanned += len(queries)
            return self.scan(queries, k, allowed)
        found = padded(answer(self._searchable, queries, k, self._settings(k), allowed), k)
        left = found[1][:, -1] < 0  # the searched lists held too few rows, though k rows are allowed
        if filtered is None and not left.any():
            return found
        far = np.zeros(len(queries), bool)
        if filtered is not None and allowed is not None and self.approximate:
            far = left | ~self._near(queries, found, allowed)
            wider, left[far] = self._widened(queries[far], k, allowed)
            found = replaced(found, far, wider)
        if left.any():
            found = replaced(found, left, self.scan(queries[left], k, allowed))
        effort.tuned += int((~far & ~left).sum())
        effort.widened += int((far & ~left).sum())
        effort.scanned += int(left.sum())
        return found

    def _scan_is_as_quick(self, k: int) -> bool:
        """Whether ranking the candidates for k hits takes as long as a scan of all rows, which misses none."""
        ranked = self.manifest.settings.rerank * k / K
        return self.approximate and k > TUNED and GATHERED * ranked >= len(self.rows)

    def _settings(self, k: int) -> Settings:
        """For k hits; those of the manifest are tuned for K."""
        tuned, lists = self.manifest.settings, self.manifest.nlist
        if not lists or k <= TUNED:
            return tuned
        wide = max(tuned.nprobe * math.pow(k / K, DEEPER), SEEN_EACH * k * lists / len(self.rows))
        return replace(tuned, nprobe=min(math.ceil(wide), lists))

    def _near(self, queries: Float64, found: Found, allowed: Allowed) -> Bool:
        """Mask (q,) of the queries whose k hits are among the nearest rows with or without the filter, for which the
        settings were measured.
        """
        over, settings = self._searchable, self.manifest.settings
        m = min(NEAR * found[1].shape[1], len(self.rows))
        width = math.ceil(settings.nprobe * len(self.rows) / allowed.count)
        scores, ids = over.engine.candidates(over.index, queries, m, width)
        near: Bool = (found[0][:, -1] >= scores[:, -1]) | (ids[:, -1] < 0)
        return near

    def _widened(self, queries: Float64, k: int, allowed: Allowed) -> tuple[Found, Bool]:
        """A search that is repeated ever wider until the best hits stay, and a mask (q,) of where they never did."""
        settings, m = self.manifest.settings, max(k, CHECKED)
        found, stayed = no_hits(len(queries), m), np.zeros(len(queries), np.int64)
        while not (stayed >= AGREE).all() and self._pays(settings, m, allowed):
            left = stayed < AGREE
            wider = padded(answer(self._searchable, queries[left], m, settings, allowed), m)
            changed = (wider[0] > found[0][left]).any(1) | (wider[1][:, k - 1] < 0)
            found = replaced(found, left, wider)
            stayed[left] = np.where(changed, 0, stayed[left] + 1)
            settings = Settings(settings.nprobe * WIDER, settings.rerank * WIDER)
        return (found[0][:, :k], found[1][:, :k]), stayed < AGREE

    def _pays(self, settings: Settings, k: int, allowed: Allowed) -> bool:
        """Whether a search with these settings takes less than a scan of the allowed rows, roughly."""
        n, lists = len(self.rows), self.manifest.nlist
        width = settings.nprobe * n / allowed.count
        seen = width * (n / lists if lists else LINKS)
        return SEEN * seen + RANKED * settings.rerank * k / K < allowed.count

    def scan(self, queries: Float64, k: int, allowed: Allowed | None = None) -> Found:
        """`search` without the index: an exact scan of every allowed row's stored vector."""
        return scan(self.rows, queries, k, allowed)


def scan(rows: Rows, queries: Float64, k: int, allowed: Allowed | None = None) -> Found:
    """Exact search over the allowed rows."""
    blocks = rows.scan() if allowed is None else blocks_of(rows, allowed.rows)
    return exact_topk(blocks, queries, k, rows.slack)


def blocks_of(rows: Rows, chosen: RowSet) -> Iterator[Block]:
    """Blocks of the chosen rows, in bounded memory."""
    for ids in chosen.ids():
        positions = rows.positions(ids)
        yield from gather(rows, positions[positions >= 0])


def gather(rows: Rows, positions: Int64) -> Iterator[Block]:
    """Blocks of the rows at these positions; they may lie in a memory map larger than memory."""
    for start in range(0, len(positions), BLOCK_ROWS):
        part = positions[start : start + BLOCK_ROWS]
        yield rows.row_ids[part], rows.take(part)


def answer(over: Searchable, queries: Float64, k: int, settings: Settings, allowed: Allowed | None = None) -> Found:
    """Candidates of the index, re-ranked exactly by the stored rows. May find fewer than k in the searched lists.

    Where only a share of the rows is allowed, nprobe is raised in proportion, so that as many allowed rows are scored
    as without a filter.
    """
    rows, engine = over.rows, over.engine
    fetch = min(max(spare(k), settings.rerank * k // 10), len(rows))
    share = 1.0 if allowed is None else allowed.count / len(rows)
    bitmap = None if allowed is None else allowed.rows.bits
    scores, ids = engine.candidates(over.index, queries, fetch, int(np.ceil(settings.nprobe / share)), bitmap)
    if over.stale:
        ids = _once(ids)
    found = padded(rank(rows, rows.positions(ids), queries, ids, k), k)
    if engine.error is None or fetch >= len(rows):
        return found
    left = (ids[:, -1] >= 0) & ~(scores[:, -1] + engine.error < kth_score(found, k))
    return replaced(found, left, scan(rows, queries[left], k, allowed)) if left.any() else found


def load(directory: Path, *, whole: bool = False) -> VectorIndex | None:
    """The current index of a directory, checked by hash; None where none was built. Raises IndexFileError.

    A file that was hashed before and has not changed since is not hashed again, unless `whole`.
    """
    manifest = read_manifest(directory)
    while manifest is not None:
        try:
            return _load(directory, manifest, whole=whole)
        except (IndexFileError, FileNotFoundError):
            current = read_manifest(directory)
            if current is None or current.generation == manifest.generation:
                raise
            manifest = current  # a builder replaced the index and removed its files during the read
    return None


def _load(directory: Path, manifest: Manifest, *, whole: bool) -> VectorIndex:
    if manifest.kind not in ENGINES:
        raise IndexFileError(f"{directory}: index kind {manifest.kind!r} is not known here. Upgrade embedding-indexer.")
    engine = ENGINES[manifest.kind]
    verify(directory, manifest, whole=whole)
    rows = VectorFile(vector_paths(directory, manifest.generation), manifest.dim, manifest.slack)
    path = index_path(directory, manifest.generation)
    index = engine.load(path)
    if cause := unsound(index, manifest):
        raise IndexFileError(f"{path} is not the index that its manifest describes: {cause}. {WAY_OUT}")
    return VectorIndex(manifest, index, rows)


def _once(ids: Int64) -> Int64:
    """Ids with repeats in each row set to -1: an updated row has two entries where the old one cannot be removed."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, 1)
    ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = -1
    out = np.empty_like(ids)
    np.put_along_axis(out, order, ordered, 1)
    return out
