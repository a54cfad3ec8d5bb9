"""The HTTP API, version 1. Every route is a way to say a Query or to show a record; nothing is computed here."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response, StreamingResponse

from indexer.cores import cores
from indexer.errors import IndexerError
from indexer.jsonable import jsonable
from indexer.search.blend import embedded_examples
from indexer.serve import pictures
from indexer.serve.http.answers import about, sampled, searched
from indexer.serve.http.bodies import BatchBody, EmbedBody, Offset, SearchBody
from indexer.serve.http.records import failures, run_records
from indexer.serve.limits import Rate
from indexer.serve.map.regions import row_filter
from indexer.serve.problems import problem_of
from indexer.serve.settings import Settings
from indexer.serve.tables import SAMPLED, ServedTable, Tables
from indexer.store.schema import SYSTEM_COLUMNS
from indexer.store.table import EmbeddingStore

STEPS = 1_000  # between the lowest and the highest cosine of random pairs
GONE_AWAY = 499  # the client closed the connection: nothing to answer

Where = Annotated[str | None, Query(max_length=20_000, description="SQL over the columns, as --where.")]


Region = Annotated[str | None, Query(max_length=16_000, description="A polygon of the map, as in a search.")]


def api(tables: Tables, settings: Settings, rate: Rate) -> APIRouter:
    """The routes below /api/v1."""
    router = APIRouter(prefix="/api/v1")
    _searches(router, tables, rate)
    _records(router, tables)
    _images(router, tables, settings)
    return router


def _searches(router: APIRouter, tables: Tables, rate: Rate) -> None:
    @router.post("/tables/{table}/query")
    def query(table: str, body: SearchBody) -> dict[str, Any]:
        """The nearest stored images."""
        served = tables.get(table)
        if body.query.embeds:
            rate.take()
        return searched(served, body)

    @router.post("/tables/{table}/query/batch")
    def batch(table: str, body: BatchBody) -> StreamingResponse:
        """Several searches: one JSON document a line, in order; a failed one is a problem document."""
        served = tables.get(table)

        return StreamingResponse((_line(served, own, rate) for own in body.searches), media_type="application/x-ndjson")

    @router.post("/tables/{table}/embed")
    def embed(table: str, body: EmbedBody) -> dict[str, Any]:
        """The unit vector of an image or a text, by the table's encoder."""
        served = tables.get(table)
        rate.take()
        (vector,) = embedded_examples(body.example(), lambda: served.searcher.encoder)
        return {"fingerprint": served.store.spec.fingerprint, "dim": served.store.dim, "vector": vector.tolist()}


def _line(served: ServedTable, body: SearchBody, rate: Rate) -> str:
    """One document of a batch."""
    try:
        if body.query.embeds:
            rate.take()
        found = searched(served, body)
    except IndexerError as error:
        found = problem_of(error)
    return json.dumps(found, ensure_ascii=False) + "\n"


