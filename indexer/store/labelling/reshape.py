"""Turns labels as data sets publish them into one row a name and one column a question.

Applied in this order: names are rewritten, lists of values become 0/1 columns, one-hot columns become one class,
uncertain values get the meaning the user chose, grades become numbers, rows of one name are merged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from indexer.errors import InputError
from indexer.store.labelling.merge import merged
from indexer.store.schema import refused_name
from indexer.user_tables.column_types import plain_column

MOST_VALUES = 128  # 0/1 columns of one list; more is no list of findings
SHOWN = 5
MEANINGS = ("missing", "0", "1", "class")


@dataclass(frozen=True)
class Uncertain:
    """What a value means that is neither yes nor no."""

    value: str
    meaning: str  # of MEANINGS; "class": the value is a class of its own and stays
    column: str = ""  # "": every column


@dataclass(frozen=True)
class Reshaping:
    """What is done to the labels; columns are named as in the file, or as in the table."""

    rewrite: tuple[str, str] | None = None  # regular expression and replacement, for the names of rows
    lists: tuple[tuple[str, str], ...] = ()  # (column, or "" for each that holds the mark; the mark between values)
    one_hot: tuple[tuple[tuple[str, ...], str], ...] = ()  # (columns, the class column they become)
    uncertain: tuple[Uncertain, ...] = ()
    grades: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (column, its values from lowest to highest)
    repeated: str = "error"  # of merge.RULES: what becomes of several rows of one name


def reshaped(
    labels: pa.Table, plan: Reshaping, names: Callable[[pa.Table], pa.Table] | None = None
) -> tuple[pa.Table, list[str]]:
    """The labels, whose first column names the rows, and sentences on what was done. Raises InputError.

    `names` replaces the names, e.g. by hashes, before the rows of one name are merged: several may become one.
    """
    notes: list[str] = []
    if plan.rewrite is not None:
        labels = _rewritten(labels, *plan.rewrite)
    if names is not None:
        labels = names(labels)
    for column, mark in plan.lists:
        labels = _split(labels, column, mark, notes)
    for columns, name in plan.one_hot:
        labels = _one_class(labels, columns, name, notes)
    labels = _decided(labels, plan.uncertain, notes)
    for column, levels in plan.grades:
        labels = _graded(labels, column, levels)
    if plan.repeated != "error":
        labels = merged(labels, plan.repeated, notes)
    return labels, notes


def _place(labels: pa.Table, column: str) -> int:
    """The index of a label column. Raises InputError."""
    for name in (column, plain_column(column)):
        if name in labels.column_names[1:]:
            return int(labels.column_names.index(name))
    raise InputError(f"no label column {column!r}; there are: {', '.join(labels.column_names[1:])}. Correct its name.")


def _rewritten(labels: pa.Table, pattern: str, replacement: str) -> pa.Table:
    try:
        compiled = re.compile(pattern)
        name = labels.column_names[0]
        texts = [None if t is None else compiled.sub(replacement, str(t)) for t in labels.column(0).to_pylist()]
    except (re.error, IndexError) as error:
        raise InputError(f"--rewrite {pattern!r} {replacement!r}: {error}. Give a regular expression.") from error
    return labels.set_column(0, name, pa.array(texts, pa.string()))


def _split(labels: pa.Table, column: str, mark: str, notes: list[str]) -> pa.Table:
    if column:
        places = [_place(labels, column)]
    else:
        places = [
            i for i in range(1, labels.num_columns) if pa.types.is_string(labels.column(i).type)
            and pc.any(pc.match_substring(labels.column(i), mark)).as_py()
        ]  # fmt: skip
        if not places:
            raise InputError(f"--split-values: no column holds {mark!r}. Name it: --split-values 'COLUMN={mark}'.")
    for name in [labels.column_names[i] for i in places]:
        texts = labels.column(name).cast(pa.string())
        parts = pc.split_pattern(texts, mark)
        found = sorted({v for v in pc.unique(pc.utf8_trim_whitespace(pc.list_flatten(parts))).to_pylist() if v})
        if not found or len(found) > MOST_VALUES:
            raise InputError(f"--split-values: column {name} holds {len(found)} values, not 1 to {MOST_VALUES}.")
        rows = [None if row is None else {v.strip() for v in row} for row in parts.to_pylist()]
        labels = labels.drop_columns([name])
        for value in found:
            has = [None if row is None else int(value in row) for row in rows]
            labels = _append(labels, plain_column(value), pa.array(has, pa.int64()), f"the value {value!r}")
        notes.append(f"column {name} became {len(found)} columns of 0 and 1: {', '.join(map(plain_column, found))}")
    return labels


def _append(labels: pa.Table, name: str, values: Any, whose: str) -> pa.Table:
    cause = "is there already" if name in labels.column_names else refused_name(name)
    if cause:
        raise InputError(f"{whose} cannot become the column {name!r} ({cause}). Choose other columns with --columns.")
    return labels.append_column(name, values)


def _one_class(labels: pa.Table, columns: Sequence[str], name: str, notes: list[str]) -> pa.Table:
    places = [_place(labels, column) for column in columns]
    flags = [_numbers(labels.column(i)) for i in places]
    for column, values in zip(columns, flags, strict=True):
        if values is None or not set(pc.unique(values).to_pylist()) <= {0, 1, None}:
            raise InputError(f"--one-hot: column {column} holds other values than 0 and 1. Leave it out.")
    classes: list[str | None] = []
    for row, flag in enumerate(zip(*(values.to_pylist() for values in flags), strict=True)):
        on = [columns[i] for i, value in enumerate(flag) if value == 1]
        if len(on) > 1:
            raise InputError(f"--one-hot: {labels.column(0)[row]} is {' and '.join(on)}: not one class. Leave one out.")
        classes.append(on[0] if on else None)
    none = classes.count(None)
    notes.append(f"{len(columns)} one-hot columns became {name}" + (f"; {none} rows have no class" if none else ""))
    labels = labels.drop_columns([labels.column_names[i] for i in places])
    return _append(labels, name, pa.array(classes, pa.string()), "--one-hot")


def _numbers(column: Any) -> Any:
    """The values as float64, null where missing; None for a column of other values."""
    if not (pa.types.is_string(column.type) or _is_number(column.type)):
        return None
    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid:
        return None


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_null(kind))


def _decided(labels: pa.Table, rules: Sequence[Uncertain], notes: list[str]) -> pa.Table:
    """Uncertain values as the rules say. Raises InputError where -1 stands beside 0 and 1 and no rule is for it."""
    for rule in rules:
        places = [_place(labels, rule.column)] if rule.column else range(1, labels.num_columns)
        for i in places:
            labels = _with_meaning(labels, i, rule, notes)
    undecided = []
    for i, name in enumerate(labels.column_names[1:], 1):
        values = _flags(labels.column(i))
        if values is not None:
            ruled = any(_is(rule.value, -1) and (not rule.column or _place(labels, rule.column) == i) for rule in rules)
            if -1 in values and not ruled:
                undecided.append(name)
            elif -1 not in values and rules:
                labels = labels.set_column(i, name, _numbers(labels.column(i)).cast(pa.int64()))
    if undecided:
        raise InputError(
            f"{', '.join(undecided[:SHOWN])}{', …' if len(undecided) > SHOWN else ''}: -1 stands beside 0 and 1. Say "
            "what it is: --uncertain -1=missing (leave out), -1=0, -1=1, or -1=class (a class of its own)."
        )
    return labels


def _flags(column: Any) -> set[float] | None:
    """The values of a column of 0, 1 and -1, None for another column."""
    values = _numbers(column)
    found = None if values is None else set(pc.unique(values).drop_null().to_pylist())
    return found if found and found <= {-1, 0, 1} and found & {0, 1} else None


def _is(text: str, number: float) -> bool:
    try:
        return float(text) == number
    except ValueError:
        return False


def _with_meaning(labels: pa.Table, i: int, rule: Uncertain, notes: list[str]) -> pa.Table:
    column, name = labels.column(i), labels.column_names[i]
    numbers = _numbers(column)
    try:
        same = pc.equal(numbers, float(rule.value)) if numbers is not None else pc.equal(column, rule.value)
    except (ValueError, pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return labels
    count = pc.sum(pc.fill_null(same, False)).as_py() or 0
    if not count:
        if rule.column:
            raise InputError(f"--uncertain: column {name} never holds {rule.value}. Correct the value.")
        return labels
    notes.append(f"{name}: {count} x {rule.value} taken as {rule.meaning if rule.meaning != 'class' else 'a class'}")
    if rule.meaning == "class":
        return labels
    values = numbers if numbers is not None else column
    to = None if rule.meaning == "missing" else float(rule.meaning) if numbers is not None else rule.meaning
    done = pc.if_else(pc.fill_null(same, False), pa.scalar(to, values.type), values)
    return labels.set_column(i, name, done if numbers is None or pa.types.is_floating(column.type) else _back(done))


def _back(numbers: Any) -> Any:
    """Whole numbers where all of them are."""
    whole: Callable[[Any], Any] = lambda values: values.cast(pa.int64())  # noqa: E731
    try:
        return whole(numbers)
    except pa.ArrowInvalid:
        return numbers


def _graded(labels: pa.Table, column: str, levels: Sequence[str]) -> pa.Table:
    i = _place(labels, column)
    texts = labels.column(i).cast(pa.string()).to_pylist()
    number = {level.casefold(): rank for rank, level in enumerate(levels)}
    strangers = sorted({t for t in texts if t is not None and t.casefold() not in number})
    if strangers:
        raise InputError(
            f"--grades {column}: no grade is called {', '.join(strangers[:SHOWN])}; they are {' < '.join(levels)}. "
            "Add it."
        )
    ranks = [None if t is None else number[t.casefold()] for t in texts]
    return labels.set_column(i, labels.column_names[i], pa.array(ranks, pa.int64()))
