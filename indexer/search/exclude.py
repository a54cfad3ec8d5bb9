"""Rows excluded from a query's hits: its own, and those with the same value in a column (e.g. the same patient)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.ann.rowset import RowSet
from indexer.errors import RowNotFound
from indexer.groups.values import column_kind
from indexer.search.snapshot import row_ids_of
from indexer.store.filters import quoted
from indexer.store.table import EmbeddingStore
from indexer.types import Int64
from indexer.user_tables.nearest import nearest_words

IN_LIST = 500  # values in one SQL list
FEW = 4_096  # up to so many row ids of one value are held as an array; more become a bitmap
FOLD = 65_536  # row ids of one value collected before they are added to its bitmap

OPTION = "--exclude-same"

Excluded = Int64 | RowSet  # few rows as ids, many as a set


def key_rows(view: EmbeddingStore, keys: Sequence[str]) -> Int64:
    """Row ids (q,) of the keys, in order. Raises RowNotFound for the first that is not stored."""
    wanted = pa.array(list(dict.fromkeys(keys)), pa.string())
    known: dict[str, int] = {}
    for batch, ids in rows_with(view, "key", wanted):
        known.update(zip(batch.column("key").to_pylist(), ids.tolist(), strict=True))
    for key in keys:
        if key not in known:
            names = (name for batch in view.scan(["key"]) for name in batch.column("key").to_pylist())
            raise RowNotFound(
                f"no row with key {key!r} in table {view.name}.{nearest_words(key, names)} "
                "`indexer failures` lists what was not embedded."
            )
    return np.array([known[key] for key in keys], np.int64)


def rows_by_content(view: EmbeddingStore, contents: Sequence[str]) -> list[Int64]:
    """For each sha256 of image bytes, the row ids of the image with that content."""
    members = rows_of_values(view, "content", list(contents))
    return [ids if isinstance(ids, np.ndarray) else np.concatenate(list(ids.ids())) for ids in members]


def same_value_rows(view: EmbeddingStore, column: str, own: Sequence[Int64]) -> list[Excluded]:
    """For each query, its own rows and all rows with the same value in `column`; a null equals no other value.

    Where a query's own rows have several values, the rows of all of them are excluded.
    """
    column_kind(view, column, OPTION)
    flat = np.concatenate([np.empty(0, np.int64), *own])
    _, table = view.take(flat, [column])
    stored = table.column(column).combine_chunks()
    codes = _codes(stored)
    members = _members_of(view, column, stored, codes)
    out: list[Excluded] = []
    at = 0
    for rows in own:
        values = np.unique(codes[at : at + len(rows)])
        at += len(rows)
        out.append(_union([rows, *(members[code] for code in values.tolist() if code >= 0)]))
    return out


def rows_of_values(view: EmbeddingStore, column: str, values: Sequence[Any], option: str = OPTION) -> list[Excluded]:
    """For each value, the rows that have it in `column`; none for a null and for a value that it cannot hold."""
    kind = column_kind(view, column, option)
    stored = pa.array([_as(value, kind) for value in values], kind)
    codes = _codes(stored)
    members = _members_of(view, column, stored, codes)
    return [members[code] if code >= 0 else np.empty(0, np.int64) for code in codes.tolist()]


def _as(value: Any, kind: pa.DataType) -> Any:
    """The value cast to the column's type; None where it cannot be."""
    if value is None:
        return None
    try:
        given = pa.scalar(str(value)) if pa.types.is_string(kind) and not isinstance(value, str) else pa.scalar(value)
        return given.cast(kind).as_py() if given.type != kind else value
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
        return None


def _codes(stored: pa.Array) -> Int64:
    """An integer code for each distinct value; -1 for a null or NaN, which equals no other value."""
    encoded = stored.dictionary_encode()
    codes: Int64 = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    missing = [i for i, v in enumerate(encoded.dictionary.to_pylist()) if v is None or is_nan(v)]
    codes[np.isin(codes, missing)] = -1
    return codes


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _members_of(view: EmbeddingStore, column: str, stored: pa.Array, codes: Int64) -> dict[int, Excluded]:
    """The rows of each value, by code, from one pass over the column."""
    first = {code: i for i, code in reversed(list(enumerate(codes.tolist()))) if code >= 0}
    if not first:
        return {}
    wanted = stored.take(pa.array(list(first.values())))
    members = [_Members() for _ in first]
    for batch, ids in rows_with(view, column, wanted):
        places = places_in(batch.column(column), wanted)
        for place in np.unique(places).astype(int).tolist():
            members[place].add(ids[places == place])
    return {code: m.excluded() for code, m in zip(first, members, strict=True)}


class _Members:
    """Collects the rows of one value."""

    def __init__(self) -> None:
        self._parts: list[Int64] = []
        self._held = 0
        self._set: RowSet | None = None

    def add(self, ids: Int64) -> None:
        self._parts.append(ids)
        self._held += len(ids)
        if self._held > FOLD:
            self._set = self._folded()
            self._parts, self._held = [], 0

    def excluded(self) -> Excluded:
        if self._set is None and self._held <= FEW:
            return np.concatenate([np.empty(0, np.int64), *self._parts])
        return self._folded()

    def _folded(self) -> RowSet:
        new = RowSet.of(self._parts)
        return new if self._set is None else self._set | new


def _union(parts: Sequence[Excluded]) -> Excluded:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.unique(np.concatenate([np.empty(0, np.int64), *(p for p in parts if isinstance(p, np.ndarray))]))
    return RowSet.of(ids for part in parts for ids in ([part] if isinstance(part, np.ndarray) else part.ids()))


def row_set(rows: Excluded) -> RowSet:
    """The rows as a set."""
    return rows if isinstance(rows, RowSet) else RowSet.of([rows])


def rows_with(
    view: EmbeddingStore, column: str, values: pa.Array, *, vectors: bool = False
) -> Iterator[tuple[pa.RecordBatch, Int64]]:
    """Blocks of the rows that have one of the values: the column, with the vectors where requested, and row ids."""
    for where in _filters(column, values):
        for batch in view.scan([column], where, vectors=vectors):
            known = None if where is not None else pc.is_in(_comparable(batch.column(column)), _comparable(values))
            found = batch if known is None else batch.filter(known)
            if found.num_rows:
                yield found, row_ids_of(found)


def places_in(column: pa.Array, values: pa.Array) -> Int64:
    """For each value of the column, all of which are among `values`, its place there."""
    found = pc.index_in(_comparable(column), _comparable(values))
    places: Int64 = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return places


def _comparable(values: pa.Array) -> pa.Array:
    """The values in a type that Arrow can look up: it has no such function for half-precision numbers."""
    return values.cast(pa.float32()) if pa.types.is_float16(values.type) else values


def _filters(column: str, values: pa.Array) -> Iterable[str | None]:
    """SQL conditions for types whose SQL literals are exact; [None], which reads the whole column, for all others."""
    kind = values.type
    if pa.types.is_string(kind):
        literals = [quoted(value) for value in values.to_pylist()]
    elif pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        literals = [str(value).lower() for value in values.to_pylist()]
    else:
        return [None]
    return [f"`{column}` IN ({', '.join(literals[i : i + IN_LIST])})" for i in range(0, len(literals), IN_LIST)]
