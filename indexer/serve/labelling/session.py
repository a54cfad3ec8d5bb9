"""Labelling of one table: its labels, their probe, what to show next, and their writing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.errors import InputError
from indexer.search.answer import answer
from indexer.search.options import SearchOptions
from indexer.search.queries import Query
from indexer.search.searcher import Searcher
from indexer.search.snapshot import Snapshot
from indexer.serve.labelling import order
from indexer.serve.labelling.estimate import Accuracy, accuracy
from indexer.serve.labelling.labels import MOST_CLASSES, RANDOM, SEARCH, LabelColumns, Labels, class_name, labels_of
from indexer.serve.labelling.probe import Probe, fit
from indexer.serve.labelling.rows import LabelRows, label_rows, read_table
from indexer.serve.labelling.vectors import VectorCache
from indexer.store.labelling.join import join_labels
from indexer.store.opened import TableState
from indexer.store.table import EmbeddingStore
from indexer.types import Bool, Int64

CANDIDATES = 20_000  # rows whose probability is computed; of a larger table a random part, and NEAREST
NEAREST = 500  # rows nearest to the rarest class's direction, by the index
QUERY, PROBE, LOT = "query", "probe", "lot"  # what orders images
MOST_TRAINED = 10_000  # labels that a probe is fitted on; of more the same number of each class, drawn at random
DEEPEST = 10_000  # hits of a search that are looked through for images without a label


@dataclass(frozen=True)
class NewLabel:
    """A label to write; `name` None takes one away."""

    key: str
    name: str | None
    random: bool  # its image was drawn at random


@dataclass(frozen=True)
class Standing:
    """Labels so far, and what their probe is worth."""

    classes: dict[str, int]  # labelled images
    columns: LabelColumns
    learnt: tuple[str, ...]  # classes that the probe knows; none before it starts
    random: int  # labelled images that were drawn at random
    accuracy: Accuracy | None
    always: tuple[str, float] | None  # the most frequent class of those, and how often it alone would be right
    waiting: int  # images without a label
    version: int


@dataclass
class _State:
    """What is known of one version of the table under one group column."""

    group: str | None
    snapshot: Snapshot
    commit: str  # of the version whose labels these are
    rows: LabelRows
    labels: Labels
    vectors: VectorCache
    probe: Probe | None = None
    fitted: bool = False

    def predicted(self, probe: Probe, spots: Int64) -> Int64:
        """The most probable class (n,) of each row, in parts, so that the vectors of few are held at once."""
        parts = [spots[start : start + MOST_TRAINED] for start in range(0, len(spots), MOST_TRAINED)]
        return np.concatenate([np.empty(0, np.int64), *(probe.predicted(self.vectors.of(part)) for part in parts)])


def _random(now: _State) -> Int64:
    """Labelled rows that were drawn at random and are reserved: the sample of the estimate."""
    return np.flatnonzero(now.labels.random & now.rows.reserved & (now.labels.codes >= 0))


class Labelling:
    """Thread-safe: requests are served one after the other."""

    def __init__(self, searcher: Searcher, opened: Callable[[], EmbeddingStore], column: str) -> None:
        """`opened` opens the table for writing. Raises InputError where the column cannot take labels."""
        self.columns = LabelColumns(column)
        self._searcher, self._opened = searcher, opened
        self._lock = threading.Lock()
        self._held: _State | None = None
        self._store: EmbeddingStore | None = None

    def standing(self, group: str | None) -> Standing:
        """Raises InputError for a group column that the table lacks."""
        with self._lock:
            now = self._state(group)
            labels, random = now.labels, _random(now)
            probe = self._probe(now)
            found = always = None
            if len(random):
                share = np.bincount(labels.codes[random])
                always = (labels.classes[int(share.argmax())], float(share.max() / len(random)))
                if probe is not None:
                    right = now.predicted(probe, random) == labels.codes[random]
                    found = accuracy(right, now.rows.groups[random])
            learnt = () if probe is None else tuple(labels.classes[int(code)] for code in probe.classes)
            waiting = int((labels.codes < 0).sum())
            return Standing(
                labels.counts(), self.columns, learnt, len(random), found, always, waiting, now.snapshot.version
            )  # fmt: skip

    def next(
        self, group: str | None, limit: int, skipped: Sequence[str] = (), query: Query | None = None
    ) -> tuple[str, list[tuple[str, str]]]:
        """What orders the next images (QUERY, PROBE, LOT), and of each its key and how it was chosen: RANDOM or SEARCH.

        `skipped` are not to be shown; `query` orders in place of the probe. Raises RowNotFound, InputError.
        """
        hits = None if query is None else self._hits(group, query, limit + len(skipped))
        with self._lock:
            now = self._state(group)
            free = now.labels.codes < 0
            free[now.rows.stored(list(skipped))] = False  # a skipped image may have been deleted since
            random = order.drawn(now.rows, free, limit)
            searchable = free & ~now.rows.reserved
            ordered = self._by_probe(now, searchable) if hits is None else iter(now.rows.positions_of(hits).tolist())
            searched = order.first_of_groups((s for s in ordered if searchable[s]), now.rows.groups, limit)
            if not searched and query is None:  # only reserved ones are left
                random = now.rows.order[(now.rows.reserved & free)[now.rows.order]][:limit].tolist()
            page = order.mixed(searched, random, limit)
            keys = now.rows.keys.take(pa.array(page, pa.int64())).to_pylist()
            by = QUERY if query else PROBE if self._probe(now) is not None else LOT
            return by, [(key, RANDOM if spot in random else SEARCH) for key, spot in zip(keys, page, strict=True)]

    def write(self, given: Sequence[NewLabel], by: str, group: str | None) -> None:
        """Write labels in one commit; of several for one key the last holds. Raises RowNotFound, InputError,
        StoreLocked: then none is written.
        """
        with self._lock:
            now = self._state(group)
            last = list({label.key: label for label in given}.values())
            spots = now.rows.positions([label.key for label in last])
            names = [None if label.name is None else class_name(label.name) for label in last]
            self._check(now, spots, names, last)
            state = self._join(last, names, by)
            # a commit of another writer between ours and what is held: read again
            now.commit = state.commit if state.version == now.snapshot.version + 1 else ""
            now.labels.set(spots, names, [label.random for label in last])
            now.fitted = False

    def exported(self) -> Iterator[tuple[str | None, ...]]:
        """Key, label, by, at, shown of each labelled row, in table order, after a line of names."""
        view = self._searcher.snapshot.view
        present = [name for name in self.columns.all if name in view.columns()]
        yield ("key", *self.columns.all)
        if self.columns.label not in present:
            return
        for batch in view.scan(["key", *present], f"`{self.columns.label}` IS NOT NULL"):
            for row in batch.to_pylist():
                values = [row.get(name) for name in self.columns.all]
                yield (row["key"], *(None if value is None else str(value) for value in values))

    def _state(self, group: str | None) -> _State:
        """The labels of the newest version; read again where another writer made it."""
        snapshot = self._searcher.snapshot
        held = self._held
        if held is not None and held.group == group and held.commit == snapshot.commit:
            held.snapshot, held.vectors.view = snapshot, snapshot.view  # an older version's files may be removed
            return held
        kinds = snapshot.view.columns()
        self.columns.require_kinds(kinds)
        present = [name for name in self.columns.all if name in kinds]
        if group is not None and group not in kinds:
            raise InputError(f"no column {group!r} to group by. The table has: {', '.join(kinds) or 'none'}.")
        table = read_table(snapshot.view, [*present, *([] if group is None else [group])])
        rows = label_rows(table, group)
        cache = VectorCache(snapshot.view, rows)
        self._held = _State(group, snapshot, snapshot.commit, rows, labels_of(table, self.columns), cache)
        return self._held

    def _probe(self, now: _State) -> Probe | None:
        if not now.fitted:
            training = order.first_of_classes(now.labels.codes, ~now.rows.reserved, now.rows.order, MOST_TRAINED)
            now.probe = fit(now.vectors.of(training), now.labels.codes[training])
            now.fitted = True
        return now.probe

    def _hits(self, group: str | None, query: Query, limit: int) -> Int64:
        """Row ids of a search among images without a label, as far as DEEPEST. The lock is not held while it embeds."""
        with self._lock:
            snapshot = self._state(group).snapshot
        where = f"`{self.columns.label}` IS NULL" if self.columns.label in snapshot.view.columns() else None
        options = SearchOptions(k=min(DEEPEST, 10 * limit), where=where)
        (found,) = answer(self._searcher, query, options, snapshot=snapshot).queries
        return np.array([hit.row_id for hit in found.hits], np.int64)

    def _by_probe(self, now: _State, searchable: Bool) -> Iterator[int]:
        """The rarest class and the most doubtful in turn; at random before there is a probe."""
        probe = self._probe(now)
        by_lot = now.rows.order[searchable[now.rows.order]]
        part = by_lot[:CANDIDATES]
        if probe is None:
            return iter(part.tolist())
        counts = now.labels.counts()
        rarest = min(counts, key=lambda name: counts[name])
        code = now.labels.classes.index(rarest)
        column = probe.column(code)
        if column is None:  # too few to be learnt: near to the mean of those there are
            examples = now.vectors.of(np.flatnonzero(now.labels.codes == code)[:MOST_TRAINED])
            direction = examples.mean(axis=0, dtype=np.float64)
        else:
            direction = probe.coef[column] - np.delete(probe.coef, column, axis=0).mean(axis=0)
        if len(by_lot) > len(part):
            part = np.union1d(part, self._nearest(now, direction, searchable))
        x = now.vectors.of(part)
        chances = probe.probabilities(x)
        first = np.argsort(-(x @ direction), kind="stable") if column is None else order.by_probability(chances, column)
        return order.alternating(part[first].tolist(), part[order.by_doubt(chances)].tolist())

    def _nearest(self, now: _State, direction: Any, searchable: Bool) -> Int64:
        length = float(np.linalg.norm(direction))
        if not length:
            return np.empty(0, np.int64)
        _, ids = now.snapshot.search((direction / length)[None], NEAREST, None)
        spots = now.rows.positions_of(ids[0][ids[0] >= 0])
        return spots[searchable[spots]]

    def _check(self, now: _State, spots: Int64, names: list[str | None], given: list[NewLabel]) -> None:
        """Refuse what would make labels or the estimate wrong. Raises InputError."""
        labels = now.labels
        for spot, label in zip(spots.tolist(), given, strict=True):
            if labels.codes[spot] >= 0 and not labels.own[spot]:
                raise InputError(
                    f"the label of {label.key!r} was not given here and stays; `indexer labels` can change it."
                )
            if label.random and not now.rows.reserved[spot]:
                raise InputError(f"{label.key!r} was not drawn at random under this group column: load the page again.")
        classes = {*labels.counts(), *(name for name in names if name is not None)}
        if len(classes) > MOST_CLASSES:
            raise InputError(
                f"column {self.columns.label} would have {len(classes)} classes, and only {MOST_CLASSES} have keys. "
                "Label in another column: start the server with --labels NAME."
            )

    def _join(self, given: list[NewLabel], names: list[str | None], by: str) -> TableState:
        """The table's state after the commit."""
        if self._store is None:
            self._store = self._opened()
        when = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        shown = [RANDOM if label.random else SEARCH for label in given]
        columns = self.columns
        values = {
            columns.label: names,
            columns.by: [None if name is None else by for name in names],
            columns.at: [None if name is None else when for name in names],
            columns.shown: [None if name is None else how for name, how in zip(names, shown, strict=True)],
        }
        made = {name: pa.array(column, pa.string()) for name, column in values.items()}
        keys = pa.array([label.key for label in given], pa.string())
        join_labels(self._store, pa.table({"key": keys, **made}), forgiving=False)
        return self._store.state
