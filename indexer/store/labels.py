"""Joining label columns to the rows: no vector is rewritten, and no label that is there is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from indexer.disk import DiskSync
from indexer.errors import InputError
from indexer.store.lance_errors import writing
from indexer.store.migrate import migrate
from indexer.store.schema import refused_name
from indexer.store.table import EmbeddingStore

SHOWN = 3  # names of each side where nothing matches


def add_columns(store: EmbeddingStore, labels: pa.Table, on: str = "key") -> int:
    """Join label columns to the rows by `on`; returns how many rows matched.

    A row that `labels` does not name keeps its values. Columns that are there are updated in one commit, new ones come
    in a second: a crash between the two leaves the new ones to a second call. Raises InputError, StoreLocked.
    """
    names = _checked(labels, on)
    with store.lock():
        migrate(store.uri, store.name)
        store.refresh()
        matched = _matched(store, labels, on, names)
        known = [name for name in names if name in store.columns()]
        dataset = store._dataset
        with writing(f"the columns {', '.join(names)} of table {store.name}"):
            if known:
                _update(dataset, matched.select(["key", *known]))
                dataset.checkout_latest()
            if len(known) < len(names):
                new = matched.select(["key", *(name for name in names if name not in known)])
                dataset.merge(new, left_on="key", right_on="key")
            if store.path is not None:
                DiskSync().sync(store.path)
        store.refresh()
    return int(matched.num_rows)


def _checked(labels: pa.Table, on: str) -> list[str]:
    """The label columns, once they can be columns and `on` names each row once."""
    names = [c for c in labels.column_names if c != on]
    for name in names:
        cause = refused_name(name)
        if cause:
            raise InputError(
                f"{name!r} cannot be a label column ({cause}): rename it in the file, to letters, digits and '_'."
            )
        if pa.types.is_nested(labels.column(name).type):
            raise InputError(f"column {name!r} of the labels holds lists or records: give plain values.")
    given = labels.column(on)
    if given.null_count:
        raise InputError(f"column {on!r} of the labels must name each row: {given.null_count} rows have none.")
    counts = pc.value_counts(given) if labels.num_rows else []
    repeated = [str(c["values"]) for c in counts if c["counts"].as_py() > 1]
    if repeated:
        raise InputError(f"column {on!r} of the labels must name each row once: {_few(repeated)} stands there twice.")
    return names


def _matched(store: EmbeddingStore, labels: pa.Table, on: str, names: Sequence[str]) -> pa.Table:
    """`key` and the label columns, in the table's own types, of each row that `labels` names."""
    asked = list(dict.fromkeys(["key", on]))
    parts = list(store.scan(asked))
    rows = pa.Table.from_batches(parts) if parts else store.empty(asked)
    given = _cast(labels.column(on), rows.column(on).type, on)
    spot = pc.index_in(rows.column(on), given.combine_chunks())
    if rows.num_rows == spot.null_count:
        stored = rows.column(on).slice(0, SHOWN).to_pylist()
        raise InputError(
            f"no {on} of the labels is in table {store.name}: the labels have {_few(given.to_pylist())}, the table has "
            f"{_few(stored) if stored else 'no row'}."
        )
    hit = pc.is_valid(spot)
    merged = {"key": rows.column("key").filter(hit)}
    for name in names:
        column = labels.column(name).take(spot.filter(hit))
        kind = store.columns().get(name)
        merged[name] = column if kind is None else _cast(column, kind, name)
    return pa.table(merged)


def _cast(column: pa.ChunkedArray, kind: pa.DataType, name: str) -> pa.ChunkedArray:
    """Whole numbers pass as real ones; nothing else changes its kind unasked. Raises InputError."""
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


def _few(values: Sequence[Any]) -> str:
    return ", ".join(repr(v) for v in values[:SHOWN]) + (", …" if len(values) > SHOWN else "")


def _update(dataset: Any, values: pa.Table) -> None:
    """New values for the rows that `values` names by key, in columns that are there: one commit."""
    fragments, fields, rows = [], set[int](), {}
    for fragment in dataset.get_fragments():
        metadata, changed, offsets = fragment.update_columns(values, "key", "key", with_offsets=True)
        fragments.append(metadata)
        fields.update(changed)
        rows[fragment.fragment_id] = offsets
    operation = lance.LanceOperation.Update(
        updated_fragments=fragments,
        fields_modified=sorted(fields),
        update_mode="rewrite_columns",
        updated_fragment_offsets=rows,
    )
    lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)
