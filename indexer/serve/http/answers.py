"""Answers of the API as JSON types: hits with what their cosine means, the version and the index they come from."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from indexer.jsonable import jsonable
from indexer.search.answer import answer
from indexer.search.reference import sampled_ids
from indexer.search.results import SearchResult
from indexer.serve.http.bodies import SearchBody
from indexer.serve.map.regions import row_filter
from indexer.serve.tables import ServedTable
from indexer.store.rows import vector_block

HIDDEN = ("meta",)  # a JSON copy of all metadata, which a list of hits need not repeat


def searched(table: ServedTable, body: SearchBody) -> dict[str, Any]:
    """One search. Raises what `search.answer` raises."""
    start = time.perf_counter()
    options = body.options(shown_columns(table))
    within = (
        replace(options, where=row_filter(table.shown_map(), body.region, options.where)) if body.region else options
    )
    result = answer(table.searcher, body.query.query(), within)
    view = table.view(result.version)
    (own,) = result.queries
    scores = np.array([hit.score for hit in own.hits])
    closer = table.pairs(table.searcher.snapshot).share_closer(scores).tolist()
    vectors = _vectors(table, result) if body.with_vector else {}
    hits = []
    for hit, share in zip(own.hits, closer, strict=True):
        facts: dict[str, Any] = {"rank": hit.rank, "key": hit.key, "score": hit.score, "closer_pairs": share}
        if body.group_by is not None:
            facts["more"] = hit.more
        if body.with_vector:
            facts["vector"] = vectors[hit.row_id]
        hits.append({**facts, "columns": hit.columns})
    return {
        **about(view.name, result.version, result.how),
        "kind": result.kind,
        "query": own.query,
        "query_columns": jsonable(own.columns),
        "limits": replace(result, options=options).limits() + (["a region of the map"] if body.region else []),
        "hits": jsonable(hits),
        "milliseconds": round(1000 * (time.perf_counter() - start), 1),
    }


def sampled(table: ServedTable, most: int) -> dict[str, Any]:
    """Random images to begin with: the same ones for the same rows."""
    snapshot = table.searcher.snapshot
    _, rows = snapshot.view.take(sampled_ids(snapshot, most), ["key", *shown_columns(table)])
    columns = rows.drop_columns(["_rowid", "key"]).to_pylist()
    images = [{"key": key, "columns": own} for key, own in zip(rows["key"].to_pylist(), columns, strict=True)]
    return {**about(snapshot.view.name, snapshot.version, snapshot.describe()), "images": jsonable(images)}


def shown_columns(table: ServedTable) -> tuple[str, ...]:
    """The columns that go with a hit."""
    return tuple(name for name in table.searcher.snapshot.view.columns() if name not in HIDDEN)


def about(table: str, version: int, how: str) -> Mapping[str, Any]:
    """What every answer carries, so that a number can be traced to its rows."""
    return {"table": table, "version": version, "index": how}


def _vectors(table: ServedTable, result: SearchResult) -> dict[int, list[float]]:
    ids = np.array([hit.row_id for own in result.queries for hit in own.hits], np.int64)
    _, rows = table.view(result.version).take(ids, [], vectors=True)
    blocks = [vector_block(batch) for batch in rows.to_batches()]
    found = np.concatenate(blocks).tolist() if blocks else []
    return dict(zip(rows.column("_rowid").to_pylist(), found, strict=True))
