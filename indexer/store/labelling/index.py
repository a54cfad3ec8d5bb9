"""Index from a row's name to its line in a file of labels, in 12 bytes a line; the values are not copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
            hashes[start : start + batch.num_rows] = _hashes(_named(batch.column(on), kind, on))
        self._lines = np.argsort(hashes).astype(np.uint32)
        hashes.sort()  # in place; the order of lines of equal hash does not matter
        self._hashes = hashes
        self._require_once()

    def __len__(self) -> int:
        return len(self._lines)

    @property
    def is_text(self) -> bool:
        """Whether the rows are named by text."""
        return bool(pa.types.is_string(self._kind))

    def lines(self, asked: pa.Array) -> Int64:
        """The line of each name (n,), or -1 where there is none."""
        hashes = _hashes(asked)
        order = np.argsort(hashes)
        spots = np.empty(len(hashes), np.int64)
        spots[order] = np.searchsorted(self._hashes, hashes[order])  # in random order each look-up misses the cache
        lines = np.full(len(asked), -1, np.int64)
        pending = np.flatnonzero(spots < len(self._hashes))
        while len(pending):  # one iteration, unless different names have equal hashes
            pending = pending[self._hashes[spots[pending]] == hashes[pending]]
            found = self._lines[spots[pending]]
            names = _named(self.take(found, [self._on]).column(self._on), self._kind, self._on)
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

    def written(self, lines: Int64) -> list[str]:
        """The names of these lines, as the file has them."""
        return [str(value) for value in self.take(lines, [self._on]).column(self._on).to_pylist()]

    def all_written(self) -> Iterator[str]:
        """The names of all lines."""
        return (str(value) for batch in self._batches for value in batch.column(self._on).to_pylist())

    def first(self) -> list[Any]:
        """The first few names, for a message."""
        return [
            value for batch in self._batches[:1] for value in batch.column(self._on).slice(0, SHOWN + 1).to_pylist()
        ]

    def _require_once(self) -> None:
        """Raise InputError where two lines have one name, be it written in two ways."""
        twins = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        repeated: dict[str, None] = {}
        for start in range(0, len(twins), SHOWN + 1):
            spots = twins[start : start + SHOWN + 1]
            left, right = (
                self.take(self._lines[at].astype(np.int64), [self._on]).column(self._on) for at in (spots, spots + 1)
            )
            same = [_named(texts, self._kind, self._on).to_pylist() for texts in (left, right)]
            for a, b, first, second in zip(left.to_pylist(), right.to_pylist(), *same, strict=True):
                if first is not None and first == second:
                    repeated[f"{a!r}" if a == b else f"{a!r} (also written {b!r})"] = None
            if len(repeated) > SHOWN:
                break
        if repeated:
            names = ", ".join([*repeated][:SHOWN]) + (", …" if len(repeated) > SHOWN else "")
            raise InputError(
                f"column {self._on!r} of the labels must name each row once: {names} occurs twice. "
                "Leave one out, or merge them: --repeated."
            )


def plain_values(column: Any) -> Any:
    """Dictionaries and views as the plain values they stand for; NaN as missing, as in CSV.

    Half-precision numbers become single-precision ones, since Arrow cannot look half-precision values up.
    """
    kind = column.type
    if pa.types.is_float16(kind):
        return plain_values(column.cast(pa.float32()))
    if pa.types.is_dictionary(kind):
        return plain_values(column.cast(kind.value_type))
    if _is_text(kind):
        return column.cast(pa.string())
    return pc.if_else(pc.is_nan(column), None, column) if pa.types.is_floating(kind) else column


def cast(column: Any, kind: pa.DataType, name: str) -> Any:
    """The values as `kind`, where each is held without loss: 4.0 as a whole number, 2.50 as text. Raises InputError."""
    values = plain_values(column)
    own, cause = values.type, ""
    try:
        if own == kind or pa.types.is_null(own) or pa.types.is_string(kind):
            return values.cast(kind)
        if pa.types.is_string(own):
            return _parsed(values, kind)
        if pa.types.is_boolean(own) == pa.types.is_boolean(kind):  # Arrow would make 1 of true
            done = values.cast(kind)
            if not pa.types.is_floating(own) or done.cast(own).equals(values):
                return done
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        cause = f" ({str(error).splitlines()[0]})"
    raise InputError(
        f"column {name!r} holds {kind} in the table and {own} in the labels{cause}: the two cannot be one column. "
        f"Give the new one another name, as with --columns {name}=NAME."
    )


def _parsed(texts: Any, kind: pa.DataType) -> Any:
    """Text as numbers, truth values or dates. Raises pa.ArrowInvalid, naming the text, where it is none."""
    if pa.types.is_boolean(kind):
        return pc.utf8_lower(texts).cast(kind)
    if not pa.types.is_integer(kind):
        return texts.cast(kind)
    whole = pc.replace_substring_regex(texts, r"^\+?(-?[0-9]+)(\.0*)?$", r"\1")
    return whole.cast(kind)


def _named(column: Any, kind: pa.DataType, name: str) -> Any:
    """The values by which rows are named, as the table's type; null where a value can be none of the table's.

    `007` names the row of the number 7.
    """
    values = plain_values(column)
    if pa.types.is_string(values.type) and pa.types.is_integer(kind):
        number = pc.match_substring_regex(values, r"^[+-]?0*[0-9]{1,18}(\.0*)?$")
        values = pc.if_else(number, values, None)
    elif pa.types.is_string(values.type) and pa.types.is_floating(kind):
        number = pc.match_substring_regex(values, r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$")
        values = pc.if_else(number, values, None)
    return cast(values, kind, name)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def few(values: Sequence[Any]) -> str:
    return ", ".join(repr(v) for v in values[:SHOWN]) + (", …" if len(values) > SHOWN else "")


def _hashes(names: Any) -> Int64:
    return np.fromiter(map(hash, names.to_pylist()), np.int64, len(names))
