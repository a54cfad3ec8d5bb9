"""Merges several rows of one name: readers of one image, findings of one image, images of one study."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from indexer.errors import InputError

SHOWN = 3


def _same(values: Sequence[Any]) -> Any:
    found = set(values)
    if len(found) > 1:
        raise ValueError("differ")
    return values[0]


def _majority(values: Sequence[Any]) -> Any:
    """The most frequent value; missing where two are equally frequent."""
    first, *others = Counter(values).most_common(2)
    return None if others and others[0][1] == first[1] else first[0]


RULES: Mapping[str, Callable[[Sequence[Any]], Any] | None] = {
    "error": None,
    "same": _same,  # all rows of a name agree
    "first": lambda values: values[0],
    "max": max,  # the worst grade; 1 where any row has it; columns of text must agree, as for the mean
    "mean": lambda values: sum(values) / len(values),
    "majority": _majority,
}


def merged(labels: pa.Table, rule: str, notes: list[str]) -> pa.Table:
    """One row a name, of the values that are not missing. Raises InputError where the rule cannot be followed."""
    merge = RULES[rule]
    assert merge is not None
    name, *columns = labels.column_names
    rows: dict[Any, list[int]] = {}
    for row, value in enumerate(labels.column(0).to_pylist()):
        rows.setdefault(value, []).append(row)
    repeated = [value for value, of in rows.items() if len(of) > 1]
    if not repeated:
        return labels
    out = {}
    for column in columns:
        kind = labels.column(column).type
        number = bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
        how = merge if number or rule not in ("max", "mean") else _same
        values, found = labels.column(column).to_pylist(), []
        for value, of in rows.items():
            given = [values[row] for row in of if values[row] is not None]
            try:
                found.append(how(given) if given else None)
            except ValueError as error:
                raise InputError(
                    f"--repeated {rule}: the rows of {value} differ in {column}. Choose another rule, or leave the "
                    f"column out: --without {column}."
                ) from error
        out[column] = pa.array(found, pa.float64() if rule == "mean" and number else kind)
    first = ", ".join(map(str, repeated[:SHOWN]))
    notes.append(f"{len(repeated)} names with several rows merged by {rule!r}, first {first}")
    return pa.table({name: pa.array([*rows], labels.column(0).type), **out})
