"""A map prepared for drawing: rows of the table's present version, in Morton order, in the unit square.

In Morton (Z) order the rows of every tile of a pyramid are one contiguous range, so that a tile takes two binary
searches however many rows there are (Morton 1966).
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexer.errors import InputError
from indexer.mapping.files import Map, MapFacts, lag
from indexer.serve.http.facets import facets
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64

BITS = 16  # of a place along each axis
MARGIN = 0.03  # of the square left free on each side
SERIES = 8  # colours of the style sheet; the last is for all further values and for missing ones
BATCH_ROWS = 65_536

UInt8 = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Classes:
    """A column as colours: value and rows of each of the first classes by frequency, and the code of each row."""

    column: str
    values: list[tuple[Any, int]]
    others: int  # rows with a further value or none, of code SERIES - 1
    codes: UInt8  # (n,) in the map's order


class ShownMap:
    """Immutable but for what is computed once. Thread-safe."""

    def __init__(self, view: EmbeddingStore, made: Map) -> None:
        self.view = view
        self.facts: MapFacts = made.facts
        present = [b.column("_rowid").to_numpy().astype(np.int64) for b in view.scan([], batch_rows=BATCH_ROWS)]
        ids = np.concatenate([np.empty(0, np.int64), *present])
        self.stale = lag(view, made, ids).sentence()
        keep = np.isin(made.row_ids, ids)
        square = _square(made.places[keep].astype(np.float64))
        cells = np.minimum(square * (1 << BITS), (1 << BITS) - 1).astype(np.int64)
        codes = morton(cells)
        order = np.argsort(codes, kind="stable")
        self.row_ids: Int64 = made.row_ids[keep][order]
        self.square: Float64 = square[order]  # (n, 2), y downwards
        self.cells: Int64 = cells[order]
        self.morton: Int64 = codes[order]
        self.shuffled: Int64 = np.random.default_rng(0).permutation(len(order))  # a rank: the first are a fair sample
        self._lock = threading.Lock()
        self._few: list[str] | None = None
        self._classes: dict[str, Classes] = {}
        self._most: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.row_ids)

    def columns(self) -> list[str]:
        """Columns that rows can be coloured by: those with few values."""
        with self._lock:
            if self._few is None:
                self._few = [facet.column for facet in facets(self.view, None)]
            return self._few

    def classes(self, column: str) -> Classes:
        """Raises InputError for a column with many values, or none."""
        if column not in self.columns():
            known = ", ".join(self.columns()) or "none"
            raise InputError(f"colour by a column with few values; there are: {known}.")
        with self._lock:
            if column not in self._classes:
                self._classes[column] = self._coded(column)
            return self._classes[column]

    def most(self, depth: int) -> int:
        """Rows of the fullest cell, of 2**depth cells along each axis."""
        with self._lock:
            if depth not in self._most:
                cells = self.morton >> (2 * (BITS - depth))
                starts = np.flatnonzero(np.diff(cells, prepend=-1))
                self._most[depth] = int(np.diff(starts, append=len(cells)).max(initial=0))
            return self._most[depth]

    def _coded(self, column: str) -> Classes:
        ids, values = [np.empty(0, np.int64)], []
        for batch in self.view.scan([column], batch_rows=BATCH_ROWS):
            ids.append(batch.column("_rowid").to_numpy().astype(np.int64))
            values.append(batch.column(column))
        read = np.concatenate(ids)
        order = np.argsort(read)
        at = order[np.searchsorted(read[order], self.row_ids)]
        encoded = pa.chunked_array(values).combine_chunks().dictionary_encode()
        names = encoded.dictionary.to_pylist()
        codes = encoded.indices.fill_null(len(names)).to_numpy()[at]
        counts = np.bincount(codes, minlength=len(names) + 1)[: len(names)]
        first = np.argsort(-counts, kind="stable")[: SERIES - 1]
        series = np.full(len(names) + 1, SERIES - 1, np.uint8)
        series[first] = np.arange(len(first))
        shown = [(names[i], int(counts[i])) for i in first]
        return Classes(column, shown, len(self) - sum(n for _, n in shown), series[codes])


def morton(cells: Int64) -> Int64:
    """Cells (n, 2) of BITS bits each → codes (n,) with the bits of x and y interleaved."""
    out = np.zeros(len(cells), np.int64)
    for bit in range(BITS):
        out |= ((cells[:, 0] >> bit) & 1) << (2 * bit) | ((cells[:, 1] >> bit) & 1) << (2 * bit + 1)
    return out


def _square(places: Float64) -> Float64:
    """Into the unit square, with one scale for both axes, centred, y downwards as on a screen."""
    if not len(places):
        return places
    low, high = places.min(axis=0), places.max(axis=0)
    span = float((high - low).max()) or 1.0
    square: Float64 = 0.5 + (places - (low + high) / 2) / span * (1 - 2 * MARGIN)
    square[:, 1] = 1 - square[:, 1]
    return square
