"""Style sheets, scripts and templates, which are files of this package."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from indexer.design.page import style
from indexer.errors import RowNotFound

TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
SHARED = "style.css"  # of the design that all pages share
YEAR = 31_536_000  # seconds


@cache
def content(name: str) -> bytes:
    """A file by name. Raises RowNotFound for any other name, so that no path can be made of it."""
    if name == SHARED:
        return style().encode()
    for file in files(__package__).joinpath("static").iterdir():
        if file.name == name:
            return file.read_bytes()
    raise RowNotFound(f"no file {name!r} among the page's files.")


def address(name: str) -> str:
    """The URL of a file; it changes with the content, so that browsers may keep it."""
    return f"/static/{name}?v={hashlib.sha256(content(name)).hexdigest()[:12]}"


@cache
def templates() -> Environment:
    made = Environment(loader=PackageLoader(__package__), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.globals["asset"] = address
    return made


def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
    """A filled template; every value is escaped."""
    return HTMLResponse(templates().get_template(template).render(**values), status)


def static() -> APIRouter:
    """The route of the files."""
    router = APIRouter(include_in_schema=False)

    @router.get("/static/{name}")
    def file(name: str, v: str = "") -> Response:
        kind = TYPES.get(name.rpartition(".")[2], "application/octet-stream")
        # Scripts import each other without a version: after an upgrade an old one must not be taken from the browser
        kept = f"private, max-age={YEAR}, immutable" if v else "private, no-cache"
        return Response(content(name), media_type=kind, headers={"cache-control": kept})

    return router
