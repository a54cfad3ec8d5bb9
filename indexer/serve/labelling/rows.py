"""The rows of a table as labelling sees them: in the order of a hash, some groups of them reserved for the estimate.

A reserved group's images are shown in the hash's order only and train nothing. Their order depends on their keys
alone, so that the labelled ones are a random sample of the table, whatever was searched for, by whom, and in how many
sittings; and no patient stands on both sides.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from indexer.errors import InputError, RowNotFound
from indexer.store.table import EmbeddingStore
from indexer.types import Bool, Int64

RESERVED = 0.1  # share of the groups, and of what is shown
FEWEST_GROUPS = 10  # that are reserved where a table has few, but no more than a quarter of them
SCANNED_ROWS = 65_536  # at once


@dataclass(frozen=True)
class LabelRows:
    """Rows in table order; positions in the arrays name them."""

    row_ids: Int64  # (n,)
    keys: pa.Array  # (n,)
    groups: Int64  # (n,) 0 … g-1: a value of the group column, or a row that has none
    reserved: Bool  # (n,)
    order: Int64  # (n,) positions in the order in which they are drawn

    def positions(self, keys: list[str]) -> Int64:
        """Raises RowNotFound for the first key that is not stored."""
        found = pc.index_in(pa.array(keys, self.keys.type), value_set=self.keys)
        missing = [key for key, spot in zip(keys, found.to_pylist(), strict=True) if spot is None]
        if missing:
            raise RowNotFound(f"no row with key {missing[0]!r}, so that no label was written. Load the page again.")
        return np.asarray(found, np.int64)

    def stored(self, keys: list[str]) -> Int64:
        """Positions of those of the keys that are stored, in order."""
        found = pc.index_in(pa.array(keys, self.keys.type), value_set=self.keys)
        return np.asarray(found.drop_null(), np.int64)

    def positions_of(self, row_ids: Int64) -> Int64:
        """Positions of those of the ids that are here, in order."""
        by_id = np.argsort(self.row_ids)
        spots = np.searchsorted(self.row_ids, row_ids, sorter=by_id)
        found = by_id[np.minimum(spots, len(by_id) - 1)] if len(by_id) else spots[:0]
        same: Int64 = found[self.row_ids[found] == row_ids[: len(found)]]
        return same


def read_table(view: EmbeddingStore, columns: list[str]) -> pa.Table:
    """`_rowid`, key and these columns of all rows, of one version."""
    names = list(dict.fromkeys(["key", *columns]))
    found = list(view.scan(names, batch_rows=SCANNED_ROWS))
    if found:
        return pa.Table.from_batches(found)
    return view.empty(names).add_column(0, "_rowid", pa.array([], pa.uint64()))


def label_rows(table: pa.Table, group: str | None) -> LabelRows:
    """The rows of `read_table`. Raises InputError for a group column that it lacks."""
    keys = table.column("key").combine_chunks().cast(pa.large_string())
    parts = (keys.slice(start, SCANNED_ROWS) for start in range(0, len(keys), SCANNED_ROWS))
    drawn = np.concatenate([np.empty(0, np.uint64), *(_hashes(part.to_pylist(), "row") for part in parts)])
    groups, of_group = _groups(table, group, drawn)
    count = len(of_group)
    kept = min(max(int(np.ceil(RESERVED * count)), min(FEWEST_GROUPS, count // 4)), count)
    is_reserved = np.zeros(count, bool)
    is_reserved[np.argsort(of_group, kind="stable")[:kept]] = True
    ids = table.column("_rowid").to_numpy().astype(np.int64)
    return LabelRows(ids, keys, groups, is_reserved[groups], np.argsort(drawn, kind="stable"))


def _groups(table: pa.Table, group: str | None, drawn: npt.NDArray[np.uint64]) -> tuple[Int64, npt.NDArray[np.uint64]]:
    """The rows' group numbers (n,) and the groups' hashes (g,); a row without a value is a group of its own."""
    if group is None:
        return np.arange(len(drawn)), drawn
    if group not in table.column_names:
        raise InputError(f"no column {group!r} to group by. Choose another, or none.")
    encoded = table.column(group).combine_chunks().dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    alone = np.flatnonzero(codes < 0)
    named = _hashes([str(value) for value in encoded.dictionary.to_pylist()], "group")
    codes[alone] = len(named) + np.arange(len(alone))
    return codes, np.concatenate([named, drawn[alone]])


def _hashes(names: list[str], what: str) -> npt.NDArray[np.uint64]:
    """A number of each name that looks random and is the same on every machine."""
    made = b"".join(hashlib.blake2b(f"{what}:{name}".encode(), digest_size=8).digest() for name in names)
    return np.frombuffer(made, "<u8").astype(np.uint64)
