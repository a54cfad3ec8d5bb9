"""Lists the groups of a table: rows, and for series of slices their order, spacing and flaws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from indexer.groups.counts import count_groups
from indexer.groups.geometry import APART, COLUMNS, SeriesFacts, Slices, series_facts
from indexer.groups.passes import HELD_BYTES, Reading, whole_groups
from indexer.groups.values import column_kind
from indexer.progress.silent import SILENT
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Progress

PATIENT, MODALITY = "patient", "modality"
SECTIONAL = ("CT", "MR", "PT")  # whose images have positions, or are flawed
ROW_BYTES = 600  # of the columns of a row as they are held


@dataclass(frozen=True)
class Group:
    """One group, and where its rows lie; None where they need no position and none has one."""

    group: str
    rows: int
    geometry: SeriesFacts | None


class _Columns:
    """The columns of one group's rows (`passes.Collector`)."""

    def __init__(self) -> None:
        self.batches: list[pa.RecordBatch] = []

    def add(self, rows: pa.RecordBatch) -> None:
        self.batches.append(rows)


def listed_groups(
    store: EmbeddingStore, by: str, *, progress: Progress = SILENT, held_bytes: int = HELD_BYTES
) -> Iterator[Group]:
    """The groups of the newest version, in the order in which they end in the table. Raises InputError.

    Memory: 16 bytes a row of the table, and `held_bytes` of the groups that are not whole yet.
    """
    column_kind(store, by, "--by")
    view = store.at(store.version)
    columns = [name for name in (*COLUMNS, PATIENT, MODALITY) if name in view.columns()]
    with progress.stage("counting", view.count()):
        counts = count_groups(view, by, progress)
    reading = Reading(by, columns, False, 1_000, ROW_BYTES, held_bytes)
    for group in whole_groups(view, counts, reading, _Columns, progress, "reading"):
        table = pa.Table.from_batches(group.rows.batches)
        rows = _slices(table, columns)
        sections = MODALITY in columns and set(table.column(MODALITY).to_pylist()) & set(SECTIONAL)
        known = sections or rows.patients > 1 or np.isfinite(rows.z).any()
        yield Group(group.name, len(table), series_facts(rows) if known else None)


def _slices(table: pa.Table, columns: list[str]) -> Slices:
    def numbers(name: str) -> Float64:
        if name not in columns:
            return np.full(len(table), np.nan)
        return np.array([np.nan if v is None else float(v) for v in table.column(name).to_pylist()])

    def texts(name: str) -> tuple[str, ...]:
        if name not in columns:
            return ("",) * len(table)
        return tuple("" if v is None else str(v) for v in table.column(name).to_pylist())

    z, u, v, orientation, spacing = COLUMNS[:5]
    patients = len(set(texts(PATIENT)) - {""})
    apart = {name: texts(name) for name, _ in APART}
    return Slices(numbers(z), numbers(u), numbers(v), texts(orientation), numbers(spacing), apart, patients)
