"""Joins label columns to the rows. Vectors are not rewritten, and rows without a new label keep theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from indexer.disk import DiskSync
from indexer.errors import InputError
from indexer.store.lance_errors import writing
from indexer.store.migrate import migrate
from indexer.store.schema import refused_name
from indexer.store.table import EmbeddingStore
from indexer.store.writing.label_index import SHOWN, LabelIndex, cast, few
from indexer.types import Int64

CHECKED_ROWS = 65_536  # rows checked at once


def add_columns(store: EmbeddingStore, labels: pa.Table, on: str = "key") -> int:
    """Join label columns to the rows by `on`; returns how many rows matched.

    A row that `labels` does not name keeps its values. Existing columns are updated in one commit, new ones are added
    in a second one: after a crash between the two, a second call adds the new ones. Values are joined fragment by
    fragment, so that memory holds 16 bytes for each line of `labels` and the values of one fragment.
    Raises InputError, StoreLocked.
    """
    names = _checked(labels, on)
    with store.lock():
        migrate(store.uri, store.name)
        store.refresh()
        kinds = store.columns()
        index = LabelIndex(labels, on, store.empty([on]).schema.field(on).type)
        for batch in labels.to_batches(max_chunksize=CHECKED_ROWS):  # before anything is written
            for name in names:
                cast(batch.column(name), kinds.get(name, batch.column(name).type), name)
        join = _Join(index, on, kinds)
        known, new = [n for n in names if n in kinds], [n for n in names if n not in kinds]
        matched = 0
        with writing(f"the columns {', '.join(names)} of table {store.name}"):
            for group, write in ((known, _update), (new, _merge)):
                if group and (matched := write(store._dataset, join, group)) and store.path is not None:
                    DiskSync().sync(store.path)
        store.refresh()
        if not matched:
            raise _nothing_matched(store, index, on)
    return matched


def _checked(labels: pa.Table, on: str) -> list[str]:
    """The label columns. Raises InputError where one cannot be a column, or `on` does not name each row once."""
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
    return names


@dataclass(frozen=True)
class _Join:
    """Labels by row, one fragment at a time."""

    index: LabelIndex
    on: str
    kinds: Mapping[str, pa.DataType]  # types of the table's columns

    def values(self, fragment: Any, names: Sequence[str]) -> pa.Table:
        """`key` and the label columns, in the table's types, of the fragment's rows that the labels name."""
        keys: list[pa.Array] = []
        lines: list[Int64] = [np.empty(0, np.int64)]
        for batch in fragment.to_batches(columns=list(dict.fromkeys(["key", self.on]))):
            found = self.index.lines(batch.column(self.on))
            keys.append(batch.column("key").filter(pa.array(found >= 0)))
            lines.append(found[found >= 0])
        taken = self.index.take(np.concatenate(lines), names)
        columns = {
            name: cast(taken.column(name), self.kinds.get(name, taken.column(name).type), name) for name in names
        }
        return pa.table({"key": pa.chunked_array(keys, pa.string()), **columns})


def _nothing_matched(store: EmbeddingStore, index: LabelIndex, on: str) -> InputError:
    shown = (batch.column(on).slice(0, SHOWN).to_pylist() for batch in store.scan([on]) if batch.num_rows)
    stored: list[Any] = next(shown, [])
    return InputError(
        f"no {on} of the labels is in table {store.name}: the labels have {few(index.first())}, the table has "
        f"{few(stored) if stored else 'no row'}."
    )


def _update(dataset: Any, join: _Join, names: Sequence[str]) -> int:
    """Update existing columns in one commit; returns the number of rows updated."""
    fragments, fields, rows, matched = [], set[int](), {}, 0
    for fragment in dataset.get_fragments():
        values = join.values(fragment, names)
        if values.num_rows:
            metadata, changed, offsets = fragment.update_columns(values, "key", "key", with_offsets=True)
            fragments.append(metadata)
            fields.update(changed)
            rows[fragment.fragment_id] = offsets
            matched += values.num_rows
    if fragments:
        operation = lance.LanceOperation.Update(
            updated_fragments=fragments,
            fields_modified=sorted(fields),
            update_mode="rewrite_columns",
            updated_fragment_offsets=rows,
        )
        lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)
    return matched


def _merge(dataset: Any, join: _Join, names: Sequence[str]) -> int:
    """Add columns in one commit; returns the number of rows with values. A fragment without values gets no file: Lance
    then reads nulls.
    """
    fragments, schema, matched = [], None, 0
    for fragment in dataset.get_fragments():
        values = join.values(fragment, names)
        if values.num_rows:
            metadata, schema = fragment.merge(values, "key", "key")
            fragments.append(metadata)
            matched += values.num_rows
        else:
            fragments.append(fragment.metadata)
    if schema is not None:
        operation = lance.LanceOperation.Merge(fragments, schema)
        lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)
    return matched
