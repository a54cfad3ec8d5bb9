"""Loads a table's rows for a probe: vectors, truth, groups, split and subgroup columns of one version (D0)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from indexer.errors import InputError, ProbeError
from indexer.groups.pooling import MEAN, check_method
from indexer.malloc import release_freed_memory
from indexer.store.table import EmbeddingStore
from indexer.types import Int64
from probes.cohort.labels import coded, distinct, read_truth, texts
from probes.cohort.levels import by_level
from probes.cohort.positive import Positive
from probes.cohort.scaling import Vectors
from probes.cohort.truth import Truth
from probes.cohort.vectors import check_vectors, read_vectors
from probes.request import IMAGE, ProbeRequest


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
    cases: int = 0  # with `level`: series, slides or patients, of which each is a row of the probe


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
    confounders: dict[str, tuple[str | None, ...]] = field(default_factory=dict)


# Of a batch of rows with a label. To fill it where 1 % have one, Lance reads a hundred times as many rows.
FILTERED_ROWS = 2048


def open_store(request: ProbeRequest) -> EmbeddingStore:
    """The table, at the request's version. Raises StoreError."""
    store = EmbeddingStore.open(request.db, request.table)
    return store if request.version is None else store.at(request.version)


def load(store: EmbeddingStore, request: ProbeRequest, classes: tuple[str, ...] | None = None) -> ProbeData:
    """Load the rows of a request. `classes` are those of the stored texts (zero-shot) or of a fitted probe; their order
    is kept, except that the positive one of two is last. Rows of a class that a fitted probe does not know are left out
    like rows without a label. Raises ProbeError, BadFilter, InputError.
    """
    table, row_ids, matched = _columns(store, request)
    labelled, truth, positive = read_truth(table, request, classes)
    kept = table.take(pa.array(labelled))
    del table
    release_freed_memory()  # of the scan, before the vectors are read
    groups, names, ungrouped = _groups(kept, request)
    if classes is None:
        _check_spread(truth, groups, request)
    needs_norms = request.scaling == "raw"
    vectors = Vectors(
        read_vectors(store, request.own_where, row_ids[labelled], matched),
        kept.column("norm").to_numpy().astype(np.float32) if needs_norms else None,
    )
    keys = tuple(kept.column("key").to_pylist())
    check_vectors(vectors, keys)
    data = ProbeData(
        vectors,
        truth,
        keys,
        groups,
        names,
        "image" if request.group == "none" else "group",
        distinct(kept.column("content"))[0],
        None if request.split_column is None else tuple(kept.column(request.split_column).to_pylist()),
        {name: tuple(texts(kept.column(name))) for name in request.subgroups},
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
        {name: tuple(texts(kept.column(name))) for name in request.confounders},
    )
    return data if request.level == IMAGE else by_level(data, *coded(kept.column(request.level)), request)


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
    wanted = [*request.labels, *request.subgroups, *request.confounders]
    wanted += [] if request.group == "none" else [request.group]
    wanted += [] if request.level == IMAGE else [request.level]
    wanted += [] if request.split_column is None else [request.split_column]
    known = store.columns()
    for name in wanted:
        if name not in known:
            listed = ", ".join(known) or "none"
            raise InputError(
                f"no column {name!r} in table {store.name}; it has: {listed}. Join labels with `indexer labels`."
            )
    names = ["key", "content", *dict.fromkeys(wanted)] + (["norm"] if request.scaling == "raw" else [])
    matched = store.count(request.own_where)
    if not matched:
        where = request.own_where
        raise ProbeError(f"no rows in table {store.name}" + (f" match --where {where!r}." if where else "."))
    batches = list(store.scan(names, _with_label(request), batch_rows=FILTERED_ROWS, once=True))
    if not batches:
        return store.empty(names), np.empty(0, np.int64), matched
    table = pa.Table.from_batches(batches)
    return table, table.column("_rowid").to_numpy().astype(np.int64), matched


def _with_label(request: ProbeRequest) -> str | None:
    """The filter, restricted to rows with some label, so that others are not read. NaN passes and is removed later."""
    where = request.own_where
    if any("`" in name for name in request.labels):
        return where
    labelled = " OR ".join(f"`{name}` IS NOT NULL" for name in request.labels)
    return labelled if where is None else f"({where}) AND ({labelled})"


def _check_columns(request: ProbeRequest) -> None:
    """Raise InputError where one column is both label and group, or label and split: nothing could be learnt."""
    check_method(request.pool, "--pool")
    if request.level != IMAGE and (request.scaling == "raw" or (request.probe == "zero-shot" and request.pool != MEAN)):
        raise InputError(
            f"--level {request.level} pools unit vectors: --scaling raw has none, and class texts are compared with "
            "means alone. Choose another --scaling, or --pool mean."
        )
    for name in request.confounders:
        if name in (*request.labels, request.group):
            known = (
                "--label: it says all of the finding"
                if name in request.labels
                else "--group: no value of it is on two sides"
            )
            raise InputError(f"{name} is both --confounder and {known}. Name another column with --confounder.")
    for name in request.labels:
        if name == request.group:
            raise InputError(
                f"{name} is both --label and --group: no {name} of the test split could ever have been fitted. "
                "Name the column of the finding with --label."
            )
        if name == request.split_column:
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


def _groups(table: pa.Table, request: ProbeRequest) -> tuple[Int64, tuple[str, ...], int]:
    """Group ids (n,), names, and the number of rows without a group."""
    if request.group == "none":
        return np.arange(table.num_rows), tuple(table.column("key").to_pylist()), table.num_rows
    ids, names = coded(table.column(request.group))
    missing = np.flatnonzero(ids < 0)
    if len(missing):
        examples = ", ".join(table.column("key").take(pa.array(missing[:3])).to_pylist())
        raise ProbeError(
            f"{len(missing)} labelled rows have no {request.group} (e.g. {examples}). Leave them out with "
            f"--where '\"{request.group}\" IS NOT NULL', or split by image with --group none."
        )
    return ids, names, 0
