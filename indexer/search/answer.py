"""The search core: answers a Query with a SearchResult from one snapshot, for command line, page and API alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.ann.exact import Found, best, no_hits, padded
from indexer.ann.index import Effort
from indexer.ann.rowset import RowSet
from indexer.search.asked import (
    NO_ROWS,
    check,
    columns_of,
    embedded_examples_of,
    excluded_rows,
    stored_examples,
    vectors_of,
)
from indexer.search.drawing.pictures import pictures_of
from indexer.search.exclude import Excluded, key_rows, row_set
from indexer.search.grouped import Search, best_of_each, further_rows, joined
from indexer.search.options import DEFAULT, SearchOptions
from indexer.search.queries import Query
from indexer.search.results import QueryHits, SearchResult
from indexer.search.snapshot import Snapshot
from indexer.types import Float64, Hit, Int64

if TYPE_CHECKING:
    from indexer.search.searcher import Searcher


def answer(
    searcher: Searcher,
    query: Query,
    options: SearchOptions = DEFAULT,
    *,
    snapshot: Snapshot | None = None,
    pictures: bool = False,
    roots: Sequence[str] = (),
) -> SearchResult:
    """Hits, version, description and pictures, all of the table version that was searched: the snapshot's, or where
    none is given the newest.

    Stored images are read only from the folders from which this user indexed the table, and from `roots`.
    Raises InputError, RowNotFound, BadFilter; for images and text also EncoderError.
    """
    check(query, options, searcher)
    if options.by is not None:
        from indexer.search.by_group.answer import answer_groups  # a query without groups needs none of it

        return answer_groups(searcher, query, options, snapshot, pictures=pictures, roots=roots)
    embedded = embedded_examples_of(searcher, query)  # slow, so before the snapshot is taken
    snapshot = searcher.snapshot if snapshot is None else snapshot
    if options.where is not None or options.exclude_same is not None or options.one_per is not None:
        snapshot = replace(snapshot, effort=Effort())  # of some rows only: how they are searched is noted
    own = [key_rows(snapshot.view, keys) for keys in stored_examples(query)]
    vectors = vectors_of(snapshot.view, query, own, embedded)
    excluded = excluded_rows(snapshot, query, options, own)
    allowed = searcher.allowed(snapshot, options.where)
    found = _find(snapshot, vectors, options, allowed, excluded)
    hits = _hits(snapshot, found, options)
    if options.one_per is not None:
        hits = _with_further(hits, further_rows(snapshot, vectors, found[1], options, allowed, excluded))
    keyed = np.concatenate([NO_ROWS, *own]) if query.keys else NO_ROWS
    columns = columns_of(snapshot, keyed, options.columns) if query.keys else [{}] * len(hits)
    answers = [QueryHits(*each) for each in zip(query.labels, hits, columns, strict=True)]
    drawn = pictures_of(snapshot.view, query, keyed, answers, roots) if pictures else None
    return SearchResult(snapshot.view.name, snapshot.version, query.kind, snapshot.describe(), options, answers, drawn)


def _find(
    snapshot: Snapshot, queries: Float64, options: SearchOptions, allowed: RowSet | None, excluded: Sequence[Excluded]
) -> Found:
    """The requested page (q, ≤ k) of each query's allowed and not excluded rows."""
    width = min(options.k, snapshot.count())
    parts = []
    for which, left_out in _groups(excluded):
        if isinstance(left_out, RowSet):
            rest = (snapshot.everything() if allowed is None else allowed) - left_out
            search: Search = _among(snapshot, queries[which], rest)
        else:
            search = _apart(snapshot, queries[which], allowed, left_out)
        if options.one_per is None:
            found = _page(partial(search, np.arange(len(which))), snapshot, options)
        else:
            found = _best_of_each(snapshot, queries[which], options, search, allowed, left_out)
        parts.append((which, padded(found, width)))
    page = parts[0][1] if len(parts) == 1 else no_hits(len(queries), width)
    for which, found in parts if len(parts) > 1 else ():
        page[0][which], page[1][which] = found
    if options.min_score is not None:
        low = page[0] < options.min_score
        page[0][low], page[1][low] = -np.inf, -1
    return page


