"""A writer process: `python -m tests.cluster.writer DATABASE FOLDER [--stop-at N] [--patience SECONDS]`.

It indexes the shards of FOLDER with the fake encoder, one commit for each, and tries again while another writer holds
the table, as a user's job script would. With --stop-at N it stops itself (SIGSTOP) right after its N-th look at its
lease, which is the worst moment: the commit follows. Prints one line of JSON for each attempt.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
import time

from indexer.archive.shards import find_shards
from indexer.errors import IndexerError, StoreLocked
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index
from indexer.store.holding import lease as leases
from indexer.store.holding.lease import Lease
from indexer.store.table import EmbeddingStore
from tests.fakes import FakeEncoder


def stop_at(look: int) -> None:
    """Stop this process after the look-th time that it finds its lease its own."""
    real, seen = Lease.require, []

    def require(lease: Lease) -> None:
        real(lease)
        seen.append(lease)
        if len(seen) == look:
            os.kill(os.getpid(), signal.SIGSTOP)

    Lease.require = require  # type: ignore[method-assign]


def as_another_machine(name: str) -> None:
    """As on another machine that shares the folder, on a file system whose flock holds on one machine only."""
    leases._machine = lambda: name
    fcntl.flock = lambda *_: None


def attempt(database: str, folder: str) -> dict[str, object]:
    encoder = FakeEncoder(workers=1)
    try:
        store = EmbeddingStore.create(database, "fake", encoder.spec)
        report = index(find_shards([folder]).shards, store, encoder, RunOptions(commit_rows=1))
    except StoreLocked as error:
        return {"locked": str(error)}
    except IndexerError as error:
        return {"error": str(error)}
    return {"embedded": report.embedded, "failed": report.failed, "warnings": report.warnings}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("folder")
    parser.add_argument("--stop-at", type=int, default=0)
    parser.add_argument("--patience", type=float, default=0.0)
    parser.add_argument("--machine", default="")
    options = parser.parse_args()
    if options.machine:
        as_another_machine(options.machine)
    if options.stop_at:
        stop_at(options.stop_at)
    end = time.monotonic() + options.patience
    while True:
        answer = attempt(options.database, options.folder)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
        if "embedded" in answer or time.monotonic() > end:
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main()
