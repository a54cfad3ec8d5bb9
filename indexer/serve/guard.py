"""What stands before every request: host, origin, token, size; and the headers behind every response.

A page on the network must not be able to read this one through the user's browser (DNS rebinding, cross-site
requests): only known hosts are answered, a foreign Origin is refused, and nothing is ever sent with CORS headers.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

from indexer.serve.problems import problem
from indexer.serve.settings import Settings

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = logging.getLogger("indexer.serve")

OPEN = ("/healthz", "/login", "/static/")  # without a token; what begins so
COOKIE = "indexer-token"
HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
     b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),  # with "no-referrer" a form's own Origin would be null
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)  # fmt: skip


class Guard:
    """ASGI middleware. Refuses before the body of a request is read."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def answered(message: MutableMapping[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *((n, v) for n, v in HEADERS if n not in names)]
                if b"cache-control" not in names:
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refusal(scope, headers)
        if refused is not None:
            await problem(*refused)(scope, receive, answered)
        else:
            await self._app(scope, self._limited(receive), answered)
        # no query string, no body, no key: what a user searches for is not the log's business
        route = getattr(scope.get("route"), "path", "-")
        log.info("%s %s %d %.0f ms", scope["method"], route, status, 1000 * (time.perf_counter() - started))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        settings = self._settings
        if _host(headers.get("host", "")) not in settings.hosts:
            return 421, "this server does not answer under that host name. Start it with --name NAME to allow it."
        origin = headers.get("origin")
        if origin is not None and (_host(urlsplit(origin).netloc) not in settings.hosts or origin == "null"):
            return 403, "a page of another site may not use this server"
        if headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and scope["method"] != "GET":
            return 403, "a page of another site may not use this server"
        if settings.token is not None and not scope["path"].startswith(OPEN) and not self._known(headers):
            return 401, "send the token of --token-file as `Authorization: Bearer TOKEN`, or open /login"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > settings.upload_bytes:
            return 413, f"a request may have {settings.upload_bytes >> 20} MiB"
        return None

    def _known(self, headers: dict[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":  # not a proxy's own login
            return token_is(self._settings, given.strip())
        for part in headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == COOKIE and token_is(self._settings, unquote(value)):
                return True
        return False

    def _limited(self, receive: Receive) -> Receive:
        """The body, cut off where it is longer than its header said it would be."""
        seen = 0

        async def part() -> MutableMapping[str, Any]:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            return message if seen <= self._settings.upload_bytes else {"type": "http.disconnect"}

        return part


def token_is(settings: Settings, given: str) -> bool:
    """Whether this is the server's token; takes the same time for any other."""
    return settings.token is not None and hmac.compare_digest(given.encode(), settings.token.encode())


def _host(value: str) -> str:
    """The host of `host:port`, lower case; an IPv6 address keeps its brackets."""
    value = value.strip().lower()
    return f"{value.partition(']')[0]}]" if value.startswith("[") else value.partition(":")[0]