def _groups(excluded: Sequence[Excluded]) -> list[tuple[Int64, Any]]:
    """Queries grouped for joint searches: those that exclude few rows, and those that exclude the same many rows."""
    few = [i for i, rows in enumerate(excluded) if not isinstance(rows, RowSet)]
    groups: list[tuple[Int64, Any]] = [(np.array(few, np.int64), [excluded[i] for i in few])] if few else []
    sets: dict[int, list[int]] = {}
    for i, rows in enumerate(excluded):
        if isinstance(rows, RowSet):
            sets.setdefault(id(rows), []).append(i)
    return groups + [(np.array(which, np.int64), excluded[which[0]]) for which in sets.values()]


def _among(snapshot: Snapshot, queries: Float64, allowed: RowSet) -> Search:
    """A search of the allowed rows."""
    return lambda which, k: snapshot.search(queries[which], k, allowed)


def _apart(snapshot: Snapshot, queries: Float64, allowed: RowSet | None, excluded: Sequence[Int64]) -> Search:
    """A search without each query's excluded rows: fetches as many extra hits as a query excludes, and drops those."""
    widest = max(map(len, excluded))
    if not widest:
        return lambda which, k: snapshot.search(queries[which], k, allowed)

    def search(which: Int64, k: int) -> Found:
        scores, ids = snapshot.search(queries[which], k + widest, allowed)
        for i, query in enumerate(which.tolist()):
            ids[i, np.isin(ids[i], excluded[query])] = -1
        return best(scores, ids, k)

    return search


def _best_of_each(
    snapshot: Snapshot,
    queries: Float64,
    options: SearchOptions,
    search: Search,
    allowed: RowSet | None,
    excluded: Any,
) -> Found:
    """The page of one hit for each value of `options.one_per`."""

    def rest(i: int) -> RowSet:
        out = excluded if isinstance(excluded, RowSet) else row_set(excluded[i])
        return (snapshot.everything() if allowed is None else allowed) - out

    return joined(best_of_each(snapshot, queries, options, search, rest), min(options.k, snapshot.count()))


def _page(search: Callable[[int], Found], snapshot: Snapshot, options: SearchOptions) -> Found:
    """Ranks offset … offset + k of a search; pages of one size never repeat a row.

    An approximate search for more hits may find near rows that a search for fewer hits missed, which would shift rows
    from page to page. The ranks of page one are therefore fixed by a search for k hits, and each doubling of the width
    only appends rows that are not ranked yet.
    """
    start, stop = options.offset, options.offset + options.k
    if not start or not snapshot.approximate:
        found = search(stop)
        return found[0][:, start:stop], found[1][:, start:stop]
    width = options.k
    found = search(width)
    while width < min(stop, snapshot.count()):
        width = min(2 * width, snapshot.count())
        found = _continued(found, search(width), width)
    return best(found[0][:, start:stop], found[1][:, start:stop], options.k)


def _continued(found: Found, wider: Found, width: int) -> Found:
    """`found`, followed by the rows of `wider` that are not in it."""
    out = no_hits(len(found[1]), width)
    for i in range(len(out[1])):
        old = found[1][i] >= 0
        new = (wider[1][i] >= 0) & ~np.isin(wider[1][i], found[1][i])
        for column in (0, 1):
            both = np.concatenate([found[column][i, old], wider[column][i, new]])[:width]
            out[column][i, : len(both)] = both
    return out


def _hits(snapshot: Snapshot, found: Found, options: SearchOptions) -> list[list[Hit]]:
    scores, ids = found
    if ids.min(initial=0) < 0:  # some queries have fewer hits
        known = ids >= 0
        counts, values, flat = known.sum(1).tolist(), scores[known].tolist(), ids[known]
    else:
        counts, values, flat = [ids.shape[1]] * len(ids), scores.ravel().tolist(), ids.ravel()
    each = zip(snapshot.keys(flat), values, flat.tolist(), columns_of(snapshot, flat, options.columns), strict=True)
    return [[Hit(rank, *facts) for rank, facts in enumerate(islice(each, n), options.offset + 1)] for n in counts]


def _with_further(hits: list[list[Hit]], further: Int64) -> list[list[Hit]]:
    """The hits, each with the number of other rows of its value."""
    return [
        [replace(hit, more=more) for hit, more in zip(own, counts, strict=False)]
        for own, counts in zip(hits, further.tolist(), strict=True)
    ]
