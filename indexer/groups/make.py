"""Makes a table's pooled vectors, or brings them to its newest version."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from indexer.errors import InputError, StoreError
from indexer.groups.changed import changed_groups, pooled_again
from indexer.groups.counts import count_groups
from indexer.groups.passes import HELD_BYTES
from indexer.groups.pooled_rows import pooled_rows
from indexer.groups.pooling import MEAN, check_method, width_of
from indexer.groups.values import column_kind
from indexer.progress.silent import SILENT
from indexer.store.pooled import PooledFacts, PooledTable, open_pooled, require_pooled, write_pooled
from indexer.store.rows import Delta
from indexer.store.table import EmbeddingStore
from indexer.types import Progress

MOST_CHANGED = 0.25  # share of the table's rows, above which all groups are pooled again


@dataclass(frozen=True)
class PoolReport:
    """What a call of `pool` made."""

    table: str
    by: str
    method: str
    version: int
    groups: int
    rows: int  # in a group
    ungrouped: int  # rows without a value in the column
    pooled: int  # groups pooled by this call; the others are as they were
    seconds: float


def pool(
    store: EmbeddingStore,
    by: str,
    method: str = MEAN,
    *,
    progress: Progress = SILENT,
    held_bytes: int = HELD_BYTES,
) -> PoolReport:
    """Pool the unit vectors of each value of column `by`, of the newest version, beside the table.

    Where they were pooled before, only groups with inserted, updated or deleted rows are pooled again. Memory: at most
    16 bytes a row, `held_bytes`, and one batch. Raises InputError (no such column or method, no group), StoreError.
    """
    started = time.perf_counter()
    check_method(method, "--method")
    column_kind(store, by, "--by")
    store.refresh()
    view = store.at(store.version)
    old = _earlier(view, by, method)
    facts = PooledFacts(by, method, view.version, view.state.commit, view.state.fingerprint)
    width = width_of(method, view.dim)
    if old is not None and old.facts == facts:
        return _report(view, facts, started, 0)
    delta = None if old is None else _changes(view, old.facts)
    if old is None or delta is None:
        with progress.stage("counting", view.count()):
            counts = count_groups(view, by, progress)
        made = left = len(counts.hashes)
        rows = pooled_rows(view, by, method, counts, progress, held_bytes)
    else:
        changed = changed_groups(view, by, old, delta)
        made, left = len(changed.names), old.count() - len(changed.gone) + len(changed.names)
        rows = pooled_again(view, method, old, changed)
    if not left:
        raise InputError(
            f"no row of table {view.name} has a value in column {by}: nothing to pool. Name another with --by."
        )
    write_pooled(store, facts, rows, width)
    return _report(view, facts, started, made)


def _earlier(view: EmbeddingStore, by: str, method: str) -> PooledTable | None:
    """The pooled vectors that are there; None where they are damaged too."""
    try:
        return open_pooled(view, by, method)
    except StoreError:
        return None


def _changes(view: EmbeddingStore, facts: PooledFacts) -> Delta | None:
    """What changed since; None where that cannot be known, or is much."""
    try:
        delta = view.delta(facts.version, commit=facts.commit)
    except StoreError:
        return None
    changed = len(delta.inserted) + len(delta.updated) + len(delta.deleted)
    return delta if changed <= MOST_CHANGED * view.count() else None


def _report(view: EmbeddingStore, facts: PooledFacts, started: float, made: int) -> PoolReport:
    pooled = require_pooled(view, facts.by, facts.method)
    rows = sum(_sums(pooled))
    seconds = round(time.perf_counter() - started, 3)
    ungrouped = view.count() - rows
    return PoolReport(view.name, facts.by, facts.method, view.version, pooled.count(), rows, ungrouped, made, seconds)


def _sums(pooled: PooledTable) -> Iterator[int]:
    for batch in pooled.scan(["rows"]):
        yield pa.compute.sum(batch.column("rows")).as_py() or 0
