"""The values of a column by which rows are grouped."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from indexer.errors import InputError
from indexer.store.table import EmbeddingStore


def column_kind(view: EmbeddingStore, column: str, option: str) -> pa.DataType:
    """The type of a column that rows are grouped by. Raises InputError, which names the option."""
    kinds = {"key": pa.string(), "shard": pa.string(), "content": pa.string(), **view.columns()}
    if column not in kinds:
        known = ", ".join(view.columns()) or "none"
        raise InputError(f"{option} {column}: no such column in table {view.name}. It has: {known}.")
    return kinds[column]


def group_names(values: pa.Array) -> pa.Array:
    """The values (n,) as strings; null for a null or NaN, whose row is in no group."""
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    return values.cast(pa.string())
