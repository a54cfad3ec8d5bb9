"""Files on web servers (`http://`, `https://`): their facts, their bytes, and ranges of them.

Only GET is used, with a Range where a part is asked for: a presigned address is signed for one method.
"""

from __future__ import annotations

import base64
import http.client
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from indexer.errors import ReadError
from indexer.redact import redacted, stored_address
from indexer.remote.pace import Paced, handlers
from indexer.remote.stream import Facts, Part, ResumedStream, changed, denied, missing, tried

SECONDS = 30  # timeout while a server sends nothing
FACTS_SECONDS = 5
BLOCK = 1 << 16
_PLAIN = "%/:=&?~#+!$,;'@()*[]"  # characters that an address holds as they are (RFC 3986 section 2.2)


def facts(url: str) -> Facts:
    """Raises OSError."""

    def asked() -> Facts:
        with _answer(url, {"Range": "bytes=0-0"}, FACTS_SECONDS, same_host=False) as answer:
            return _facts(answer)

    return tried(asked)


def stream(url: str, *, same_host: bool = False) -> ResumedStream:
    """The file's bytes. With `same_host`, redirections to another host are refused. Raises OSError, ReadError."""
    return ResumedStream(lambda offset, known: _open_from(url, offset, known, same_host=same_host))


def read_range(url: str, offset: int, nbytes: int) -> bytes:
    """`nbytes` bytes from `offset`. Redirections to another host are refused. Raises OSError, ReadError."""

    def asked() -> bytes:
        wanted = {"Range": f"bytes={offset}-{offset + nbytes - 1}"}
        with _answer(url, wanted, SECONDS, same_host=True) as answer:
            if answer.status != http.client.PARTIAL_CONTENT:
                _skip(answer, offset)
            return answer.exactly(nbytes)

    return tried(asked) if nbytes else b""


def _open_from(url: str, offset: int, known: Facts | None, *, same_host: bool) -> Part:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    answer = _opened(url, headers, SECONDS, same_host=same_host)
    found = _facts(answer)
    if known is not None and found != known:
        answer.close()
        raise changed(f"{stored_address(url)} changed while it was read")
    if offset and answer.status != http.client.PARTIAL_CONTENT:
        _skip(answer, offset)
    return Part(iter(lambda: answer.read(BLOCK), b""), found, answer.close)


def _facts(answer: Paced) -> Facts:
    """As `ETag`, or size and time where there is none: the identity of shards in tables since version 0.1."""
    size = answer.headers.get("Content-Length")
    if answer.status == http.client.PARTIAL_CONTENT:
        size = answer.headers.get("Content-Range", "").rpartition("/")[2]
    nbytes = int(size) if size and size.isdecimal() else None
    modified = answer.headers.get("Last-Modified")
    tag = answer.headers.get("ETag") or ("" if nbytes is None and modified is None else f"{nbytes}-{modified}")
    return Facts(tag, nbytes)


def _skip(answer: Paced, nbytes: int) -> None:
    """Read past the first bytes: the server does not know ranges."""
    while nbytes > 0:
        block = answer.read(min(nbytes, 1 << 20))
        if not block:
            raise OSError("the file is shorter than the place that was asked for")
        nbytes -= len(block)


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follows redirections within a host, and none from https to http."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        before, after = urlsplit(req.full_url), urlsplit(newurl)
        if (after.scheme, after.netloc) != (before.scheme, before.netloc):
            raise ReadError(f"{stored_address(req.full_url)} redirects to another host, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _answer(url: str, headers: dict[str, str], seconds: float, *, same_host: bool) -> Iterator[Paced]:
    answer = _opened(url, headers, seconds, same_host=same_host)
    try:
        yield answer
    finally:
        answer.close()


def _opened(url: str, headers: dict[str, str], seconds: float, *, same_host: bool) -> Paced:
    """The answer to a GET. Raises OSError: of a class that says whether another try may help."""
    request = urllib.request.Request(_requested(url), headers=headers)
    if login := _login(url):  # not sent on to a host that this one redirects to
        request.add_unredirected_header("Authorization", f"Basic {login}")
    opener = urllib.request.build_opener(*handlers(seconds), *([_SameHost] if same_host else []))
    try:
        return Paced(opener.open(request, timeout=seconds))
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and "Content-Range" in error.headers:
                raise changed(f"{stored_address(url)} is shorter than it was") from None
            raise _refusal(error.code, f"the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise _no_connection(error.reason) from error
    except (ValueError, http.client.InvalidURL) as error:
        raise denied(redacted(str(error))) from error
    except http.client.HTTPException as error:
        raise OSError(f"the server's answer broke off ({type(error).__name__})") from error


def _no_connection(reason: object) -> OSError:
    words = redacted(str(reason))
    lasting = isinstance(reason, (ConnectionRefusedError, socket.gaierror))
    return denied(words) if lasting else OSError(words)


def _refusal(code: int, words: str) -> OSError:
    if code in (http.client.NOT_FOUND, http.client.GONE):
        return missing(words)
    passing = code >= http.client.INTERNAL_SERVER_ERROR or code in (
        http.client.TOO_MANY_REQUESTS,
        http.client.REQUEST_TIMEOUT,
    )
    return OSError(words) if passing else denied(words)


def _login(url: str) -> str:
    parts = urlsplit(url)
    if parts.username is None:
        return ""
    return base64.b64encode(f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()).decode()


def _requested(url: str) -> str:
    """The address without its login; blanks and letters that an address may not hold are percent-encoded."""
    parts = urlsplit(url)
    return parts._replace(
        netloc=parts.netloc.rpartition("@")[2], path=quote(parts.path, _PLAIN), query=quote(parts.query, _PLAIN)
    ).geturl()
