"""Loads a table's rows for a probe: vectors, truth, groups, split and subgroup columns of one version (D0)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.errors import InputError, ProbeError
from indexer.malloc import release_freed_memory
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64
from probes.cohort.positive import Positive, positive_class, positive_last
from probes.cohort.scaling import Vectors
from probes.cohort.truth import Truth, class_truth, label_truth
from probes.cohort.vectors import check_vectors, read_vectors
from probes.request import ProbeRequest

MAX_CLASSES = 1000
MAX_NUMERIC_CLASSES = 50  # a numeric column with more values is a measurement, not a class
OWN_SPLITS = ("hash", "stratified", "nested")


@dataclass(frozen=True)
class Source:
    """The origin of the vectors."""

    db: str
    table: str
    version: int
    encoder: str
    weights: str
    fingerprint: str
    licence: str
    random_weights: bool
    dim: int
    identity: str = ""  # of the table, and the commit of its version: `TableState`; "" in a result of format 1
    commit: str = ""


@dataclass(frozen=True)
class Flow:
    """Counts of rows from the archive to the split (D17)."""

    embedded: int  # rows of the table at that version
    failed: int  # inputs that did not become rows
    matched: int  # by --where
    unlabelled: int  # rows with null labels, left out
    ungrouped: int  # rows without a group; 0 unless the level is "image"
    labelled: int
    unassigned: int  # rows whose split column is empty
    duplicates: int  # fitted rows left out since a later part has the same image bytes
    groups: int


@dataclass(frozen=True)
class ProbeData:
    """n labelled rows of one version; all per-row fields are in the same order."""

    vectors: Vectors
    truth: Truth
    keys: tuple[str, ...]
    groups: Int64  # (n,) ids into group_names
    group_names: tuple[str, ...]
    level: str  # group | image
    content: Int64  # (n,) equal ids where the image bytes are equal
    split_values: tuple[object, ...] | None
    subgroups: dict[str, tuple[str | None, ...]]
    source: Source
    flow: Flow
    positive: Positive | None = None  # for two classes: the last of truth.classes


def open_store(request: ProbeRequest) -> EmbeddingStore:
    """The table, at the request's version. Raises StoreError."""
    store = EmbeddingStore.open(request.db, request.table)
    return store if request.version is None else store.at(request.version)


def load(store: EmbeddingStore, request: ProbeRequest, classes: tuple[str, ...] | None = None) -> ProbeData:
    """Load the rows of a request. `classes` are those of the stored texts (zero-shot); their order is kept, except that
    the positive one of two is last. Raises ProbeError, BadFilter, InputError.
    """
    table, row_ids, matched = _columns(store, request)
    labelled, truth, positive = _truth(table, request, classes)
    kept = table.take(pa.array(labelled))
    del table
    release_freed_memory()  # of the scan, before the vectors are read
    groups, names, ungrouped = _groups(kept, request)
    _check_spread(truth, groups, request)
    needs_norms = request.scaling == "raw"
    vectors = Vectors(
        read_vectors(store, request.where, row_ids[labelled], matched),
        kept.column("norm").to_numpy().astype(np.float32) if needs_norms else None,
    )
    keys = tuple(kept.column("key").to_pylist())
    check_vectors(vectors, keys)
    return ProbeData(
        vectors,
        truth,
        keys,
        groups,
        names,
        "image" if request.group == "none" else "group",
        _ids(kept.column("content"))[0],
        None if request.split in OWN_SPLITS else tuple(kept.column(request.split).to_pylist()),
        {name: tuple(_text(kept.column(name))) for name in request.subgroups},
        source_of(store),
        Flow(
            embedded=store.count(),
            failed=store.count_failures(),
            matched=matched,
            unlabelled=matched - len(labelled),
            ungrouped=ungrouped,
            labelled=len(labelled),
            unassigned=0,
            duplicates=0,
            groups=len(names),
        ),
        positive,
    )


def source_of(store: EmbeddingStore) -> Source:
    spec = store.spec
    return Source(
        store.uri,
        store.name,
        store.version,
        spec.name,
        spec.weights,
        spec.fingerprint,
        spec.licence,
        spec.random,
        spec.dim,
        store.state.identity,
        store.state.commit,
    )


def _columns(store: EmbeddingStore, request: ProbeRequest) -> tuple[pa.Table, Int64, int]:
    """The request's scalar columns and row ids of rows with a label, in table order; the number of rows of --where."""
    _check_columns(request)
    wanted = [*request.labels, *request.subgroups]
    wanted += [] if request.group == "none" else [request.group]
    wanted += [] if request.split in OWN_SPLITS else [request.split]
    known = store.columns()
    for name in wanted:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise InputError(
                f"no column {name!r} in table {store.name}; it has: {listed}. Join labels with `indexer labels`."
            )
    names = ["key", "content", *dict.fromkeys(wanted)] + (["norm"] if request.scaling == "raw" else [])
    matched = store.count(request.where)
    if not matched:
        raise ProbeError(
            f"no rows in table {store.name}" + (f" match --where {request.where!r}." if request.where else ".")
        )
    batches = list(store.scan(names, _with_label(request)))
    if not batches:
        return store.empty(names), np.empty(0, np.int64), matched
    table = pa.Table.from_batches(batches)
    return table, table.column("_rowid").to_numpy().astype(np.int64), matched


