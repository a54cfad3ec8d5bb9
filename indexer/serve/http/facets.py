"""How many rows have each value of the columns that have few, under a filter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from indexer.jsonable import jsonable
from indexer.store.table import EmbeddingStore

MOST_VALUES = 40  # of a column that is shown as a facet
BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Facet:
    """One column: its values by descending count; missing ones are None."""

    column: str
    values: list[tuple[Any, int]]


def facets(view: EmbeddingStore, where: str | None) -> list[Facet]:
    """The facets of all matching rows, in the order of the columns. Raises BadFilter."""
    names = [name for name, kind in view.columns().items() if _groups(kind)]
    counts: dict[str, Counter[Any]] = {name: Counter() for name in names}
    for name in names:  # column by column: one with many values is left at its first batches
        for batch in view.scan([name], where, batch_rows=BATCH_ROWS):
            counts[name].update(_counted(batch.column(name)))
            if len(counts[name]) > MOST_VALUES:
                break
    few: Mapping[str, Counter[Any]] = {n: c for n, c in counts.items() if 0 < len(c) <= MOST_VALUES}
    return [Facet(name, [(jsonable(v), n) for v, n in counter.most_common()]) for name, counter in few.items()]


def _groups(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind))


def _counted(column: pa.Array) -> dict[Any, int]:
    return {pair["values"].as_py(): pair["counts"].as_py() for pair in pc.value_counts(column)}
