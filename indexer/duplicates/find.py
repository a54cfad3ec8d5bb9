"""Finds near-duplicate images in a table: pairs, clusters, and pairs across patients or splits (leakage)."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from indexer.duplicates.options import NearOptions
from indexer.duplicates.pairs import Pairs, close_pairs
from indexer.errors import InputError
from indexer.progress.silent import SILENT
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float16, Int64, Progress

NOT_NEAR = -1
BLOCK_PAIRS = 1 << 18  # pairs whose keys and columns are held at once
TAKE_ROWS = 65_536


@dataclass(frozen=True)
class NearReport:
    """Counts over all pairs at or above the threshold."""

    table: str
    version: int
    rows: int
    threshold: float
    pairs: int
    same_bytes: int  # pairs of images whose files are equal
    clusters: int  # connected components of the pairs
    rows_in_clusters: int
    largest_cluster: int
    within_group: int | None  # None where no group column was named
    across_groups: int | None
    group_unknown: int | None  # pairs in which a row has no group
    across_splits: int | None
    split_pairs: dict[str, int] | None  # "test / train" → number of pairs
    leaked_rows: dict[str, int] | None  # split → number of its rows with a near-duplicate in another split
    candidates: int  # pairs scored in full; all others were excluded by a bound
    seconds: float


@dataclass(frozen=True)
class _Rows:
    """The compared rows. Keys and columns are read for rows in a pair only."""

    row_ids: Int64
    vectors: Float16


def find_near_duplicates(
    store: EmbeddingStore, options: NearOptions, *, progress: Progress = SILENT
) -> tuple[NearReport, pa.Table]:
    """The summary, and one row for each pair: keys, score, cluster, and both rows' group and split where requested.

    Exact: every pair over the threshold is found.
    """
    blocks: list[pa.Table] = []
    report = stream_near_duplicates(store, options, blocks.append, progress=progress)
    return report, pa.concat_tables(blocks)


def stream_near_duplicates(
    store: EmbeddingStore,
    options: NearOptions,
    sink: Callable[[pa.Table], None],
    *,
    progress: Progress = SILENT,
) -> NearReport:
    """As `find_near_duplicates`, but the pairs are passed to `sink` in blocks, at least one, in bounded memory."""
    started = time.perf_counter()
    view = store.at(store.version)
    columns = _columns(view, options)
    with tempfile.TemporaryDirectory(prefix="near-duplicates-") as folder:
        rows = _read(view, options, Path(folder), progress)
        pairs = _pairs(rows.vectors, options, Path(folder), progress)
        n = len(rows.vectors)
        clusters = _clusters(pairs, n)
        counts = _Counts(options, n)
        for block in _blocks(view, rows.row_ids, pairs, clusters, columns):
            counts.add(block)
            sink(block.table)
    sizes = np.bincount(clusters[clusters >= 0], minlength=1)
    return NearReport(
        table=view.name,
        version=view.version,
        rows=n,
        threshold=options.threshold,
        pairs=len(pairs.a),
        clusters=int((sizes > 0).sum()),
        rows_in_clusters=int(sizes.sum()),
        largest_cluster=int(sizes.max()),
        candidates=pairs.candidates,
        seconds=round(time.perf_counter() - started, 3),
        **counts.facts(),
    )


def _columns(view: EmbeddingStore, options: NearOptions) -> list[str]:
    extra = [c for c in (options.group, options.split) if c is not None]
    for name in extra:
        if name not in view.columns():
            raise InputError(f"no column {name!r} in table {view.name}; it has {', '.join(view.columns()) or 'none'}.")
    return list(dict.fromkeys(["key", "content", *extra]))


def _read(view: EmbeddingStore, options: NearOptions, folder: Path, progress: Progress) -> _Rows:
    n = view.count(options.where)
    vectors = _array((n, view.dim), np.float16, folder / "vectors", options.memory_bytes)
    row_ids, done = np.empty(n, np.int64), 0
    with progress.stage("reading vectors", n):
        for batch in view.scan([], options.where, vectors=True):
            part = slice(done, done + batch.num_rows)
            vectors[part] = vector_block(batch)
            row_ids[part] = batch.column("_rowid").to_numpy()
            done += batch.num_rows
            progress.advance(batch.num_rows)
    return _Rows(row_ids, vectors)


def _pairs(vectors: Float16, options: NearOptions, folder: Path, progress: Progress) -> Pairs:
    if len(vectors) < 2:
        none = np.empty(0, np.int64)
        return Pairs(none, none, np.empty(0), 0, 0)
    room = max(options.memory_bytes - vectors.nbytes, 0)

    def scratch(shape: tuple[int, int]) -> Any:
        return _array(shape, np.float32, folder / "rotated", room)

    return close_pairs(vectors, options.threshold, max_pairs=options.max_pairs, scratch=scratch, progress=progress)


def _array(shape: tuple[int, int], kind: npt.DTypeLike, path: Path, memory_bytes: int) -> Any:
    """An array in memory, or mapped to a file where it is larger than `memory_bytes`."""
    nbytes = int(np.prod(shape)) * np.dtype(kind).itemsize
    return np.empty(shape, kind) if nbytes <= memory_bytes else np.memmap(path, kind, "w+", shape=shape)


def _clusters(pairs: Pairs, n: int) -> Int64:
    """A cluster number (n,) for each row, from 0, the largest cluster first; NOT_NEAR for a row in no pair."""
    links = coo_array((np.ones(len(pairs.a), np.int8), (pairs.a, pairs.b)), shape=(n, n))
    _, labels = connected_components(links, directed=False)
    sizes = np.bincount(labels, minlength=1)
    rank = np.full(len(sizes), NOT_NEAR)
    order = np.argsort(-sizes, kind="stable")
    order = order[sizes[order] > 1]
    rank[order] = np.arange(len(order))
    clusters: Int64 = rank[labels].astype(np.int64)
    return clusters


@dataclass(frozen=True)
class _Block:
    """A block of pairs, with both rows of each as positions in the columns read."""

    a: Int64
    b: Int64
    table: pa.Table


def _blocks(
    view: EmbeddingStore, row_ids: Int64, pairs: Pairs, clusters: Int64, columns: list[str]
) -> Iterator[_Block]:
    for start in range(0, max(len(pairs.a), 1), BLOCK_PAIRS):
        part = slice(start, start + BLOCK_PAIRS)
        a, b = pairs.a[part], pairs.b[part]
        involved = np.union1d(a, b)
        facts = _taken(view, row_ids[involved], columns)
        first, second = (facts.take(pa.array(np.searchsorted(involved, side))) for side in (a, b))
        table: dict[str, Any] = {
            "key_a": first.column("key"),
            "key_b": second.column("key"),
            "score": pa.array(pairs.scores[part]),
            "cluster": pa.array(clusters[a]),
            "same_bytes": pc.equal(first.column("content"), second.column("content")),
        }
        for name in columns[2:]:
            table[f"{name}_a"], table[f"{name}_b"] = first.column(name), second.column(name)
        yield _Block(a, b, pa.table(table))


def _taken(view: EmbeddingStore, row_ids: Int64, columns: list[str]) -> pa.Table:
    """These columns of the rows, in order."""
    kinds = {"key": pa.string(), "content": pa.string(), **view.columns()}
    # Fields differ in nullability between tables; only names and types matter here.
    schema = pa.schema([pa.field(name, kinds[name]) for name in columns])
    parts = [
        view.take(row_ids[start : start + TAKE_ROWS], columns)[1].select(columns).cast(schema)
        for start in range(0, len(row_ids), TAKE_ROWS)
    ]
    return pa.concat_tables([*parts, schema.empty_table()])


class _Counts:
    """Counts of pairs within and across groups and splits, and of leaking rows, accumulated by block."""

    def __init__(self, options: NearOptions, n: int) -> None:
        self._group, self._split = options.group, options.split
        self._same_bytes = 0
        self._groups, self._splits, self._leaked = Counter[Any](), Counter[str](), Counter[str]()
        self._seen = np.zeros(n, bool)  # rows already counted as leaking

    def add(self, block: _Block) -> None:
        table = block.table
        self._same_bytes += pc.sum(table.column("same_bytes")).as_py() or 0
        if self._group is not None:
            same = pc.equal(table.column(f"{self._group}_a"), table.column(f"{self._group}_b"))
            self._groups.update(same.to_pylist())
        if self._split is not None:
            self._add_splits(block)

    def _add_splits(self, block: _Block) -> None:
        names = [f"{self._split}_a", f"{self._split}_b"]
        unequal = pc.fill_null(pc.not_equal(*(block.table.column(name) for name in names)), False)
        across = np.flatnonzero(unequal.to_numpy(zero_copy_only=False))
        first, second = (block.table.column(name).take(pa.array(across)).to_pylist() for name in names)
        self._splits.update(" / ".join(sorted((str(x), str(y)))) for x, y in zip(first, second, strict=True))
        for side, values in ((block.a, first), (block.b, second)):
            for row, value in zip(side[across].tolist(), values, strict=True):
                self._leaked[str(value)] += not self._seen[row]
                self._seen[row] = True

    def facts(self) -> dict[str, Any]:
        """The fields of NearReport; None for those not requested."""
        grouped, split = self._group is not None, self._split is not None
        return {
            "same_bytes": self._same_bytes,
            "within_group": self._groups[True] if grouped else None,
            "across_groups": self._groups[False] if grouped else None,
            "group_unknown": self._groups[None] if grouped else None,
            "across_splits": self._splits.total() if split else None,
            "split_pairs": dict(sorted(self._splits.items())) if split else None,
            "leaked_rows": dict(sorted(self._leaked.items())) if split else None,
        }
