"""The map in the HTTP API: what it is, tiles, points, the images of a region."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import Field

from indexer.jsonable import jsonable
from indexer.serve.http.answers import about, images_of
from indexer.serve.http.bodies import MOST_OFFSET, Strict
from indexer.serve.map import tiles
from indexer.serve.map.regions import inside
from indexer.serve.map.shown import ShownMap
from indexer.serve.tables import ServedTable, Tables

MOST_POINTS = 2_000  # drawn one by one; more are drawn as density
MOST_LISTED = 1_000

Colour = Annotated[str | None, Query(max_length=512, description="A column with few values.")]
Side = Annotated[float, Query(ge=-10, le=10)]


class RegionBody(Strict):
    """A polygon of the map, and which of its images to list."""

    region: str = Field(max_length=16_000, description="`x,y;x,y;…` in the unit square, y downwards.")
    limit: int = Field(default=48, ge=1, le=MOST_LISTED)
    offset: int = Field(default=0, ge=0, le=MOST_OFFSET)


def map_routes(tables: Tables) -> APIRouter:
    """The routes below /api/v1."""
    router = APIRouter(prefix="/api/v1/tables/{table}/map")

    @router.get("")
    def facts(table: str, colour: Colour = None) -> dict[str, Any]:
        """How the map was made and what it is worth, whether it is older than the table, and a colour's legend."""
        return described(newest_map(tables.get(table)), colour)

    @router.get("/tiles/{z}/{x}/{y}")
    def drawn(
        table: str, z: int, x: int, y: int, colour: Colour = None,
        scheme: Annotated[str, Query(pattern="^(light|dark)$")] = "light",
    ) -> Response:  # fmt: skip
        """The density of images as PNG of 256 pixels; level z has 2**z tiles along each axis."""
        shown = newest_map(tables.get(table))
        data = tiles.tile(shown, z, x, y, None if colour is None else shown.classes(colour), scheme)
        return Response(data, media_type="image/png", headers={"cache-control": "private, max-age=3600"})

    @router.get("/points")
    def points(table: str, x0: Side, y0: Side, x1: Side, y1: Side, colour: Colour = None) -> dict[str, Any]:
        """The images in a rectangle, one by one where they are few; their number always."""
        shown = newest_map(tables.get(table))
        within = (shown.square >= (x0, y0)) & (shown.square <= (x1, y1))
        found = np.flatnonzero(within.all(axis=1))
        few = found if len(found) <= MOST_POINTS else found[:0]
        codes = np.zeros(len(few), np.int64) if colour is None else shown.classes(colour).codes[few]
        _, taken = shown.view.take(shown.row_ids[few], ["key"])
        rows = zip(taken["key"].to_pylist(), shown.square[few].round(6).tolist(), codes.tolist(), strict=True)
        return {"count": len(found), "points": [[key, *place, code] for key, place, code in rows]}

    @router.post("/region")
    def region(table: str, body: RegionBody) -> dict[str, Any]:
        """The images inside a polygon: their number, and a page of them in a fixed random order."""
        shown = newest_map(tables.get(table))
        found = inside(shown, body.region)
        page = found[body.offset : body.offset + body.limit]
        images = images_of(shown.view, shown.row_ids[page])
        return {**about(table, shown.view.version, _made(shown)), "count": len(found), "images": images}

    return router


def newest_map(served: ServedTable) -> ShownMap:
    """Raises RowNotFound, IndexFileError, StoreError."""
    return served.shown_map(served.searcher.snapshot.view)


def described(shown: ShownMap, colour: str | None) -> dict[str, Any]:
    """What stands around a map."""
    legend = None
    if colour is not None:
        classes = shown.classes(colour)
        legend = {"values": [{"value": v, "rows": n} for v, n in classes.values], "others": classes.others}
    facts = shown.facts
    return {
        **about(shown.view.name, shown.view.version, _made(shown)),
        "rows": len(shown),
        "method": facts.method,
        "made_at": facts.made_at,
        "laid_out": facts.laid_out,
        "neighbours_kept": facts.neighbours_kept,
        "kept_by_chance": facts.kept_by_chance,
        "worth": facts.worth(),
        "stale": shown.stale,
        "columns": shown.columns(),
        "legend": jsonable(legend),
        "deepest": tiles.DEEPEST,
    }


def _made(shown: ShownMap) -> str:
    return f"map by {shown.facts.method} of table version {shown.facts.version}"
