"""A server that a real browser opens."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn

from indexer.search.options import SearchOptions
from indexer.search.searcher import Searcher
from indexer.serve.app import create_app
from indexer.serve.settings import Settings
from indexer.store.table import EmbeddingStore
from tests.fakes import FakeEncoder

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class Live:
    """A server on a free port of this machine."""

    def __init__(self, database: Path, **options: Any) -> None:
        self.store = EmbeddingStore.open(str(database), options.get("table"))
        app = create_app(Settings(str(database), **options), load_encoder=lambda _: FakeEncoder())
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def nearest(self, key: str, **options: object) -> list[str]:
        (hits,) = Searcher(self.store).by_key([key], SearchOptions(k=48, **options))  # type: ignore[arg-type]
        return [hit.key for hit in hits]


def slow(page, tail: str, first: int = 1000) -> None:
    """The first `first` requests of this page whose path has this end are sent a second late."""
    page.add_init_script(
        f"{{ const at_once = window.fetch; const late = (url) => new URL(url, location).pathname.endsWith({tail!r});"
        f"let left = {first};"
        "window.fetch = async (url, options) => {"
        "  if (late(url) && left-- > 0) await new Promise((go) => setTimeout(go, 1000));"
        "  return at_once(url, options); } }"
    )


def until(page, holds: str) -> None:
    """Wait for a condition; the page's own rules forbid playwright's way, which makes code of text there."""
    end = time.monotonic() + 60
    while not page.evaluate(holds):
        assert time.monotonic() < end, holds
        page.wait_for_timeout(20)