def _with_label(request: ProbeRequest) -> str | None:
    """The filter, restricted to rows with some label, so that others are not read. NaN passes and is removed later."""
    if any("`" in name for name in request.labels):
        return request.where
    labelled = " OR ".join(f"`{name}` IS NOT NULL" for name in request.labels)
    return labelled if request.where is None else f"({request.where}) AND ({labelled})"


def _check_columns(request: ProbeRequest) -> None:
    """Raise InputError where one column is both label and group, or label and split: nothing could be learnt."""
    for name in request.labels:
        if name == request.group:
            raise InputError(
                f"{name} is both --label and --group: no {name} of the test split could ever have been fitted. "
                "Name the column of the finding with --label."
            )
        if name == request.split:
            raise InputError(f"{name} is both --label and --split. Name the column of the finding with --label.")


def _check_spread(truth: Truth, groups: Int64, request: ProbeRequest) -> None:
    """Raise ProbeError where each of several classes has rows of one group only: none can be fitted and tested."""
    if truth.codes is None or len(truth.classes) < 3 or request.group == "none":
        return
    pairs = np.unique(np.stack([truth.codes, groups]), axis=1)
    if np.bincount(pairs[0]).max() == 1:
        raise ProbeError(
            f"each class of {request.labels[0]} is of one {request.group} alone: none can be fitted and tested. "
            "Name the column of the finding with --label."
        )


def _truth(
    table: pa.Table, request: ProbeRequest, classes: tuple[str, ...] | None
) -> tuple[Int64, Truth, Positive | None]:
    """Indices of the labelled rows (m,), their truth (m rows), and the positive class of two."""
    if request.multilabel:
        values = np.stack([_binary(table.column(name), name) for name in request.labels], axis=1)
        labelled = np.flatnonzero(~np.isnan(values).all(axis=1))
        if not len(labelled):
            raise ProbeError(f"no row has any of the labels {', '.join(request.labels)}.")
        return labelled, label_truth(values[labelled], request.labels), None
    column = table.column(request.labels[0])
    ids, names = _ids(column, ordered=True)
    labelled = np.flatnonzero(ids >= 0)
    _check_classes(column, request.labels[0], names, ordinal=request.ordinal)
    if classes is None:
        classes = names
    positive = None if request.ordinal else positive_class(classes, request.positive)
    classes = positive_last(classes, positive)
    strangers = [name for name in names if name not in classes]
    if strangers:
        raise ProbeError(
            f"column {request.labels[0]} holds {', '.join(strangers[:5])}, for which there is no text vector "
            f"(there are: {', '.join(classes)}). Leave those rows out with --where, or store their prompts."
        )
    place = np.array([classes.index(name) for name in names])
    return labelled, class_truth(place[ids[labelled]], classes, ordinal=request.ordinal), positive


def _check_classes(column: pa.ChunkedArray, name: str, classes: Sequence[str], *, ordinal: bool) -> None:
    number = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
    if not classes:
        raise ProbeError(f"column {name} has no value in any of these rows. Join labels with `indexer labels`.")
    if len(classes) == 1:
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


def _groups(table: pa.Table, request: ProbeRequest) -> tuple[Int64, tuple[str, ...], int]:
    """Group ids (n,), names, and the number of rows without a group."""
    if request.group == "none":
        return np.arange(table.num_rows), tuple(table.column("key").to_pylist()), table.num_rows
    ids, names = _ids(table.column(request.group))
    missing = np.flatnonzero(ids < 0)
    if len(missing):
        examples = ", ".join(table.column("key").take(pa.array(missing[:3])).to_pylist())
        raise ProbeError(
            f"{len(missing)} labelled rows have no {request.group} (e.g. {examples}). Leave them out with "
            f"--where '\"{request.group}\" IS NOT NULL', or split by image with --group none."
        )
    return ids, names, 0


def _ids(column: pa.ChunkedArray, *, ordered: bool = False) -> tuple[Int64, tuple[str, ...]]:
    """Ids (n,) into the column's distinct values as text; -1 for null and NaN. `ordered` sorts the values."""
    if pa.types.is_null(column.type):  # Arrow would make null a value of the dictionary
        return np.full(len(column), -1), ()
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    coded = column.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    values = coded.dictionary
    ids = coded.indices.fill_null(-1).to_numpy().astype(np.int64)
    if ordered:
        order = pc.sort_indices(values).to_numpy()
        rank = np.empty(len(order) + 1, np.int64)
        rank[order], rank[-1] = np.arange(len(order)), -1
        ids, values = rank[ids], values.take(pa.array(order))
    return ids, tuple(word(v) for v in values.to_pylist())


def word(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _text(column: pa.ChunkedArray) -> list[str | None]:
    return [None if v is None else word(v) for v in column.to_pylist()]
