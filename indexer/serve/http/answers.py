"""Answers of the API as JSON types: hits with what their cosine means, the version and the index they come from."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from indexer.jsonable import jsonable
from indexer.search.answer import answer
from indexer.serve.http.bodies import SearchBody
from indexer.serve.map.regions import row_filter
from indexer.serve.tables import ServedTable
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Hit, Int64

HIDDEN = ("meta",)  # a JSON copy of all metadata, which a list of hits need not repeat


def searched(table: ServedTable, body: SearchBody) -> dict[str, Any]:
    """One search, all of one version. Raises what `search.answer` raises."""
    start = time.perf_counter()
    snapshot = table.searcher.snapshot
    options = body.options(shown_columns(snapshot.view))
    within = options
    if body.region:
        within = replace(options, where=row_filter(table.shown_map(snapshot.view), body.region, options.where))
    result = answer(table.searcher, body.query.query(), within, snapshot=snapshot)
    (own,) = result.queries
    scores = np.array([hit.score for hit in own.hits])
    closer = table.pairs(snapshot).share_closer(scores).tolist()
    vectors = _vectors(snapshot.view, own.hits) if body.with_vector else {}
    hits = []
    for hit, share in zip(own.hits, closer, strict=True):
        facts: dict[str, Any] = {"rank": hit.rank, "key": hit.key, "score": hit.score, "closer_pairs": share}
        if body.group_by is not None or body.by is not None:
            facts["more"] = hit.more
        if body.by is not None:
            facts |= {"group": hit.group, "parts": hit.parts}
        if body.with_vector:
            facts["vector"] = vectors[hit.row_id]
        hits.append({**facts, "columns": hit.columns})
    return {
        **about(result.table, result.version, result.how),
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
    images = images_of(snapshot.view, table.sampled_ids(snapshot, most))
    return {**about(snapshot.view.name, snapshot.version, snapshot.describe()), "images": images}


def images_of(view: EmbeddingStore, row_ids: Int64) -> list[dict[str, Any]]:
    """Key and columns of rows of this version, in order."""
    _, rows = view.take(row_ids, ["key", *shown_columns(view)])
    columns = rows.drop_columns(["_rowid", "key"]).to_pylist()
    images = [{"key": key, "columns": own} for key, own in zip(rows["key"].to_pylist(), columns, strict=True)]
    plain: list[dict[str, Any]] = jsonable(images)
    return plain


def shown_columns(view: EmbeddingStore) -> tuple[str, ...]:
    """The columns that go with a hit."""
    return tuple(name for name in view.columns() if name not in HIDDEN)


def about(table: str, version: int, how: str) -> Mapping[str, Any]:
    """What every answer carries, so that a number can be traced to its rows."""
    return {"table": table, "version": version, "index": how}


def _vectors(view: EmbeddingStore, hits: Sequence[Hit]) -> dict[int, list[float]]:
    _, rows = view.take(np.array([hit.row_id for hit in hits], np.int64), [], vectors=True)
    blocks = [vector_block(batch) for batch in rows.to_batches()]
    found = np.concatenate(blocks).tolist() if blocks else []
    return dict(zip(rows.column("_rowid").to_pylist(), found, strict=True))
