"""Runs the application with uvicorn until it is stopped."""

from __future__ import annotations

import logging

import uvicorn

from indexer.serve.app import create_app
from indexer.serve.settings import Settings

STOP_SECONDS = 5  # for requests in progress when it is stopped


def serve(settings: Settings) -> None:
    """Blocks. Raises StoreNotFound; OSError where the port is taken is reported by uvicorn with exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    certificate, key = settings.certificate or (None, None)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        access_log=False,  # it would log query strings
        server_header=False,
        date_header=False,
        ssl_certfile=certificate,
        ssl_keyfile=None if key is None else str(key),
        timeout_graceful_shutdown=STOP_SECONDS,
        forwarded_allow_ips="127.0.0.1" if settings.behind_proxy else "",
    )
    uvicorn.Server(config).run()
