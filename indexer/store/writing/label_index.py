"""Index from a row's name to its line in a file of labels, in 16 bytes a line; the values are not copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.errors import InputError
from indexer.types import Int64

SHOWN = 3  # names listed in an error message
_BATCH_ROWS = 65_536  # names hashed at once


class LabelIndex:
    """The lines of `labels` by their value in column `on`, which must be unique and not null. Raises InputError.

    Holds a sorted hash and a line number for each line. `labels` may be mapped from a file and is read in batches.
    """

    def __init__(self, labels: pa.Table, on: str, kind: pa.DataType) -> None:
        """`kind` is the type of the table's column `on`, to which the labels' column is cast."""
        self._batches = labels.to_batches(max_chunksize=_BATCH_ROWS)
        self._on, self._kind = on, kind
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        hashes = np.empty(labels.num_rows, np.int64)
        for batch, start in zip(self._batches, self._starts[:-1].tolist(), strict=True):
            hashes[start : start + batch.num_rows] = _hashes(cast(batch.column(on), kind, on))
        self._lines = np.argsort(hashes)
        hashes.sort()  # in place; the order of lines of equal hash does not matter
        self._hashes = hashes
        self._require_once()

    def lines(self, asked: pa.Array) -> Int64:
        """The line of each name (n,), or -1 where there is none."""
        hashes = _hashes(asked)
        spots = np.searchsorted(self._hashes, hashes)
        lines = np.full(len(asked), -1, np.int64)
        pending = np.flatnonzero(spots < len(self._hashes))
        while len(pending):  # one iteration, unless different names have equal hashes
            pending = pending[self._hashes[spots[pending]] == hashes[pending]]
            found = self._lines[spots[pending]]
            names = cast(self.take(found, [self._on]).column(self._on), self._kind, self._on)
            same = pc.fill_null(pc.equal(names, pa.chunked_array([asked.take(pa.array(pending))])), False)
            hit = same.to_numpy().astype(bool)
            lines[pending[hit]] = found[hit]
            pending = pending[~hit]
            spots[pending] += 1
            pending = pending[spots[pending] < len(self._hashes)]
        return lines

    def take(self, lines: Int64, names: Sequence[str]) -> pa.Table:
        """These columns of these lines, in the given order. Reads only the batches that hold them."""
        order = np.argsort(lines, kind="stable")
        ordered, parts = lines[order], []
        bounds = np.searchsorted(ordered, self._starts)
        for number in np.flatnonzero(np.diff(bounds)).tolist():
            own = ordered[bounds[number] : bounds[number + 1]] - self._starts[number]
            parts.append(self._batches[number].select(list(names)).take(pa.array(own)))
        if not parts:
            return pa.Table.from_batches([batch.select(list(names)).slice(0, 0) for batch in self._batches[:1]])
        back = np.empty(len(order), np.int64)
        back[order] = np.arange(len(order))
        return pa.Table.from_batches(parts).take(pa.array(back))

    def first(self) -> list[Any]:
        """The first few names, for a message."""
        return [
            value for batch in self._batches[:1] for value in batch.column(self._on).slice(0, SHOWN + 1).to_pylist()
        ]

    def _require_once(self) -> None:
        """Raise InputError where two lines have the same name."""
        twins = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        repeated: dict[str, None] = {}
        for start in range(0, len(twins), SHOWN + 1):
            spots = twins[start : start + SHOWN + 1]
            left, right = (
                cast(self.take(self._lines[at], [self._on]).column(self._on), self._kind, self._on).to_pylist()
                for at in (spots, spots + 1)
            )
            repeated.update({str(a): None for a, b in zip(left, right, strict=True) if a == b})
            if len(repeated) > SHOWN:
                break
        if repeated:
            raise InputError(
                f"column {self._on!r} of the labels must name each row once: {few(list(repeated))} occurs twice."
            )


def cast(column: pa.Array | pa.ChunkedArray, kind: pa.DataType, name: str) -> Any:
    """Cast labels to the type of the table's column. Raises InputError where the types differ in kind."""
    own = column.type
    same = pa.types.is_string(kind) and (pa.types.is_large_string(own) or pa.types.is_string(own))
    named = pa.types.is_string(kind) and pa.types.is_integer(own)  # a key written as a number in Parquet
    widened = pa.types.is_floating(kind) and pa.types.is_integer(own)
    text_of_numbers = pa.types.is_string(own) and name != "key" and not pa.types.is_string(kind)
    try:
        if own == kind or same or named or widened or text_of_numbers or own.id == kind.id:
            return column.cast(kind)
    except pa.ArrowInvalid:
        pass
    raise InputError(
        f"column {name!r} holds {kind} in the table and {own} in the labels: the two cannot be one column. "
        "Give the new one another name."
    )


def few(values: Sequence[Any]) -> str:
    return ", ".join(repr(v) for v in values[:SHOWN]) + (", …" if len(values) > SHOWN else "")


def _hashes(names: Any) -> Int64:
    return np.fromiter(map(hash, names.to_pylist()), np.int64, len(names))
