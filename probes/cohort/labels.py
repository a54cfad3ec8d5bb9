"""Reads a table's columns as the truth of a probe: classes, labels, ordinal grades (D0)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.errors import ProbeError
from indexer.types import Float64, Int64
from probes.cohort.positive import Positive, positive_class, positive_last
from probes.cohort.targets import read_numbers, read_survival
from probes.cohort.truth import Truth, class_truth, label_truth
from probes.request import ProbeRequest

MAX_CLASSES = 1000
MAX_NUMERIC_CLASSES = 50  # a numeric column with more values is a measurement, not a class


def read_truth(
    table: pa.Table, request: ProbeRequest, classes: tuple[str, ...] | None
) -> tuple[Int64, Truth, Positive | None]:
    """Indices of the labelled rows (m,), their truth (m rows), and the positive class of two."""
    if request.target != "classes":
        read = read_numbers if request.target == "numeric" else read_survival
        return *read(table, *request.labels, frozen=classes is not None), None
    if request.multilabel:
        values = np.stack([_binary(table.column(name), name) for name in request.labels], axis=1)
        labelled = np.flatnonzero(~np.isnan(values).all(axis=1))
        if not len(labelled):
            raise ProbeError(f"no row has any of the labels {', '.join(request.labels)}.")
        return labelled, label_truth(values[labelled], request.labels), None
    column = table.column(request.labels[0])
    ids, names = coded(column, ordered=True)
    labelled = np.flatnonzero(ids >= 0)
    frozen = classes is not None and request.probe != "zero-shot"
    _check_classes(column, request.labels[0], names, ordinal=request.ordinal, fewest=1 if frozen else 2)
    if classes is None:
        classes = names
    positive = None if request.ordinal else positive_class(classes, request.positive)
    classes = positive_last(classes, positive)
    strangers = [name for name in names if name not in classes]
    if frozen and strangers:
        labelled = labelled[~np.isin(ids[labelled], [names.index(name) for name in strangers])]
        if not len(labelled):
            raise ProbeError(
                f"column {request.labels[0]} holds {', '.join(strangers[:5])} there, no class of the probe "
                f"({', '.join(classes[:5])}). Give it the same values with `indexer labels`."
            )
    elif strangers:
        raise ProbeError(
            f"column {request.labels[0]} holds {', '.join(strangers[:5])}, for which there is no text vector "
            f"(there are: {', '.join(classes)}). Leave those rows out with --where, or store their prompts."
        )
    place = np.array([classes.index(name) if name in classes else -1 for name in names])
    return labelled, class_truth(place[ids[labelled]], classes, ordinal=request.ordinal), positive


def _check_classes(column: pa.ChunkedArray, name: str, classes: Sequence[str], *, ordinal: bool, fewest: int) -> None:
    number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
    if not classes:
        raise ProbeError(f"column {name} has no value in any of these rows. Join labels with `indexer labels`.")
    if len(classes) < fewest:
        raise ProbeError(
            f"column {name} holds one class only ({classes[0]}): nothing can be learnt. "
            "Name another column with --label, or take in more rows (--where)."
        )
    if len(classes) > (MAX_NUMERIC_CLASSES if number else MAX_CLASSES):
        raise ProbeError(
            f"column {name} holds {len(classes)} different values: not classes. Group them into a new column."
        )
    if ordinal and not number:
        raise ProbeError(
            f"column {name} is {column.type}: ordinal grades must be numbers. Give them in a numeric column."
        )


def _binary(column: pa.ChunkedArray, name: str) -> Float64:
    """0, 1 or NaN (unknown) for each row."""
    try:
        values: Float64 = column.cast(pa.float64()).to_numpy().astype(np.float64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ProbeError(f"column {name} is {column.type}: a label of --multilabel holds 0, 1 or null.") from error
    wrong = values[~np.isnan(values) & (values != 0) & (values != 1)]
    if len(wrong):
        raise ProbeError(f"column {name} holds {wrong[0]:g}: a label of --multilabel holds 0, 1 or null (unknown).")
    return values


def coded(column: pa.ChunkedArray, *, ordered: bool = False) -> tuple[Int64, tuple[str, ...]]:
    """Ids (n,) into the column's distinct values as text; -1 for null and NaN. `ordered` sorts the values."""
    if pa.types.is_null(column.type):  # Arrow would make null a value of the dictionary
        return np.full(len(column), -1), ()
    ids, values = distinct(column)
    if ordered:
        order = pc.sort_indices(values).to_numpy()
        rank = np.empty(len(order) + 1, np.int64)
        rank[order], rank[-1] = np.arange(len(order)), -1
        ids, values = rank[ids], values.take(pa.array(order))
    return ids, tuple(word(v) for v in values.to_pylist())


def distinct(column: pa.ChunkedArray) -> tuple[Int64, pa.Array]:
    """Ids (n,) into the column's distinct values, in the order of their first rows; -1 for null and NaN."""
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    found = column.combine_chunks().dictionary_encode()
    if isinstance(found, pa.ChunkedArray):
        found = found.combine_chunks()
    return found.indices.fill_null(-1).to_numpy().astype(np.int64), found.dictionary


def word(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def texts(column: pa.ChunkedArray) -> list[str | None]:
    """The values as text; None for null and NaN."""
    return [None if v is None or v != v else word(v) for v in column.to_pylist()]
