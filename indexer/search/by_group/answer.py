"""Answers one query with groups of rows (series, slides, studies), from one snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from indexer.errors import InputError, RowNotFound
from indexer.groups.counts import encoded
from indexer.groups.pooling import MEAN
from indexer.groups.values import column_kind, group_names
from indexer.search.asked import NO_ROWS, columns_of, embedded_examples_of, excluded_rows, stored_examples, vectors_of
from indexer.search.by_group.candidates import Looked, Ranked, ranked_groups
from indexer.search.by_group.late import Asked, nearest_parts
from indexer.search.drawing.pictures import pictures_of
from indexer.search.exclude import Excluded, key_rows, row_set
from indexer.search.images import image_parts
from indexer.search.options import SearchOptions
from indexer.search.queries import Query
from indexer.search.results import Pictures, QueryHits, SearchResult
from indexer.search.snapshot import Snapshot
from indexer.store.pooled import PooledTable, require_pooled
from indexer.store.table import EmbeddingStore
from indexer.types import Hit, Int64, PartMatch
from indexer.user_tables.nearest import nearest_words

if TYPE_CHECKING:
    from indexer.search.searcher import Searcher

MOST_PARTS = 1_024  # of a query; of more, evenly spaced ones are used, and the answer says so
SHOWN = 5  # rows of a group that are named with a hit


def answer_groups(
    searcher: Searcher,
    query: Query,
    options: SearchOptions,
    snapshot: Snapshot | None,
    *,
    pictures: bool,
    roots: Sequence[str],
) -> SearchResult:
    """One query of all that was named, answered with values of the column `options.by`.

    `snapshot`: the one to search; None: the newest. A stored query's own groups are no hits. Raises StoreError where
    the pooled vectors are missing or of another version, and what `answer` raises.
    """
    by = str(options.by)
    view = (searcher.snapshot if snapshot is None else snapshot).view
    column_kind(view, by, "--by")
    require_pooled(view, by, MEAN)  # before the encoder is loaded
    if query.images:
        vectors, names = image_parts(query.images, searcher.encoder)
        parts: Asked | None = Asked(vectors, names)
    else:
        embedded = embedded_examples_of(searcher, query)
        parts = None
    snapshot = searcher.snapshot if snapshot is None else snapshot
    view = snapshot.view
    pooled = require_pooled(view, by, MEAN)
    own = _own_rows(view, pooled, query)
    if query.groups:
        asked, count = _stored_parts(view, own)
    else:
        if parts is None:
            parts = Asked(vectors_of(view, query, own, embedded), query.labels)
        asked, count = _thinned(parts), len(parts.names)
    excluded = [row_set(rows) for rows in _excluded(snapshot, query, options, own)]
    allowed = searcher.allowed(snapshot, options.where)

    def allow(rows: Int64) -> Int64:
        keep = np.ones(len(rows), bool) if allowed is None else allowed.has(rows)
        for out in excluded:
            keep &= ~out.has(rows)
        return rows[keep]

    looked, flat = Looked(), np.concatenate([NO_ROWS, *own])
    lists = ranked_groups(view, pooled, asked, allow, _groups_of(view, by, flat), exact=searcher.exact, looked=looked)
    page: list[Ranked] = []
    for ranked in lists:
        reached = [one for one in ranked if options.min_score is None or one.score >= options.min_score]
        page += reached
        if len(page) >= options.offset + options.k or (ranked and not reached):
            break
    page = page[options.offset : options.offset + options.k]
    hits = _hits(snapshot, asked, page, options)
    label = _label(query)
    answers = [QueryHits(label, hits)]
    drawn = _pictures(view, query, flat, answers, roots) if pictures else None
    how = _how(options, looked, asked, count)
    return SearchResult(view.name, snapshot.version, query.kind, how, options, answers, drawn)


def _own_rows(view: EmbeddingStore, pooled: PooledTable, query: Query) -> list[Int64]:
    """The stored rows that the query names. Raises RowNotFound."""
    if not query.groups:
        return [key_rows(view, keys) for keys in stored_examples(query)]
    rows = pooled.rows_of(list(query.groups))
    for name, own in zip(query.groups, rows, strict=True):
        if not len(own):
            known = (group for batch in pooled.scan(["group"]) for group in batch.column("group").to_pylist())
            raise RowNotFound(
                f"no row of table {view.name} has {pooled.facts.by} {name!r}.{nearest_words(name, known)} "
                f"Name a stored one with --group."
            )
    return rows


def _stored_parts(view: EmbeddingStore, own: Sequence[Int64]) -> tuple[Asked, int]:
    """The rows of stored groups as parts, and how many there are. Only those that are used are read."""
    rows = np.concatenate(own)
    chosen = rows[_spread(len(rows))]
    _, table = view.take(chosen, ["key"])
    keys = tuple(table.column("key").to_pylist())
    return Asked(vectors_of(view, Query(keys=keys), [chosen], []), keys), len(rows)


def _thinned(parts: Asked) -> Asked:
    """Raises InputError where there is no part."""
    if not len(parts.vectors):
        raise InputError("the query has no image. Name a file or folder with images.")
    chosen = _spread(len(parts.vectors))
    return Asked(parts.vectors[chosen], [parts.names[i] for i in chosen.tolist()])


def _spread(count: int) -> Int64:
    """The places of at most MOST_PARTS of so many parts, evenly spaced."""
    return np.linspace(0, count - 1, min(count, MOST_PARTS)).round().astype(np.int64)


def _excluded(snapshot: Snapshot, query: Query, options: SearchOptions, own: Sequence[Int64]) -> list[Excluded]:
    if query.groups:
        keyed = Query(keys=query.groups)  # rows of the table, whose values are looked up as those of keys are
        return excluded_rows(snapshot, keyed, options, own)
    return excluded_rows(snapshot, query, options, own)


def _groups_of(view: EmbeddingStore, by: str, rows: Int64) -> set[str]:
    """The groups of a stored query's rows, which are no hits."""
    _, table = view.take(rows, [by])
    return set(encoded(group_names(table.column(by).combine_chunks()))[1])


