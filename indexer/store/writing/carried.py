"""Carries labels over from replaced rows: the new row of the same key and content gets them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.store.table import EmbeddingStore
from indexer.store.writing.keys import Digests, row_digests, spots_of
from indexer.types import Bool, Int64

PART_FACTS = "part_"  # prefix of columns computed from the image itself


def label_columns(store: EmbeddingStore) -> list[str]:
    """The columns that may hold labels, including those of metadata, which labels may overwrite."""
    return [name for name in store.columns() if name != "part" and not name.startswith(PART_FACTS)]


class CarriedLabels:
    """Label values of deleted rows, in 16 bytes for each labelled row beside the values themselves.

    The schema does not distinguish label columns from metadata columns. A value counts as a label where the row's own
    metadata (`meta`) lacks the column or has another value in it.
    """

    COLUMNS = ("shard", "key", "content", "meta")

    def __init__(self) -> None:
        self._digests: Digests = np.empty(0, "S16")  # sorted; row i of all arrays is the same deleted row
        self._labels = pa.table({"shard": pa.array([], pa.string())})
        self._used: Bool = np.zeros(0, bool)
        self._parts: list[tuple[Digests, pa.Table]] = []

    def add(self, batch: pa.RecordBatch, names: Sequence[str]) -> None:
        """Keep the labels of deleted rows, given with COLUMNS and the label columns `names`."""
        metadata = [json.loads(text) for text in batch.column("meta").to_pylist()]
        labels: dict[str, pa.Array] = {}
        labelled = np.zeros(batch.num_rows, bool)
        for name in names:
            values = batch.column(name).to_pylist()
            own = [_label(value, fields.get(name)) for value, fields in zip(values, metadata, strict=True)]
            mask = np.array([value is not None for value in own], bool)
            if mask.any():
                labels[name], labelled = pa.array(own, batch.schema.field(name).type), labelled | mask
        if labelled.any():
            table = pa.table({"shard": batch.column("shard"), **labels}).filter(pa.array(labelled))
            kept = batch.select(["key", "content"]).filter(pa.array(labelled))
            self._parts.append((_digests(kept), table))

    def __len__(self) -> int:
        self._gather()
        return len(self._digests)

    def use(self, rows: pa.RecordBatch | pa.Table) -> tuple[Int64, Int64]:
        """Mark the labels of these rows (`key`, `content`) as kept; returns matching positions in `rows` and labels."""
        self._gather()
        places, spots = spots_of(self._digests, _digests(rows))
        self._used[spots] = True
        return places, spots

    def applied(self, rows: pa.Table) -> tuple[pa.Table, int]:
        """New rows with labels of the deleted rows in place of metadata values; also, how many rows got labels."""
        places, spots = self.use(rows)
        source = np.full(rows.num_rows, -1, np.int64)
        source[places] = spots
        taken = self._labels.take(pa.array(source, mask=source < 0))
        for name in self._labels.column_names:
            if name != "shard":
                at = rows.schema.get_field_index(name)
                rows = rows.set_column(at, rows.schema.field(at), pc.coalesce(taken.column(name), rows.column(name)))
        return rows, len(places)

    def lost(self, shard: str) -> int:
        """The number of labelled rows of this shard without a matching new row."""
        self._gather()
        own = pc.equal(self._labels.column("shard"), shard).to_numpy(zero_copy_only=False)
        return int((own & ~self._used).sum())

    def _gather(self) -> None:
        if not self._parts:
            return
        digests = np.concatenate([self._digests, *(part for part, _ in self._parts)])
        order = np.argsort(digests)
        table = pa.concat_tables([self._labels, *(part for _, part in self._parts)], promote_options="default")
        self._digests, self._labels = digests[order], table.take(pa.array(order)).combine_chunks()
        self._used = np.zeros(len(order), bool)
        self._parts = []


def _digests(rows: pa.RecordBatch | pa.Table) -> Digests:
    return row_digests(rows, ("key", "content"))


def _label(value: Any, own: Any) -> Any:
    """The value, or None where it equals the metadata's."""
    return None if value is None or value == own else value
