"""A Ray driver in a process of its own, which does one run after another for the tests.

Ray puts its own handlers of crashes in the place of Python's, and its threads outlive a shutdown: a test process that
had been a driver would die without a word, in any later test.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

from indexer.archive.shards import find_shards
from indexer.pipeline.drive import Hooks
from indexer.pipeline.engines.ray_actors import RayActors
from indexer.pipeline.engines.ray_cluster import Cluster, ClusterOptions, connected
from indexer.pipeline.engines.ray_worker import WorkerOptions
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index_by
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.types import RunReport
from tests.fakes import FakeEncoder
from tests.progress import Recorder

OPTIONS = ClusterOptions(workers=2)
ROWS = 6  # of a part, and of a commit
Call = Callable[..., Any]
_connection = ExitStack()


@contextmanager
def driver() -> Iterator[Call]:
    """A function that calls another one in the driver's process, which is connected to a cluster of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        pool.submit(_connect).result()
        try:
            yield lambda function, *arguments: pool.submit(function, *arguments).result()
        finally:
            pool.submit(_connection.close).result()


def _connect() -> None:
    _connection.enter_context(connected(OPTIONS, _worker(FakeEncoder)))


def _worker(make: Call) -> WorkerOptions:
    return WorkerOptions(make, 1, "all", ROWS)


def run(
    database: Path, archive: Path, make: Call = FakeEncoder, watch: Call = lambda _: None
) -> tuple[RunReport, list[dict[str, int]]]:
    """The report, and the counts of each report of progress."""
    import ray  # after the cluster's token

    recorder = Recorder(watch)
    engine = RayActors(Cluster(ray, OPTIONS, _worker(make)))
    try:
        store = EmbeddingStore.create(str(database), "fake", engine.spec)
        shards, options = find_shards([str(archive)]).shards, RunOptions(commit_rows=ROWS)
        report = index_by(engine, shards, store, options, Hooks(recorder))
    finally:
        engine.close()
    return report, [dict(counts) for stage in recorder.stages for counts in stage.counts]


def run_and_stop(database: Path, archive: Path) -> RunReport:
    """A run that gets one SIGINT after six images."""
    stopped = []

    def stop(now: dict[str, int]) -> None:
        if now["images"] >= 6 and not stopped:
            stopped.append(now["images"])
            os.kill(os.getpid(), signal.SIGINT)

    return run(database, archive, watch=stop)[0]


def run_and_kill(database: Path, archive: Path, make: Call, pids: Path, seed: int) -> int:
    """A run in which half of the driver's commits kill an actor first, and how many were killed."""
    draw, killed, real = random.Random(seed), set[int](), StoreWriter._sync

    def sync(writer: StoreWriter, *kinds: Any) -> None:
        alive = {int(path.name.removeprefix("pid-")) for path in pids.glob("pid-*")} - killed
        if alive and draw.random() < 0.5:
            with suppress(ProcessLookupError):
                os.kill(pid := draw.choice(sorted(alive)), signal.SIGKILL)
                killed.add(pid)
        real(writer, *kinds)

    with patch.object(StoreWriter, "_sync", sync):
        run(database, archive, make)
    return len(killed)
