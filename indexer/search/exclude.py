"""Rows that a query must not find: itself, and those that share its value in a column (the same patient)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.errors import InputError, RowNotFound
from indexer.search.snapshot import row_ids_of
from indexer.store.table import EmbeddingStore, quoted
from indexer.types import Int64

IN_LIST = 500  # values in one SQL list


def key_rows(view: EmbeddingStore, keys: Sequence[str]) -> Int64:
    """Row ids (q,) of the keys, in order. Raises RowNotFound for the first that is not stored."""
    known = dict(_rows_with(view, "key", set(keys)))
    for key in keys:
        if key not in known:
            raise RowNotFound(
                f"no row with key {key!r} in table {view.name}. `indexer failures` lists what was not embedded."
            )
    return np.array([known[key] for key in keys], np.int64)


def rows_by_content(view: EmbeddingStore, contents: Sequence[str]) -> list[Int64]:
    """For each sha256 of image bytes, the rows that were made of them."""
    return rows_of_values(view, "content", contents)


def same_value_rows(view: EmbeddingStore, column: str, own: Sequence[Int64]) -> list[Int64]:
    """For each query's own rows, these and all rows with the same value in `column`; a null is like no other."""
    _require(view, column)
    flat = np.concatenate([np.empty(0, np.int64), *own])
    _, table = view.take(flat, [column])
    values = dict(zip(flat.tolist(), table.column(column).to_pylist(), strict=True))
    members = _members(view, column, values.values())
    out = []
    for rows in own:
        same = [m for r in rows.tolist() for m in members.get(values[r], [])]
        out.append(np.unique(np.array([*rows, *same], np.int64)))
    return out


def rows_of_values(view: EmbeddingStore, column: str, values: Sequence[Any]) -> list[Int64]:
    """For each value the rows that have it in `column`; none for a null."""
    _require(view, column)
    if pa.types.is_string(view.columns().get(column, pa.string())):
        values = [None if value is None else str(value) for value in values]
    members = _members(view, column, values)
    return [np.array(members.get(value, []), np.int64) for value in values]


def literal(value: Any) -> str:
    """A SQL literal of a column's value."""
    return quoted(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else repr(value)


def _require(view: EmbeddingStore, column: str) -> None:
    if column not in view.columns() and column not in ("shard", "content"):
        known = ", ".join(view.columns()) or "none"
        raise InputError(f"--exclude-same {column}: no such column in table {view.name}. It has: {known}.")


def _members(view: EmbeddingStore, column: str, values: Iterable[Any]) -> dict[Any, list[int]]:
    """Row ids by value; nulls are left out."""
    members: dict[Any, list[int]] = {}
    for value, row_id in _rows_with(view, column, {v for v in values if v is not None}):
        members.setdefault(value, []).append(row_id)
    return members


def _rows_with(view: EmbeddingStore, column: str, values: set[Any]) -> Iterator[tuple[Any, int]]:
    listed = sorted(values)
    for start in range(0, len(listed), IN_LIST):
        chosen = ", ".join(map(literal, listed[start : start + IN_LIST]))
        for batch in view.scan([column], f"`{column}` IN ({chosen})"):
            yield from zip(batch.column(column).to_pylist(), row_ids_of(batch).tolist(), strict=True)
