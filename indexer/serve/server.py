"""Runs the application with uvicorn until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

import anyio.to_thread
import pyarrow as pa
import uvicorn

from indexer.cores import cores
from indexer.errors import InputError
from indexer.malloc import release_freed_memory, share_one_heap, unmap_large_blocks
from indexer.serve.app import create_app
from indexer.serve.settings import Settings, bracketed

STOP_SECONDS = 5  # for requests in progress when it is stopped
RELEASE_SECONDS = 5.0  # between returns of freed memory to the kernel
THREADS = 2  # that answer requests, for each core; each holds memory of its own, and more would only take turns


class _Server(uvicorn.Server):
    """Says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._releasing: asyncio.Task[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = THREADS * max(cores(), 2)
        await super().startup(sockets)
        if self.started:
            self._ready()
            self._releasing = asyncio.create_task(_release_memory())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._releasing is not None:
            self._releasing.cancel()
        await super().shutdown(sockets)


async def _release_memory() -> None:
    """Searches leave freed blocks of many sizes, which malloc keeps: 60 MB at a million rows (measured)."""
    while True:
        await asyncio.sleep(RELEASE_SECONDS)
        await anyio.to_thread.run_sync(release_freed_memory)


def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Blocks until it is stopped; `ready` is called with the address once it answers. Raises StoreNotFound,
    InputError (port taken).
    """
    share_one_heap()
    unmap_large_blocks()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what is freed
    app = create_app(settings)
    listening = _listening(settings)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    certificate, key = settings.certificate or (None, None)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # it would log query strings
        server_header=False,
        date_header=False,
        ssl_certfile=certificate,
        ssl_keyfile=None if key is None else str(key),
        timeout_graceful_shutdown=STOP_SECONDS,
        forwarded_allow_ips="127.0.0.1" if settings.behind_proxy else "",
    )
    address = f"http{'s' if certificate else ''}://{bracketed(settings.host)}:{listening.getsockname()[1]}/"
    with listening:
        _Server(config, lambda: ready(address)).run([listening])


def _listening(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    made = socket.socket(family)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((settings.host.strip("[]"), settings.port))
    except OSError as error:
        made.close()
        raise InputError(
            f"{settings.host}:{settings.port} cannot be listened on: {error.strerror}. Choose another --port."
        ) from error
    return made
