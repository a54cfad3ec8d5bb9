"""Errors as problem+json (RFC 9457): the product's one line, with its way out, and never a traceback."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from indexer.errors import (
    BadFilter,
    Busy,
    EncoderError,
    IndexerError,
    IndexFileError,
    InputError,
    NoTextTower,
    PixelError,
    ReadError,
    ReadOnly,
    RowNotFound,
    StoreLocked,
    StoreNotFound,
)
from indexer.redact import redacted

log = logging.getLogger("indexer.serve")

STATUS: tuple[tuple[type[Exception], int], ...] = (  # the first that fits
    (RowNotFound, 404),
    (StoreNotFound, 404),
    (StoreLocked, 423),
    (ReadOnly, 403),
    (Busy, 429),
    (BadFilter, 400),
    (NoTextTower, 422),
    (InputError, 400),
    (PixelError, 422),
    (ReadError, 410),
    (EncoderError, 503),
    (IndexFileError, 503),
    (IndexerError, 503),
)
MEDIA_TYPE = "application/problem+json"


def problem(status: int, detail: str, **more: Any) -> JSONResponse:
    """A response of this status; `detail` is for people."""
    return JSONResponse(_body(status, detail) | more, status, media_type=MEDIA_TYPE)


def _body(status: int, detail: str) -> dict[str, Any]:
    return {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}


def install(app: FastAPI) -> None:
    """Turn every exception into a problem."""
    app.add_exception_handler(IndexerError, _ours)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _bug)


def problem_of(error: IndexerError) -> dict[str, Any]:
    """The body of the problem."""
    status = next(status for kind, status in STATUS if isinstance(error, kind))
    return _body(status, redacted(str(error)))


async def _ours(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, IndexerError)
    body = problem_of(error)
    return JSONResponse(body, body["status"], media_type=MEDIA_TYPE)


async def _http(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)
    return problem(error.status_code, str(error.detail))


async def _invalid(request: Request, error: Exception) -> Response:
    """Which field is wrong, without repeating what was sent."""
    del request
    assert isinstance(error, RequestValidationError)
    wrong = [{"where": ".".join(map(str, e["loc"])), "what": e["msg"]} for e in error.errors()[:20]]
    first = wrong[0] if wrong else {"where": "the request", "what": "cannot be read"}
    return problem(422, f"{first['where']}: {first['what']}", errors=wrong)


async def _bug(request: Request, error: Exception) -> Response:
    log.error("a bug in %s", request.scope.get("path", ""), exc_info=error)
    return problem(500, "a bug of the server; its log has the traceback")
