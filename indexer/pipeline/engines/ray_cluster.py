"""The calls to Ray: an existing cluster or one of this machine alone, its actors and their answers."""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from indexer.cores import cores
from indexer.errors import EncoderError, InputError
from indexer.pipeline.engines.ray_worker import ShardWorker, WorkerOptions

LOCAL = "local"
STORE_BYTES = 256 << 20  # of a local cluster's object store, for each worker
CONNECT_SECONDS = 10.0
ROOM_SECONDS = 120.0  # for the cluster to make room for the first worker


@dataclass(frozen=True)
class ClusterOptions:
    """Where the actors run, how many there are, and what each takes."""

    address: str = ""  # "": RAY_ADDRESS, or a cluster of this machine alone
    workers: int | None = None  # None: one for each core, or for each share of the GPUs
    gpus: float = 0.0  # of each


@dataclass(frozen=True)
class Died:
    """In place of an answer."""

    cause: str
    itself: bool = True  # rather than the way to it: then its shard may be the cause


class Cluster:
    """An open connection to Ray."""

    def __init__(self, ray: Any, options: ClusterOptions, worker: WorkerOptions) -> None:
        self._ray = ray
        have = ray.cluster_resources()
        most = have.get("GPU", 0) / options.gpus if options.gpus else have.get("CPU", 1)
        self._room = f"{have.get('CPU', 0):g} CPUs and {have.get('GPU', 0):g} GPUs"
        self.workers = options.workers or max(1, int(most))
        self._kind = ray.remote(num_cpus=1, num_gpus=options.gpus, max_restarts=0, max_task_retries=0)(ShardWorker)
        self._worker = worker

    def actor(self) -> Any:
        return self._kind.remote(self._worker)

    def kill(self, actor: Any) -> None:
        self._ray.kill(actor)

    def ready(self, answers: Sequence[Any], seconds: float) -> set[Any]:
        """Which of these are there, once one is, within that time."""
        if not answers:
            return set()
        first, _ = self._ray.wait(list(answers), num_returns=1, timeout=seconds)
        if not first:
            return set()
        return set(self._ray.wait(list(answers), num_returns=len(answers), timeout=0)[0])

    def answer(self, answer: Any) -> Any:
        """An actor's answer, or how it died. Raises the error that the actor raised."""
        from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError

        try:
            return self._ray.get(answer)
        except RayTaskError as error:
            if isinstance(error.cause, MemoryError):
                return Died("out of memory")
            raise error.cause from error
        except RayError as error:
            return Died(_line(error), isinstance(error, (ActorDiedError, OutOfMemoryError)))

    def require_room(self, seconds: float) -> None:
        """Raise EncoderError where the cluster has made no room for a worker for too long."""
        if seconds > ROOM_SECONDS:
            raise EncoderError(
                f"the Ray cluster ({self._room}) has started no worker for {ROOM_SECONDS:g} seconds. Wait until it "
                "has room, or ask for less: --gpus-per-worker."
            )


@contextmanager
def connected(options: ClusterOptions, worker: WorkerOptions) -> Iterator[Cluster]:
    """Raises InputError without the extra, or where no cluster answers at the address."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    address = options.address or os.environ.get("RAY_ADDRESS") or LOCAL
    _require_listener(address)
    if address == LOCAL:
        _own_token()
    try:
        import ray
    except ImportError as error:
        raise InputError("--engine ray needs the extra ray. Run pip install 'embedding-indexer[ray]'.") from error
    known: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        workers = options.workers or cores()
        known |= {"num_cpus": workers, "object_store_memory": STORE_BYTES * workers, "include_dashboard": False}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "lance is not fork-safe")  # what Ray starts runs another program at once
            ray.init(**known)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        # Ray gives no token to an address by itself, and does not say that one was asked for
        raise InputError(
            f"no Ray cluster answers at {address}: {_line(error)}. Name the head's with --address HOST:6379; where it "
            "has a token, as with a file ~/.ray/auth_token on its machine, set RAY_AUTH_MODE=token here and there."
        ) from error
    try:
        yield Cluster(ray, options, worker)
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raise InputError where nothing listens at HOST:PORT: Ray itself would try for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if not (host and port.isdecimal()) or "/" in host:
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"no Ray cluster answers at {address}: {_line(error)}. Name the head's with --address HOST:6379."
        ) from error


@cache
def _own_token() -> None:
    """For a cluster of this machine alone: no other user's process may give it work, though Ray's ports are open.

    Ray reads the token when it is imported, and once.
    """
    if "ray" in sys.modules or {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys():
        return
    folder = tempfile.mkdtemp(prefix="indexer-ray-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = Path(folder) / "token"
    path.touch(mode=0o600)
    path.write_text(secrets.token_hex(32))
    os.environ.update({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)})


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    useful = [line for line in lines if "Worker exit type" in line or "died" in line or "memory" in line.lower()]
    return (useful or lines or [type(error).__name__])[-1][:300].rstrip(".")
