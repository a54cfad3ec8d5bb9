"""Records read from a table (vectors with columns, changes between versions, class-text vectors) and row decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.types import Float16, Float32, Int64, Place

PLACE_COLUMNS = ("shard", "member", "offset", "nbytes", "suffix", "part")


@dataclass(frozen=True)
class VectorRows:
    """Result of one read of one version: row i of every field is of the same image."""

    row_ids: Int64  # (n,) stable row ids
    vectors: Float16  # (n, dim) unit rows
    columns: pa.Table  # (n rows) the requested columns
    version: int


@dataclass(frozen=True)
class Delta:
    """Row ids that changed between two versions. `updated` rows may differ in any column, e.g. labels only."""

    inserted: Int64
    updated: Int64
    deleted: Int64


@dataclass(frozen=True)
class TextVectors:
    """Class-text vectors of one task, as unit rows, of the table's encoder."""

    classes: tuple[str, ...]
    vectors: Float32  # (c, dim)
    logit_scale: float
    logit_bias: float | None


def vector_block(batch: pa.RecordBatch) -> Float16:
    """The batch's vectors (n, dim), without a copy."""
    column = batch.column("vector")
    flat: Float16 = column.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(batch.num_rows, -1) if batch.num_rows else flat.reshape(0, column.type.list_size)


def place_of(row: dict[str, Any]) -> Place:
    """The Place in a row that has PLACE_COLUMNS."""
    return Place(**{name: row[name] for name in PLACE_COLUMNS})


def row_ids_read(reader: Any) -> Int64:
    parts = [batch.column("_rowid").to_numpy().astype(np.int64) for batch in reader]  # full-width rows: not all at once
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
