"""Joining label columns to the rows: one commit, and no vector is rewritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from indexer.errors import InputError
from indexer.store.durable import DiskSync, mend, writing
from indexer.store.schema import COLUMN_NAME, SYSTEM_COLUMNS
from indexer.store.store import EmbeddingStore
from indexer.store.tables import require_whole


def add_columns(store: EmbeddingStore, labels: pa.Table, on: str = "key") -> int:
    """Join label columns to the rows by `on`; returns how many rows matched.

    A column that exists keeps its value in rows that `labels` does not name; one of another type is replaced whole.
    All columns come with one commit: a crash leaves the former ones or the new ones. Raises InputError, StoreLocked.
    """
    names = [c for c in labels.column_names if c != on]
    for name in names:
        if name in SYSTEM_COLUMNS or not COLUMN_NAME.fullmatch(name):
            raise InputError(
                f"{name!r} cannot be a label column: use letters, digits and '_', and no name of the table's own."
            )
        if pa.types.is_nested(labels.column(name).type):
            raise InputError(f"column {name!r} of the labels holds lists or records: give plain values.")
    given = labels.column(on)
    if pc.count_distinct(given).as_py() != len(given) or given.null_count:
        raise InputError(f"column {on!r} of the labels must name each row once: it has nulls or repeats.")
    with store.lock():
        if store.path is not None:
            mend(store.path)
        store.refresh()
        merged, matched = _joined(store, labels, on, names)
        with writing(f"the columns {', '.join(names)} of table {store.name}"):
            _commit(store._dataset, merged)
            if store.path is not None:
                _drop_detached(store.path)
                DiskSync().sync(store.path)
                require_whole(store.path)
        store.refresh()
    return matched


def _joined(store: EmbeddingStore, labels: pa.Table, on: str, names: Sequence[str]) -> tuple[pa.Table, int]:
    """`key` and the new columns for every row, and how many rows `labels` names."""
    known = [c for c in names if c in store.columns()]
    asked = list(dict.fromkeys(["key", *known, on]))
    parts = list(store.scan(asked))
    rows = pa.Table.from_batches(parts) if parts else store.empty(asked)
    spot = pc.index_in(rows.column(on), labels.column(on).combine_chunks())
    merged = {"key": rows.column("key")}
    for name in names:
        new = labels.column(name).take(spot)
        old = rows.column(name) if name in known else None
        same = old is not None and old.type == new.type
        merged[name] = pc.if_else(pc.is_null(spot), old, new) if same else new
    return pa.table(merged), len(spot) - int(spot.null_count)


def _commit(dataset: Any, merged: pa.Table) -> None:
    """Columns of `merged` in place of those of the same name, or beside the others.

    Lance knows "drop" and "merge" as two commits. The drop is made on a detached version, which no reader meets;
    the fragments that are merged onto it become the table's next version.
    """
    ids = {field.name(): field.id() for field in dataset.lance_schema.fields()}
    replaced = [name for name in merged.column_names if name in ids and name != "key"]
    base = _without(dataset, replaced) if replaced else dataset
    merged = merged.select(["key", *_in_order_of_ids(merged.column_names[1:], ids, _first_free_id(base))])
    fragments, schema, done = [], None, 0
    for fragment in base.get_fragments():
        n = fragment.count_rows()
        metadata, schema = fragment.merge(merged.slice(done, n), "key")  # scans come in the fragments' order
        fragments.append(metadata)
        done += n
    if schema is None:  # no rows: nothing can be lost between two commits
        if replaced:
            dataset.drop_columns(replaced)
        dataset.add_columns(pa.schema([f for f in merged.schema if f.name != "key"]))
        return
    operation = lance.LanceOperation.Merge(fragments, schema)
    lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)


def _without(dataset: Any, names: Sequence[str]) -> Any:
    """A detached version that lacks these columns; the others keep their field ids."""
    fields = [field.name() for field in dataset.lance_schema.fields()]
    rebuild, (metadata, *protos) = dataset.lance_schema.__reduce__()
    kept = [proto for name, proto in zip(fields, protos, strict=True) if name not in names]
    operation = lance.LanceOperation.Project(rebuild(metadata, *kept))
    return lance.LanceDataset.commit(dataset.uri, operation, read_version=dataset.version, detached=True)


def _first_free_id(dataset: Any) -> int:
    """The id that Lance gives to the next column."""
    used = [field.id() for field in dataset.lance_schema.fields()]
    for fragment in dataset.get_fragments():
        used += [i for file in fragment.data_files() for i in file.fields]
    return int(max(used)) + 1


def _in_order_of_ids(names: Sequence[str], ids: Mapping[str, int], first: int) -> list[str]:
    """The names so that a column whose old id is given out again gets it itself: Lance refuses to rename an id."""
    slots = {ids[name]: name for name in names if first <= ids.get(name, -1) < first + len(names)}
    others = iter([name for name in names if name not in slots.values()])
    return [slots[i] if i in slots else next(others) for i in range(first, first + len(names))]


def _drop_detached(path: Path) -> None:
    for manifest in (path / "_versions").glob("d*.manifest"):
        manifest.unlink(missing_ok=True)
