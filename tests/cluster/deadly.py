"""Encoders for Ray's actors that die at chosen moments, and a driver to kill.

`python -m tests.cluster.deadly DATABASE FOLDER SECONDS [ADDRESS]`, where an embedding takes SECONDS.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from pathlib import Path

import numpy as np

from indexer.archive.shards import find_shards
from indexer.errors import EncoderError
from indexer.pipeline.engines.ray_actors import RayActors
from indexer.pipeline.engines.ray_cluster import ClusterOptions, connected
from indexer.pipeline.engines.ray_worker import WorkerOptions
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index_by
from indexer.store.table import EmbeddingStore
from tests.cluster.part import slowly
from tests.fakes import FakeEncoder

FATAL = 255  # every pixel of a picture that kills whoever embeds it


def broken() -> FakeEncoder:
    raise EncoderError("no such weights here. Name others with --weights.")


class Deadly(FakeEncoder):
    """Dies `times` times in all of a run's actors, at the embedding before or after its vectors are made, or of FATAL
    pictures only; `folder` counts, and holds the ids of the actors' processes.
    """

    def __init__(self, folder: str, when: str, times: int) -> None:
        super().__init__(workers=1, batch_size=4)
        self._folder, self._when, self._times = Path(folder), when, times
        (self._folder / f"pid-{os.getpid()}").touch()

    def embed(self, pictures):
        fatal = (pictures == FATAL).all(axis=(1, 2, 3)).any()
        if self._when == "before" or (self._when in ("fatal", "memory") and fatal):
            self._die()
        vectors = super().embed(pictures)
        if self._when == "after":
            self._die()
        return vectors

    def _die(self) -> None:
        for number in range(self._times):
            try:
                (self._folder / f"death-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            if self._when == "memory":
                _use_all_memory()
            os.kill(os.getpid(), signal.SIGKILL)


def _use_all_memory() -> None:
    """Raises MemoryError, as where a container's memory ends."""
    usual = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (1 << 36, usual[1]))
    try:
        np.ones(1 << 36, np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, usual)


def main() -> None:
    database, folder, seconds, *address = sys.argv[1:]
    worker = WorkerOptions(Slow(float(seconds)), 1, "all", 6)
    options = RunOptions(commit_rows=6)
    with connected(ClusterOptions(*address, workers=2), worker) as cluster:
        engine = RayActors(cluster)
        store = EmbeddingStore.create(database, "fake", engine.spec)
        report = index_by(engine, find_shards([folder]).shards, store, options)
    sys.exit(130 if report.interrupted else 0)


class Slow:
    """Makes an encoder that takes its time."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self) -> FakeEncoder:
        return slowly(self._seconds)


if __name__ == "__main__":
    main()
