"""The application: API, pages, health, metrics, behind one guard."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.middleware import Middleware

from indexer.serve import metrics, problems
from indexer.serve.guard import Guard
from indexer.serve.http.api import api
from indexer.serve.http.map import map_routes
from indexer.serve.http.results import results
from indexer.serve.labelling.routes import labelling
from indexer.serve.limits import Rate
from indexer.serve.page.assets import static
from indexer.serve.page.pages import pages
from indexer.serve.page.results import result_pages
from indexer.serve.settings import Settings
from indexer.serve.tables import Tables
from indexer.types import EncoderSpec


def create_app(settings: Settings, load_encoder: Callable[[EncoderSpec], Any] | None = None) -> FastAPI:
    """Opens the database; `load_encoder` replaces the loading of a table's encoder. Raises StoreNotFound."""
    tables = Tables(settings, load_encoder)
    app = FastAPI(
        title="Embedding indexer",
        version=version("embedding-indexer"),
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        middleware=[Middleware(Guard, settings=settings)],
    )
    problems.install(app)
    metrics.install(app)
    rate = Rate(settings.embeds_per_minute)  # one, whichever route embeds
    app.include_router(labelling(tables, settings, rate))
    app.include_router(api(tables, settings, rate))
    app.include_router(map_routes(tables))
    app.include_router(results(tables))
    app.include_router(pages(tables, settings))
    app.include_router(result_pages(tables))
    app.include_router(static())
    _health(app, tables)
    return app


def _health(app: FastAPI, tables: Tables) -> None:
    @app.get("/healthz")
    def alive() -> dict[str, str]:
        """The process answers."""
        return {"status": "ok"}

    @app.get("/readyz")
    def ready() -> dict[str, Any]:
        """The tables can be searched: their indexes are loaded by this, and what their search pages begin with."""
        return {"status": "ok", "tables": {name: tables.get(name).warm() for name in tables.names()}}
