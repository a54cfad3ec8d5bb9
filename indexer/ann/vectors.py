"""The vectors of one table version as plain files beside the index, memory-mapped: re-ranking reads rows from here.

Taking 100 rows from Lance costs more than a millisecond, from a mapped file some microseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.types import Float16, Int64


@dataclass(frozen=True)
class VectorPaths:
    """Where the three parallel files of one generation lie."""

    vectors: Path  # raw float16 rows (n, dim)
    row_ids: Path  # raw int64 (n,)
    keys: Path  # Arrow IPC file, one string column


class Rows:
    """Vectors (n, dim) float16 with their row ids (n,), and the way from an id to its place."""

    def __init__(self, row_ids: Int64, vectors: Float16) -> None:
        self.row_ids, self.vectors = row_ids, vectors
        ascending = bool((np.diff(row_ids) > 0).all())  # the usual case: no order array to hold
        self._order = None if ascending else np.argsort(row_ids)
        self._sorted = row_ids if self._order is None else row_ids[self._order]

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def positions(self, row_ids: Int64) -> Int64:
        """Where these ids (any shape) stand; -1 for an id that is not here."""
        if not len(self._sorted):
            return np.full(row_ids.shape, -1, np.int64)
        spots = np.minimum(np.searchsorted(self._sorted, row_ids), len(self._sorted) - 1)
        known = self._sorted[spots] == row_ids
        at = spots if self._order is None else self._order[spots]
        return np.where(known, at, -1).astype(np.int64)


class VectorFile(Rows):
    """Rows of one table version, mapped read-only, with their keys."""

    def __init__(self, paths: VectorPaths, dim: int) -> None:
        row_ids: Int64 = np.fromfile(paths.row_ids, np.int64)
        shape = (len(row_ids), dim)
        vectors: Float16 = (
            np.memmap(paths.vectors, np.float16, "r", shape=shape) if len(row_ids) else np.empty(shape, np.float16)
        )
        # A memory map is an ndarray subclass whose every slice costs microseconds more than a plain view's.
        super().__init__(row_ids, vectors.view(np.ndarray))
        with pa.memory_map(str(paths.keys)) as source:
            self._keys = pa.ipc.open_file(source).read_all().column("key").combine_chunks()

    def keys(self, positions: Int64) -> list[str]:
        found: list[str] = self._keys.take(pa.array(positions)).to_pylist()
        return found


def write_vectors(paths: VectorPaths, batches: Iterable[tuple[Int64, Float16, Any]]) -> int:
    """Stream (row ids, vectors, keys as an Arrow string array) into the files; returns the rows written."""
    rows = 0
    schema = pa.schema([pa.field("key", pa.large_string())])
    with (
        paths.vectors.open("wb") as vectors_out,
        paths.row_ids.open("wb") as ids_out,
        pa.OSFile(str(paths.keys), "wb") as keys_out,
        pa.ipc.new_file(keys_out, schema) as keys_writer,
    ):
        for row_ids, vectors, keys in batches:
            ids_out.write(np.ascontiguousarray(row_ids, np.int64).data)  # tofile hides the system's error
            vectors_out.write(np.ascontiguousarray(vectors, np.float16).data)
            keys_writer.write_batch(pa.record_batch([keys.cast(pa.large_string())], schema=schema))
            rows += len(row_ids)
    return rows
