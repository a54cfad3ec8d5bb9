"""A web server for tests: the files of a folder, with the faults that servers have."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SIGNATURE = "?X-Amz-Signature=abcdef0123456789"


class Web(http.server.BaseHTTPRequestHandler):
    """Files of a folder, as a server gives them whose addresses are presigned: GET with the signature, nothing else."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None: ...

    def do_HEAD(self) -> None:
        self.send_error(403)

    def do_GET(self) -> None:
        web = self.server
        assert isinstance(web, Server)
        web.asked += 1
        path, _, query = self.path.partition("?")
        if web.signed and query != "X-Amz-Signature=abcdef0123456789":
            self.send_error(403)
            return
        file = web.folder / path.lstrip("/")
        if path in web.answers or not file.is_file():
            code = web.answers.get(path, 404)
            self.send_response(code)
            self.send_header("Location", web.leads_to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = 0, len(data)
        if wanted and web.ranges:
            start, end = int(wanted[1]), min(len(data), int(wanted[2]) + 1 if wanted[2] else len(data))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()[:16]}"')
        self.send_header("Content-Length", str(end - start))
        self.end_headers()
        whole = data[start:end]
        cut = len(whole) // 2 if web.cut and web.asked % 3 == 0 else len(whole)
        web.sent += cut  # before they are written: a client that has them may look at once
        self.wfile.write(whole[:cut])
        if cut < len(whole):
            web.after_cut()
            self.close_connection = True


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    asked = sent = 0
    signed = cut = False
    ranges = True
    folder = Path()
    leads_to = ""  # of answers that are redirections

    def __init__(self, *rest: object) -> None:
        super().__init__(*rest)  # type: ignore[arg-type]
        self.answers: dict[str, int] = {}  # path → an answer other than the file

    def after_cut(self) -> None: ...

    def handle_error(self, request: object, client_address: object) -> None: ...


@contextmanager
def web_server(folder: Path, **settings: bool) -> Iterator[tuple[Server, str]]:
    web = Server(("127.0.0.1", 0), Web)
    web.folder = folder
    for name, value in settings.items():
        setattr(web, name, value)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    try:
        yield web, f"http://127.0.0.1:{web.server_port}"
    finally:
        web.shutdown()
        web.server_close()
