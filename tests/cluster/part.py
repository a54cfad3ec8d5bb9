"""One part of a run in a process of its own: `python -m tests.cluster.part DATABASE FOLDER I/N [--die-at K] [...]`.

With --die-at K the process kills itself (SIGKILL) right after its K-th step that is on the disk: a pending file that
appeared, a write of the committer, a pending file that was removed. Prints the report as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from dataclasses import asdict

from indexer.archive.shards import find_shards
from indexer.commands.cluster.ways import once_free
from indexer.pipeline.drive import Hooks
from indexer.pipeline.options import RunOptions
from indexer.pipeline.parts.dealt import PartOptions, part_of
from indexer.pipeline.parts.embed import index_part
from indexer.pipeline.run import threads_for
from indexer.store.pending import place
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from tests.fakes import FakeEncoder


def die_at(step: int) -> None:
    seen: list[str] = []

    def counted(owner: type, method: str) -> None:
        real = getattr(owner, method)

        def then_die(*args, **kwargs):
            answer = real(*args, **kwargs)
            seen.append(method)
            if len(seen) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        setattr(owner, method, then_die)

    for owner in (place._Folder, place._Prefix):
        counted(owner, "publish")
        counted(owner, "remove")
    counted(StoreWriter, "_sync")


def slowly(seconds: float) -> FakeEncoder:
    """An encoder that takes its time, so that there is something to kill."""

    def change(vectors):
        time.sleep(seconds)
        return vectors

    return FakeEncoder(workers=1, batch_size=1 if seconds else 8, change=change if seconds else None)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("folder")
    parser.add_argument("part")
    parser.add_argument("--die-at", type=int, default=0)
    parser.add_argument("--no-commit", action="store_true")
    parser.add_argument("--rows", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=0.0)
    asked = parser.parse_args()
    if asked.die_at:
        die_at(asked.die_at)
    encoder = slowly(asked.seconds)
    options = RunOptions(commit_rows=asked.rows)
    store = once_free(lambda: EmbeddingStore.create(asked.database, "fake", encoder.spec), part=True)
    which = PartOptions(part_of(asked.part), not asked.no_commit, wait_seconds=300)
    engine, shards = threads_for(encoder, options), find_shards([asked.folder]).shards
    report, committed = index_part(engine, shards, store, options, which, Hooks())
    answer = asdict(report) | {"committed": asdict(committed) if committed else None}
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.exit(130 if report.interrupted else 0)


if __name__ == "__main__":
    main()