def _records(router: APIRouter, tables: Tables) -> None:
    @router.get("/tables")
    def listed() -> list[dict[str, Any]]:
        """The tables that are served."""
        return [_facts(tables, name) for name in tables.names()]

    @router.get("/tables/{table}")
    def one(table: str) -> dict[str, Any]:
        """Its rows, columns, encoder and index."""
        return _facts(tables, table)

    @router.get("/tables/{table}/pair-cosines")
    def pair_cosines(table: str) -> dict[str, Any]:
        """Quantiles of the cosine of two random images: the scale on which a score is read."""
        served = tables.get(table)
        snapshot = served.searcher.snapshot
        pairs = served.pairs(snapshot)
        return {
            **about(table, snapshot.version, snapshot.describe()),
            "rows_sampled": pairs.rows,
            "quantiles": pairs.quantiles(STEPS),
        }

    @router.get("/tables/{table}/sample")
    def sample(table: str, limit: Annotated[int, Query(ge=1, le=SAMPLED)] = 12) -> dict[str, Any]:
        """A few random images, the same ones each time."""
        return sampled(tables.get(table), limit)

    @router.get("/tables/{table}/facets")
    def counted(table: str, filter: Where = None, region: Region = None) -> dict[str, Any]:
        """Counts of the values of columns that have few."""
        served = tables.get(table)
        snapshot = served.searcher.snapshot
        where = filter or None
        if region:
            where = row_filter(served.shown_map(snapshot.view), region, where)
        rows, found = served.facets(snapshot.view, where)
        return {
            **about(table, snapshot.version, snapshot.describe()),
            "rows": rows,
            "constant": [f.column for f in found if len(f.values) == 1],
            "facets": [{"column": f.column, "values": [{"value": v, "rows": n} for v, n in f.values]} for f in found],
        }

    @router.get("/tables/{table}/failures")
    def failed(table: str, limit: Annotated[int, Query(ge=1, le=1000)] = 100, offset: Offset = 0) -> dict[str, Any]:
        """Inputs that are no rows: counts by stage and reason, and a page of the list."""
        return failures(tables.get(table).searcher.snapshot.view, limit, offset)

    @router.get("/tables/{table}/runs")
    def runs(table: str) -> list[dict[str, Any]]:
        """The records of runs that filled the table, newest first."""
        return run_records(tables.get(table).store)


def _facts(tables: Tables, name: str) -> dict[str, Any]:
    served = tables.get(name)
    snapshot = served.searcher.snapshot
    spec = served.store.spec
    return {
        **about(name, snapshot.version, snapshot.describe()),
        "rows": snapshot.count(),
        "dim": spec.dim,
        "encoder": spec.name,
        "weights": spec.weights,
        "random_weights": spec.random,
        "fingerprint": spec.fingerprint,
        "window": spec.pixels.window,
        "columns": {column: str(kind) for column, kind in snapshot.view.columns().items()},
    }


def _images(router: APIRouter, tables: Tables, settings: Settings) -> None:
    cache = pictures.PictureCache(settings.picture_cache_bytes)
    decoding = asyncio.Semaphore(cores())

    @router.get("/tables/{table}/images/{key:path}/rendered")
    async def rendered(
        request: Request,
        table: str,
        key: str,
        size: Annotated[int, Query(ge=pictures.SIDES[0], le=pictures.SIDES[1])] = 256,
        window: Annotated[str | None, Query(max_length=200)] = None,
        part: Annotated[str | None, Query(max_length=200)] = None,
    ) -> Response:
        """The image as JPEG, drawn with the window it was embedded with or another."""

        def find() -> tuple[EmbeddingStore, pictures.Found]:
            served = tables.get(table)
            view = served.searcher.snapshot.view
            return view, pictures.find(view, served.url, pictures.Drawing(key, size, window, part))

        view, found = await run_in_threadpool(find)
        headers = {"etag": found.etag, "cache-control": "private, max-age=3600"}
        if request.headers.get("if-none-match") == found.etag:
            return Response(status_code=304, headers=headers)
        data = cache.get(found.etag)
        if data is None:
            async with decoding:
                if await request.is_disconnected():  # scrolled away while it waited
                    return Response(status_code=GONE_AWAY)
                data = await run_in_threadpool(pictures.draw, view, found, settings.pictures_from)
            cache.put(found.etag, data)
        return Response(data, media_type="image/jpeg", headers=headers)

    @router.get("/tables/{table}/images/{key:path}")
    def image(table: str, key: str) -> dict[str, Any]:
        """All columns of one image."""
        from indexer.search.exclude import key_rows

        snapshot = tables.get(table).searcher.snapshot
        names = [name for name in (*SYSTEM_COLUMNS, *snapshot.view.columns()) if name != "vector"]
        _, rows = snapshot.view.take(key_rows(snapshot.view, [key]), names)
        (row,) = rows.drop_columns(["_rowid"]).to_pylist()
        return {**about(table, snapshot.version, snapshot.describe()), "columns": jsonable(row)}
