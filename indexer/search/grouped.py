"""One hit for each value of a column: the best row of each patient, study or series, and how many rows follow it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from indexer.ann.exact import Found, best, cosines, no_hits
from indexer.ann.rowset import RowSet
from indexer.errors import RowNotFound
from indexer.groups.values import column_kind
from indexer.search.exclude import Excluded, is_nan, places_in, row_set, rows_of_values, rows_with
from indexer.search.options import SearchOptions
from indexer.search.snapshot import Snapshot
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Bool, Float64, Int64

WIDER = 4  # factor between the numbers of hits fetched
WIDEST = 2_048  # hits fetched at once; where these hold too few values, the rows of the values found are excluded

OPTION = "--one-per"
Search = Callable[[Int64, int], Found]  # positions of queries (p,), k → their k best rows


@dataclass
class _Ranking:
    """The values found for one query, by their best rows."""

    scores: list[float] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    values: set[Any] = field(default_factory=set)
    alone: set[int] = field(default_factory=set)  # rows without a value, each of which stands for itself
    ended: bool = False  # no further row is allowed, or reaches the lowest score

    def add(self, scores: Float64, ids: Int64, values: Sequence[Any], min_score: float | None) -> None:
        """Append the values that are new, with their best rows. Wider searches only append, so that pages agree."""
        for score, row_id, value in zip(scores.tolist(), ids.tolist(), values, strict=True):
            if row_id < 0 or (min_score is not None and score < min_score):
                self.ended = True
                return
            seen, own = (self.alone, row_id) if value is None else (self.values, value)
            if own not in seen:
                seen.add(own)
                self.scores.append(score)
                self.ids.append(row_id)

    def page(self, start: int, stop: int) -> Found:
        """The best rows (1, ≤ stop - start) of the values at these ranks."""
        return best(np.array([self.scores[start:stop]]), np.array([self.ids[start:stop]], np.int64), stop - start)


def best_of_each(
    snapshot: Snapshot,
    queries: Float64,
    options: SearchOptions,
    search: Search,
    rest: Callable[[int], RowSet],
) -> list[Found]:
    """For each query the page (1, ≤ k) of rows that are the best of their value in the column `options.one_per`.

    More hits are fetched until they hold enough values. Where WIDEST hits do not, as with two values in a million rows,
    the rows of the values found are excluded and the rest is searched again, until k values or no rows are left.
    `rest(i)` gives the rows that query i may find.
    """
    view, start, stop = snapshot.view, options.offset, options.offset + options.k
    column_kind(view, str(options.one_per), OPTION)
    rankings = [_Ranking() for _ in queries]
    left, width = np.arange(len(queries)), min(WIDER * options.k, WIDEST)
    while len(left):
        _fetch(view, options, [rankings[i] for i in left], search(left, width), width)
        left = np.array([i for i in left if not rankings[i].ended and len(rankings[i].ids) < stop], np.int64)
        if width == WIDEST:
            break
        width = min(WIDER * width, WIDEST)
    for i in left.tolist():
        _without_found(snapshot, queries[[i]], options, rankings[i], rest(i))
    return [ranking.page(start, stop) for ranking in rankings]


def _without_found(
    snapshot: Snapshot, query: Float64, options: SearchOptions, ranking: _Ranking, allowed: RowSet
) -> None:
    """Search the rows of other values than those found, again and again; each time at least one value is found."""
    gone: set[Any] = set()
    while not ranking.ended and len(ranking.ids) < options.offset + options.k:
        new = list(ranking.values - gone)
        gone.update(new)
        for rows in rows_of_values(snapshot.view, str(options.one_per), new, OPTION):
            allowed -= row_set(rows)
        allowed -= RowSet.of([np.array(sorted(ranking.alone), np.int64)])
        found = snapshot.search(query, WIDEST, allowed)
        _fetch(snapshot.view, options, [ranking], found, WIDEST)
        allowed -= RowSet.of([found[1][found[1] >= 0]])  # 0.0 and -0.0 are one value to Python, but two to Arrow


def _fetch(
    view: EmbeddingStore, options: SearchOptions, rankings: Sequence[_Ranking], found: Found, width: int
) -> None:
    scores, ids = found
    values = _values(view, str(options.one_per), ids)
    for ranking, own_scores, own_ids, own_values in zip(rankings, scores, ids, values, strict=True):
        ranking.add(own_scores, own_ids, own_values.tolist(), options.min_score)
        ranking.ended |= len(own_ids) < width


def _values(view: EmbeddingStore, column: str, ids: Int64) -> npt.NDArray[Any]:
    """The column's value (any shape) for each row id; None for a null or NaN, and where the id is -1."""
    out = np.full(ids.shape, None, object)
    known = ids >= 0
    rows, places = np.unique(ids[known], return_inverse=True)
    held, table = view.take(rows, [column])
    if not held.all():
        raise RowNotFound(f"a row found in table {view.name} cannot be read: the table was damaged.")
    values = np.empty(len(rows), object)
    values[:] = [None if is_nan(v) else v for v in table.column(column).to_pylist()]
    out[known] = values[places]
    return out


def further_rows(
    snapshot: Snapshot,
    queries: Float64,
    found_ids: Int64,
    options: SearchOptions,
    allowed: RowSet | None,
    excluded: Sequence[Excluded],
) -> Int64:
    """How many other rows (q, k) of each hit's value the options allow; 0 for a hit without a value.

    One pass over the column; with a lowest score, over the vectors of these values too.
    """
    column, min_score = str(options.one_per), options.min_score
    values = _values(snapshot.view, column, found_ids)
    spots: dict[Any, list[tuple[int, int]]] = defaultdict(list)  # value → the hits that have it
    for i, j in np.argwhere(values != np.array(None)).tolist():
        spots[values[i, j]].append((i, j))
    counts = np.zeros(found_ids.shape, np.int64)
    wanted = pa.array(list(spots), column_kind(snapshot.view, column, OPTION))
    for batch, ids in rows_with(snapshot.view, column, wanted, vectors=min_score is not None):
        keep = np.ones(len(ids), bool) if allowed is None else allowed.has(ids)
        places = places_in(batch.column(column), wanted)
        vectors = None if min_score is None else vector_block(batch)
        for place in np.unique(places[keep]).astype(int).tolist():
            rows = np.flatnonzero(keep & (places == place))
            for i, j in spots[wanted[place].as_py()]:
                mine = rows[~_has(excluded[i], ids[rows])]
                if vectors is not None and min_score is not None:
                    mine = mine[cosines(vectors, mine, queries[[i]], np.zeros(len(mine), np.int64)) >= min_score]
                counts[i, j] += len(mine)
    return np.maximum(counts - 1, 0)  # without the hit itself


def _has(rows: Excluded, ids: Int64) -> Bool:
    found: Bool = rows.has(ids) if isinstance(rows, RowSet) else np.isin(ids, rows)
    return found


def joined(pages: Sequence[Found], k: int) -> Found:
    """The pages (1, ≤ k) of several queries as one result (q, k)."""
    out = no_hits(len(pages), k)
    for i, (scores, ids) in enumerate(pages):
        out[0][i, : scores.shape[1]], out[1][i, : ids.shape[1]] = scores[0], ids[0]
    return out
