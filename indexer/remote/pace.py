"""Leaves web servers that answer, but send next to nothing: a timeout on each read alone never ends with them."""

from __future__ import annotations

import http.client
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from indexer.remote.stream import SlowServer

SLOWEST = 1000  # bytes a second, on average over SLOW_SECONDS of waiting for the server
SLOW_SECONDS = 60.0


class Paced:
    """A server's answer. Raises OSError; SlowServer where it sends fewer than SLOWEST bytes a second."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer
        self.status: int = answer.status
        self.headers: Any = answer.headers
        self._waited, self._received = 0.0, 0  # since the last check; the reader's own time does not count

    def read(self, nbytes: int) -> bytes:
        """At most `nbytes` bytes, as they come; b"" at the end."""
        began = time.monotonic()
        try:
            data: bytes = self._answer.read1(nbytes)
        except http.client.HTTPException as error:
            raise OSError(f"the connection broke off ({type(error).__name__})") from error
        self._waited += time.monotonic() - began
        self._received += len(data)
        if self._waited > SLOW_SECONDS:
            if self._received < SLOWEST * self._waited:
                raise SlowServer(f"the server sent {self._received:,} bytes in {self._waited:.0f} seconds: too slow")
            self._waited, self._received = 0.0, 0
        return data

    def exactly(self, nbytes: int) -> bytes:
        """`nbytes` bytes; OSError where there are fewer."""
        found = bytearray()
        while len(found) < nbytes:
            block = self.read(nbytes - len(found))
            if not block:
                raise OSError(f"the connection ended after {len(found)} of {nbytes} bytes")
            found += block
        return bytes(found)

    def close(self) -> None:
        self._answer.close()


def handlers(seconds: float) -> list[urllib.request.BaseHandler]:
    """Handlers for urllib whose servers must send all of their headers within that time."""

    class Plain(http.client.HTTPConnection):
        def getresponse(self) -> http.client.HTTPResponse:
            with _ended_after(seconds, self.sock):
                return super().getresponse()

    class Secure(http.client.HTTPSConnection):
        def getresponse(self) -> http.client.HTTPResponse:
            with _ended_after(seconds, self.sock):
                return super().getresponse()

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Plain, req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(Secure, req)

    return [Http(), Https()]


@contextmanager
def _ended_after(seconds: float, connection: socket.socket) -> Iterator[None]:
    """Shuts the connection down after that time: the thread that reads from it then meets its end."""

    def end() -> None:
        late.set()
        with suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not TLS's own, which would unwrap it first

    late = threading.Event()
    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        if late.is_set():
            raise SlowServer(f"the server sent no whole answer in {seconds:.0f} seconds") from error
        raise
    finally:
        timer.cancel()