def _hits(snapshot: Snapshot, asked: Asked, page: Sequence[Ranked], options: SearchOptions) -> list[Hit]:
    matches = [_matches(snapshot, asked, one.row_ids) for one in page]
    best = np.array([own[0].row_id for own in matches], np.int64)
    columns = columns_of(snapshot, best, options.columns)
    return [
        Hit(rank, own[0].key, one.score, own[0].row_id, values, len(one.row_ids) - 1, one.group, own)
        for rank, (one, own, values) in enumerate(zip(page, matches, columns, strict=True), options.offset + 1)
    ]


def _matches(snapshot: Snapshot, asked: Asked, rows: Int64) -> tuple[PartMatch, ...]:
    """The SHOWN rows with the highest cosines to a part of the query, each with that part."""
    cosines, ids = nearest_parts(snapshot.view, asked, rows)
    shown: dict[int, int] = {}  # row id → part
    for part in np.lexsort((ids, -cosines)).tolist():
        shown.setdefault(int(ids[part]), part)
        if len(shown) == SHOWN:
            break
    keys = snapshot.keys(np.array(list(shown), np.int64))
    return tuple(
        PartMatch(asked.names[part], key, float(cosines[part]), row_id)
        for (row_id, part), key in zip(shown.items(), keys, strict=True)
    )


def _label(query: Query) -> str:
    more = len(query.labels) - 1
    return query.labels[0] + (f" and {more:,} more" if more else "")


def _how(options: SearchOptions, looked: Looked, asked: Asked, count: int) -> str:
    """`count`: parts of the query, of which those in `asked` were used."""
    thinned = "" if len(asked.names) == count else f", evenly spaced of {count:,}"
    candidates = "all" if looked.groups == looked.of else f"{looked.groups:,} by their mean vectors"
    return (
        f"late interaction: {candidates} of {looked.of:,} groups by {options.by}, mean over "
        f"{len(asked.names):,} parts of the query{thinned} of the best cosine to a row of the group"
    )


def _pictures(
    view: EmbeddingStore, query: Query, own: Int64, answers: Sequence[QueryHits], roots: Sequence[str]
) -> Pictures:
    """The query's middle image, and the best row of each group."""
    label = answers[0].query
    if query.images:
        asked, rows = Query(images=(query.images[len(query.images) // 2],)), NO_ROWS
    elif len(own):
        asked, rows = Query(keys=(label,)), own[[len(own) // 2]]
    else:
        asked, rows = Query(texts=(label,)), NO_ROWS
    drawn = pictures_of(view, asked, rows, answers, roots)
    return replace(drawn, queries=drawn.queries[:1])
