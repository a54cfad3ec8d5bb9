"""Near-equal images in a table: pairs, clusters, and whether they cross patients or splits (leakage)."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from indexer.duplicates.pairs import Pairs, close_pairs
from indexer.errors import InputError, sentence
from indexer.store.table import EmbeddingStore, vector_block
from indexer.types import Float16, Int64

NOT_NEAR = -1


@dataclass(frozen=True)
class NearOptions:
    """What counts as near, and across what."""

    threshold: float = 0.95  # cosine
    where: str | None = None
    group: str | None = None  # column whose rows belong together, e.g. the patient
    split: str | None = None  # column that names training and test rows
    max_pairs: int = 20_000_000
    memory_bytes: int = 4 << 30  # of arrays held; more is mapped from a temporary file


@dataclass(frozen=True)
class NearReport:
    """Counts over all pairs at or above the threshold."""

    table: str
    version: int
    rows: int
    threshold: float
    pairs: int
    same_bytes: int  # pairs of images whose files are equal
    clusters: int  # rows linked by pairs, directly or through others
    rows_in_clusters: int
    largest_cluster: int
    within_group: int | None  # None where no group column was named
    across_groups: int | None
    group_unknown: int | None  # pairs in which a row has no group
    across_splits: int | None
    split_pairs: dict[str, int] | None  # "test / train" → pairs
    leaked_rows: dict[str, int] | None  # split → its rows that have a near duplicate in another split
    candidates: int  # pairs scored in full; all others were ruled out by a bound
    seconds: float


@dataclass(frozen=True)
class _Rows:
    vectors: Float16
    columns: pa.Table


def find_near_duplicates(
    store: EmbeddingStore, options: NearOptions, *, progress: Callable[[int, int], None] | None = None
) -> tuple[NearReport, pa.Table]:
    """The summary, and one row a pair: keys, score, cluster, and both rows' group and split where they were named.

    Exact: every pair over the threshold is found. `progress` gets (pairs looked at, of all).
    """
    started = time.perf_counter()
    if not 0 < options.threshold <= 1:
        raise InputError(f"--threshold {options.threshold:g} is no cosine above 0 and up to 1.")
    view = store.at(store.version)
    with tempfile.TemporaryDirectory(prefix="near-duplicates-") as folder:
        rows = _read(view, options, Path(folder))
        pairs = _pairs(rows.vectors, options, Path(folder), progress)
        clusters = _clusters(pairs, len(rows.vectors))
        table = _table(rows, pairs, clusters, options)
    report = _report(view, table, clusters, options)
    return NearReport(**report, candidates=pairs.candidates, seconds=round(time.perf_counter() - started, 3)), table


def write_pairs(table: pa.Table, path: Path) -> None:
    """As Parquet. Raises InputError where the file cannot be written."""
    try:
        pq.write_table(table, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {sentence(error)}.") from error


def _read(view: EmbeddingStore, options: NearOptions, folder: Path) -> _Rows:
    extra = [c for c in (options.group, options.split) if c is not None]
    for name in extra:
        if name not in view.columns():
            raise InputError(f"no column {name!r} in table {view.name}; it has {', '.join(view.columns()) or 'none'}.")
    columns = list(dict.fromkeys(["key", "content", *extra]))
    n = view.count(options.where)
    vectors = _array((n, view.dim), np.float16, folder / "vectors", options.memory_bytes)
    parts, done = [], 0
    for batch in view.scan(columns, options.where, vectors=True):
        vectors[done : done + batch.num_rows] = vector_block(batch)
        parts.append(batch.select(columns))
        done += batch.num_rows
    kinds = {"key": pa.string(), "content": pa.string(), **view.columns()}
    schema = pa.schema([pa.field(c, kinds[c]) for c in columns])
    # Fields differ in nullability between tables; only names and types matter here.
    table = pa.concat_tables([pa.Table.from_batches([part]).cast(schema) for part in parts] or [schema.empty_table()])
    return _Rows(vectors, table)


def _pairs(vectors: Float16, options: NearOptions, folder: Path, progress: Callable[[int, int], None] | None) -> Pairs:
    if len(vectors) < 2:
        none = np.empty(0, np.int64)
        return Pairs(none, none, np.empty(0, np.float32), 0, 0)
    room = max(options.memory_bytes - vectors.nbytes, 0)

    def scratch(shape: tuple[int, int]) -> Any:
        return _array(shape, np.float32, folder / "rotated", room)

    return close_pairs(vectors, options.threshold, max_pairs=options.max_pairs, scratch=scratch, progress=progress)


def _array(shape: tuple[int, int], kind: npt.DTypeLike, path: Path, memory_bytes: int) -> Any:
    """An array in memory, or mapped to a file where it is larger than the memory given."""
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


def _table(rows: _Rows, pairs: Pairs, clusters: Int64, options: NearOptions) -> pa.Table:
    a, b = rows.columns.take(pa.array(pairs.a)), rows.columns.take(pa.array(pairs.b))
    columns: dict[str, Any] = {
        "key_a": a.column("key"),
        "key_b": b.column("key"),
        "score": pa.array(pairs.scores),
        "cluster": pa.array(clusters[pairs.a]),
        "same_bytes": pc.equal(a.column("content"), b.column("content")),
    }
    for name in (options.group, options.split):
        if name is not None:
            columns[f"{name}_a"], columns[f"{name}_b"] = a.column(name), b.column(name)
    return pa.table(columns)


def _report(view: EmbeddingStore, table: pa.Table, clusters: Int64, options: NearOptions) -> dict[str, Any]:
    sizes = np.bincount(clusters[clusters >= 0], minlength=1)
    within = across = unknown = splits = leaked = None
    if options.group is not None:
        same = pc.equal(table.column(f"{options.group}_a"), table.column(f"{options.group}_b"))
        counts = Counter(same.to_pylist())
        within, across, unknown = counts[True], counts[False], counts[None]
    if options.split is not None:
        splits, leaked = _leakage(table, options.split)
    return {
        "table": view.name,
        "version": view.version,
        "rows": len(clusters),
        "threshold": options.threshold,
        "pairs": table.num_rows,
        "same_bytes": pc.sum(table.column("same_bytes")).as_py() or 0,
        "clusters": int((sizes > 0).sum()),
        "rows_in_clusters": int(sizes.sum()),
        "largest_cluster": int(sizes.max()),
        "within_group": within,
        "across_groups": across,
        "group_unknown": unknown,
        "across_splits": None if splits is None else sum(splits.values()),
        "split_pairs": splits,
        "leaked_rows": leaked,
    }


def _leakage(table: pa.Table, split: str) -> tuple[dict[str, int], dict[str, int]]:
    """Pairs by the two splits they join, and each split's rows that have a near duplicate in another."""
    names = [f"{split}_a", f"{split}_b"]
    different = table.filter(pc.fill_null(pc.not_equal(table.column(names[0]), table.column(names[1])), False))
    first, second = (different.column(name).to_pylist() for name in names)
    pairs = Counter(" / ".join(sorted((str(x), str(y)))) for x, y in zip(first, second, strict=True))
    rows: dict[str, set[str]] = {}
    for side, values in (("key_a", first), ("key_b", second)):
        for key, value in zip(different.column(side).to_pylist(), values, strict=True):
            rows.setdefault(str(value), set()).add(key)
    return dict(sorted(pairs.items())), {value: len(keys) for value, keys in sorted(rows.items())}
