"""Groups the rows of one picture into classes, so that only one row of each class is compared.

A class holds the rows of equal image bytes (for a file with several parts: of equal part too), and of equal vectors.
Its rows are near-duplicates of score 1, and are compared with other rows by the vector of the first of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.duplicates.scratch import VECTORS, Scratch, chunks
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Bool, Float16, Int32, Int64, Progress

PICTURE = ("content", "part")  # columns that are equal for equal pictures
READ_ROWS = 1_024  # of a batch; Lance reads some sixteen batches ahead
NONE = 0  # the hash of a row that equals no other


@dataclass(frozen=True)
class Copies:
    """The compared rows, by class. Arrays are mapped."""

    row_ids: Int64  # (n,)
    class_of: Int64  # (n,)
    first: Int64  # (c,) position of each class's first row, ascending
    sizes: Int64  # (c,) rows of each class
    vectors: Float16  # (c, dim) of each class's first row
    same_bytes: int  # pairs of rows of equal image bytes
    columns: dict[str, Codes]


@dataclass(frozen=True)
class Codes:
    """A column with a number for each distinct value."""

    codes: Int32  # (n,) -1 for a null or NaN
    names: list[str]  # of the codes


def read_copies(
    view: EmbeddingStore, where: str | None, columns: Sequence[str], scratch: Scratch, progress: Progress
) -> Copies:
    """Read the rows that match, with these columns as codes, and group them."""
    n = view.count(where)
    vectors, row_ids = scratch.zeros((n, view.dim), np.float16), scratch.zeros((n,), np.int64)
    hashes, done = scratch.zeros((n,), np.int64), 0
    held: dict[str, list[Any]] = {name: [] for name in columns}
    with progress.stage("reading vectors", n):
        for batch in view.scan([*PICTURE, *columns], where, vectors=True, batch_rows=READ_ROWS):
            part = slice(done, done + batch.num_rows)
            vectors[part], row_ids[part] = vector_block(batch), batch.column("_rowid").to_numpy()
            hashes[part] = _hashes(zip(*(batch.column(name).to_pylist() for name in PICTURE), strict=True))
            for name, parts in held.items():
                parts.append(batch.column(name))
            done += batch.num_rows
            progress.advance(batch.num_rows)
    codes = {name: _codes(held.pop(name), n, scratch) for name in columns}
    with progress.stage("grouping copies", 2 * n):
        first, same_bytes = _firsts(view, row_ids, vectors, hashes, scratch, progress)
        class_of, firsts, sizes = _classes(first, scratch)
        if len(firsts) < n:
            for part in chunks(len(firsts), VECTORS):  # in place: a class's first row never stands before the class
                vectors[part] = vectors[firsts[part]]
    return Copies(row_ids, class_of, firsts, sizes, vectors[: len(firsts)], same_bytes, codes)


def _hashes(values: Any) -> Int64:
    """Hashes of (content, part); NONE where the content is not known."""
    return np.array([hash(value) or 1 if value[0] else NONE for value in values], np.int64)


def _codes(parts: list[Any], n: int, scratch: Scratch) -> Codes:
    codes = scratch.zeros((n,), np.int32)
    if not n:
        return Codes(codes, [])
    encoded = pa.chunked_array(parts).dictionary_encode()
    values = encoded.chunk(0).dictionary
    names = [None if value is None or _is_nan(value) else str(value) for value in values.to_pylist()]
    missing = np.array([i for i, name in enumerate(names) if name is None], np.int64)
    done = 0
    for chunk in encoded.chunks:
        own = pc.fill_null(chunk.indices, -1).to_numpy(zero_copy_only=False)
        codes[done : done + len(own)] = np.where(np.isin(own, missing), -1, own)
        done += len(own)
    return Codes(codes, [name or "" for name in names])


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _firsts(
    view: EmbeddingStore, row_ids: Int64, vectors: Float16, hashes: Int64, scratch: Scratch, progress: Progress
) -> tuple[Int64, int]:
    """For each row the position of its class's first row, and the number of pairs of equal image bytes."""
    n = len(row_ids)
    first = scratch.zeros((n,), np.int64)
    for part in chunks(n):
        first[part] = np.arange(part.start, part.stop)

    def same_picture(rows: Int64, others: Int64) -> Bool:
        one, other = (view.take(row_ids[x], PICTURE)[1] for x in (rows, others))
        same = pc.and_(*(pc.equal(one.column(name), other.column(name)) for name in PICTURE))
        return np.asarray(pc.fill_null(same, False).to_numpy(), bool)

    def same_vector(rows: Int64, others: Int64) -> Bool:
        equal: Bool = (vectors[rows].view(np.uint16) == vectors[others].view(np.uint16)).all(1)
        return equal

    members = _join(first, hashes, same_picture, scratch)
    counts = np.unique(members, return_counts=True)[1]
    same_bytes = int((counts * (counts + 1) // 2).sum())  # members other than the first
    progress.advance(n)
    for part in chunks(n, VECTORS):
        rows = vectors[part]
        direction = np.isfinite(rows).all(1) & (rows != 0).any(1)
        alone = direction & (first[part] == np.arange(part.start, part.stop))
        hashes[part] = [hash(row.tobytes()) or 1 if ok else NONE for row, ok in zip(rows, alone, strict=True)]
        progress.advance(len(rows))
    _join(first, hashes, same_vector, scratch)
    for part in chunks(n):  # a row of a class by its bytes follows that class's first row into one by its vector
        first[part] = first[first[part]]
    return first, same_bytes


def _join(first: Int64, hashes: Int64, same: Callable[[Int64, Int64], Bool], scratch: Scratch) -> Int64:
    """Give the rows of equal hashes that are the `same` one first row; returns it for each row that is not the first.

    Memory grows with the rows that have a copy, not with all rows.
    """
    ordered = scratch.zeros(hashes.shape, np.int64)
    ordered[:] = hashes
    ordered.sort()
    repeated = [ordered[max(p.start - 1, 0) : p.stop] for p in chunks(len(ordered))]
    values = np.unique(np.concatenate([np.empty(0, np.int64), *(x[1:][x[1:] == x[:-1]] for x in repeated)]))
    values = values[values != NONE]
    found = [p.start + np.flatnonzero(np.isin(hashes[p], values)) for p in chunks(len(hashes))] if len(values) else []
    rows = np.concatenate([np.empty(0, np.int64), *found])
    rows = rows[np.argsort(hashes[rows], kind="stable")]
    starts = np.flatnonzero(np.r_[True, np.diff(hashes[rows]) != 0]) if len(rows) else np.empty(0, np.int64)
    heads = np.repeat(rows[starts], np.diff(np.r_[starts, len(rows)]))
    joined = []
    for part in chunks(len(rows), VECTORS):
        own, head = rows[part], heads[part]
        equal = (own != head) & same(own, head)
        first[own[equal]] = head[equal]
        joined.append(head[equal])
    return np.concatenate([np.empty(0, np.int64), *joined])


def _classes(first: Int64, scratch: Scratch) -> tuple[Int64, Int64, Int64]:
    """Class numbers (n,) in order of their first rows, those rows (c,), and the number of rows (c,)."""
    n, c = len(first), 0
    class_of = scratch.zeros((n,), np.int64)
    for part in chunks(n):
        own = first[part] == np.arange(part.start, part.stop)
        class_of[part][own] = np.arange(c, c + int(own.sum()))
        c += int(own.sum())
    firsts, sizes = scratch.zeros((c,), np.int64), scratch.zeros((c,), np.int64)
    for part in chunks(n):
        class_of[part] = class_of[first[part]]
        np.add.at(sizes, class_of[part], 1)
        own = first[part] == np.arange(part.start, part.stop)
        firsts[class_of[part][own]] = np.flatnonzero(own) + part.start
    return class_of, firsts, sizes
