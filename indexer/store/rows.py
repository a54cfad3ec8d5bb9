"""Records read from a table (vectors with columns, changes between versions, class-text vectors) and row decoding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.types import Float16, Float32, Int64, Place

# By default Lance reads up to 2 GiB ahead of a scan, several fragments at once. With these bounds a scan of 3.2 million
# keys and vectors of 64 numbers takes 20 MB of memory in place of 101, in the same time.
READ_AHEAD = {"io_buffer_size": 32 << 20, "batch_readahead": 2}
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


def batches(source: Any, columns: Sequence[str], where: str | None = None, **options: Any) -> Iterator[pa.RecordBatch]:
    """These columns of a Lance dataset or fragment, with the scanner's `options`; the read-ahead is bounded."""
    if hasattr(source, "get_fragments"):
        options["fragment_readahead"] = 1
    yield from source.scanner(columns=list(columns), filter=where, **READ_AHEAD, **options).to_batches()


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
