"""Joins label columns to the rows. Vectors are not rewritten, and rows without a new label keep theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from indexer.disk import DiskSync
from indexer.errors import InputError
from indexer.malloc import release_freed_memory
from indexer.store.formats.migrate import migrate
from indexer.store.holding.commits import committing
from indexer.store.labelling.index import SHOWN, LabelIndex, cast, few
from indexer.store.lance_calls import update_columns
from indexer.store.lance_errors import writing
from indexer.store.rows import batches
from indexer.store.schema import refused_name
from indexer.store.table import EmbeddingStore
from indexer.types import Int64
from indexer.user_tables.joining import EXAMPLES, NameMatcher, Pair, counted, forgiven_words

CHECKED_ROWS = 65_536  # at once
MOST_FORGIVEN = 2_000_000  # lines without a row of their name, for which other names are tried: 400 MB


@dataclass(frozen=True)
class Labelled:
    """What a join did."""

    rows: int  # of the table that a line of the labels names
    unused: int = 0  # lines that name no row
    examples: tuple[str, ...] = ()  # the first of their names
    searched: bool = True  # whether other spellings of the unused names were looked for
    forgiven: tuple[Pair, ...] = ()  # names taken for a row's in spite of folder, ending, letter case or form

    def notes(self) -> list[str]:
        """Sentences on what was forgiven and on what joined nothing, each with its count and examples."""
        found = [forgiven_words(self.forgiven)] if self.forgiven else []
        if self.unused:
            found.append(f"labels that name no row: {counted(self.examples, self.unused)}")
        if self.unused and not self.searched:
            found.append(f"of more than {MOST_FORGIVEN:,} such labels other spellings are not looked for")
        return found


def add_columns(store: EmbeddingStore, labels: pa.Table, on: str = "key") -> int:
    """`join_labels` by equal names alone; returns how many rows matched."""
    return join_labels(store, labels, on, forgiving=False).rows


def join_labels(store: EmbeddingStore, labels: pa.Table, on: str = "key", *, forgiving: bool = True) -> Labelled:
    """Join label columns to the rows by `on`: by equal names, else (`forgiving`) as `NameMatcher` finds them.

    A row that `labels` does not name keeps its values. Columns that are there are updated in one commit, new ones come
    in a second: a crash between the two leaves the new ones to a second call. Each fragment is given its own rows'
    values, so that memory holds 13 bytes a line of `labels`, the values of one fragment, and where names are forgiven
    some 200 bytes for each line that no row's name equals. Raises InputError, StoreLocked.
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
        labelled, meant = _matched(store, index, on, forgiving=forgiving)
        release_freed_memory()
        join = _Join(index, on, kinds, meant)
        known, new = [n for n in names if n in kinds], [n for n in names if n not in kinds]
        with writing(f"the columns {', '.join(names)} of table {store.name}"):
            for group, write in ((known, _update), (new, _merge)):
                if group and write(store._dataset, join, group) and store.path is not None:
                    DiskSync().sync(store.path)
        store.refresh()
    return labelled


def _matched(
    store: EmbeddingStore, index: LabelIndex, on: str, *, forgiving: bool
) -> tuple[Labelled, dict[str, int]]:  # fmt: skip
    """What the join will do, and for each stored name that another one is taken for its line. Raises InputError."""
    free = np.ones(len(index), bool)
    rows = 0
    for batch in store.scan([on]):
        found = index.lines(batch.column(on))
        free[found[found >= 0]] = False
        rows += int((found >= 0).sum())
    lines = np.flatnonzero(free)
    meant: dict[str, int] = {}
    pairs: list[Pair] = []
    searched = forgiving and len(lines) <= MOST_FORGIVEN
    if searched and index.is_text and len(lines):
        written = index.written(lines)
        matcher = NameMatcher(written)
        matcher.see_written(index.all_written())
        matcher.see_stored(_stored_names(store, on))
        pairs = matcher.pairs()
        line_of = dict(zip(written, lines.tolist(), strict=True))
        meant = {pair.stored: line_of[pair.written] for pair in pairs}
        free[list(meant.values())] = False
        lines = np.flatnonzero(free)
        rows += sum(name in meant for name in _stored_names(store, on)) if meant else 0
    if not rows:
        raise _nothing_matched(store, index, on)
    return Labelled(rows, len(lines), tuple(index.written(lines[:EXAMPLES])), searched, tuple(pairs)), meant


def _stored_names(store: EmbeddingStore, on: str) -> Iterator[str]:
    return (name for batch in store.scan([on]) for name in batch.column(on).to_pylist() if name)


def _checked(labels: pa.Table, on: str) -> list[str]:
    """The label columns. Raises InputError where one cannot be a column, or `on` does not name each row once."""
    names = [c for c in labels.column_names if c != on]
    for name in names:
        cause = refused_name(name)
        if cause:
            raise InputError(
                f"{name!r} cannot be a label column ({cause}). Give it another name, of letters, digits and '_'."
            )
        if pa.types.is_nested(labels.column(name).type):
            raise InputError(f"column {name!r} of the labels holds lists or records. Give plain values.")
    given = labels.column(on)
    if given.null_count:
        raise InputError(
            f"column {on!r} of the labels must name each row: {given.null_count} rows have none. "
            "Fill it in, or leave them out."
        )
    return names


@dataclass(frozen=True)
class _Join:
    """Labels by row, one fragment at a time."""

    index: LabelIndex
    on: str
    kinds: Mapping[str, pa.DataType]  # of the columns that the table has
    meant: Mapping[str, int]  # stored name → line, where another name than its own is taken for it

    def values(self, fragment: Any, names: Sequence[str]) -> pa.Table:
        """`key` and the label columns, in the table's types, of the fragment's rows that the labels name."""
        release_freed_memory()  # of the fragment before: Lance's join leaves it in pieces
        keys: list[pa.Array] = []
        lines: list[Int64] = [np.empty(0, np.int64)]
        for batch in batches(fragment, list(dict.fromkeys(["key", self.on]))):
            found = self.index.lines(batch.column(self.on))
            if self.meant:
                asked = zip(batch.column(self.on).to_pylist(), found.tolist(), strict=True)
                found = np.array([self.meant.get(own, -1) if line < 0 else line for own, line in asked], np.int64)
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
        f"{few(stored) if stored else 'no row'}. Name the column that names the rows with --on COLUMN={on}."
    )


def _update(dataset: Any, join: _Join, names: Sequence[str]) -> int:
    """Update existing columns in one commit; returns the number of rows updated."""
    return update_columns(dataset, lambda fragment: join.values(fragment, names))


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
        with committing(dataset):
            lance.LanceDataset.commit(dataset, operation, read_version=dataset.version)
    return matched
