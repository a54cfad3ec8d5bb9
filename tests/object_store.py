"""S3 for tests: moto's server on the loopback, and in front of it a small proxy that misbehaves when it is told to."""

from __future__ import annotations

import html
import http.client
import http.server
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import pytest

BUCKET = "archive"
SECRET = "hush-hush-secret"
LEASE_SECONDS = 3.0
SLOW_PIECES = 5  # of a slow answer, SLOW_SECONDS apart
SLOW_SECONDS = 0.1
# method, path, headers → what to do:
# "" | 500 before | 500 after | reset before | reset after | 429 | cut | cut, untagged | untagged | slow
# | ignore conditions | act after (`ObjectStore.act` is called when the store has done it; no answer comes)
Rule = Callable[[str, str, http.client.HTTPMessage], str]


def no_fault(method: str, path: str, headers: http.client.HTTPMessage) -> str:
    return ""


@dataclass
class ObjectStore:
    """A running S3 server with an empty bucket; `seen` has (method, path, bytes sent) of every request."""

    port: int  # of the proxy
    rule: Rule = no_fault
    seen: list[tuple[str, str, int]] = field(default_factory=list)
    moto: int = 0
    number: int = 0
    act: Callable[[], object] = lambda: None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "an-id",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "INDEXER_LEASE_SECONDS": str(LEASE_SECONDS),
        }

    def fresh(self) -> str:
        """The address of a prefix that nothing used yet."""
        self.number += 1
        self.rule = no_fault
        self.seen.clear()
        return f"s3://{BUCKET}/{self.number}"

    def put(self, address: str, data: bytes) -> str:
        url = f"http://127.0.0.1:{self.moto}{urllib.parse.quote(address.removeprefix('s3:/'))}"
        login = "AWS4-HMAC-SHA256 Credential=an-id/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
        kind = {"Content-Type": "application/octet-stream", "Authorization": login}  # moto waits for the end of a form
        with urllib.request.urlopen(urllib.request.Request(url, data, kind, method="PUT"), timeout=60):
            return address

    def names(self) -> list[str]:
        """All objects, as bucket/name; a server lists 1,000 at once."""
        found: list[str] = []
        while True:
            after = found[-1].removeprefix(f"{BUCKET}/") if found else ""
            query = urllib.parse.urlencode({"list-type": 2, "start-after": after})
            with urllib.request.urlopen(f"http://127.0.0.1:{self.moto}/{BUCKET}?{query}") as answer:
                page = re.findall("<Key>([^<]*)</Key>", answer.read().decode())
            if not page:
                return found
            found += [f"{BUCKET}/{html.unescape(name)}" for name in page]

    def bytes_read(self, part: str) -> int:
        """Bytes of answers to GET requests whose path has `part`."""
        return sum(nbytes for method, path, nbytes in self.seen if method == "GET" and part in path)


@contextmanager
def running() -> Iterator[ObjectStore]:
    """Start moto and the proxy; both end with the block."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    moto = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    proxy = None
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}/moto-api/data.json", moto)
        with urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}/{BUCKET}", method="PUT")):
            pass
        proxy = Proxy(port)
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy.store
    finally:
        if proxy is not None:
            proxy.shutdown()
            proxy.server_close()
        moto.kill()
        moto.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectStore]:
    with running() as store:
        before = {name: os.environ.get(name) for name in store.variables}
        os.environ.update(store.variables)
        yield store
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_it_answers(url: str, process: subprocess.Popen[bytes], *, any_status: bool = False) -> None:
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except OSError as error:
            if any_status and isinstance(error, urllib.error.HTTPError):
                return
            time.sleep(0.05)
    raise RuntimeError(f"the server ended with {process.returncode}")


class Proxy(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), Forward)
        self.upstream = upstream
        self.store = ObjectStore(self.server_port, moto=upstream)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what the tests want."""


class Forward(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args: object) -> None: ...

    def forward(self) -> None:
        server = self.server
        assert isinstance(server, Proxy)
        store, body = server.store, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = store.rule(self.command, self.path, self.headers)
        if fault in ("500 before", "429"):
            self.answer(500 if fault == "500 before" else 429, {}, b"")
            return
        if fault == "reset before":
            self.reset()
            return
        headers = {k: v for k, v in self.headers.items() if k.lower() != "connection"}
        if fault == "ignore conditions":
            headers = {k: v for k, v in headers.items() if not k.lower().startswith("if-")}
        upstream = http.client.HTTPConnection("127.0.0.1", server.upstream, timeout=60)
        with suppress(ConnectionError):
            upstream.request(self.command, self.path, body, headers)
            found = upstream.getresponse()
            data = found.read()
            upstream.close()
            if fault == "500 after":
                self.answer(500, {}, b"")
            elif fault in ("reset after", "act after"):
                if fault == "act after":
                    store.act()
                self.reset()
            else:
                left_out = {"transfer-encoding", "connection", *(["etag"] if "untagged" in fault else [])}
                kept = {k: v for k, v in found.getheaders() if k.lower() not in left_out}
                self.answer(found.status, kept, data, cut=fault.startswith("cut"), slow=fault == "slow")

    def reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def answer(
        self, status: int, headers: dict[str, str], data: bytes, *, cut: bool = False, slow: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() != "content-length" or self.command == "HEAD":
                self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        sent = data[: len(data) // 2] if cut else data
        assert isinstance(self.server, Proxy)
        self.server.store.seen.append((self.command, self.path, len(sent)))
        if self.command != "HEAD":
            size = -(-len(sent) // SLOW_PIECES) if slow and sent else max(1, len(sent))
            for start in range(0, len(sent), size):
                self.wfile.write(sent[start : start + size])
                time.sleep(SLOW_SECONDS if slow else 0.0)
        if cut:
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward
