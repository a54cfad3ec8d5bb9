"""The life of a database on S3: its process is killed at every request, and the store answers as it likes."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pytest

from indexer.archive.shards import find_shards
from indexer.errors import IndexerError
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index
from indexer.remote import objects
from indexer.search.indexes.place import index_place
from indexer.store.table import EmbeddingStore
from indexer.types import DELETED
from tests.cluster.truth import contents, odd_archive
from tests.fakes import FakeEncoder
from tests.faults.runs import Zygote
from tests.object_store import ObjectStore, server

__all__ = ["server"]
HUNG_SECONDS = 300.0
ENCODER = ("--encoder", "timm:test_efficientnet", "--weights", "random", "--precision", "fp32", "--table", "fake")


@dataclass(frozen=True)
class Step:
    """One command of a life, by the database's address."""

    name: str
    words: Callable[[str], list[object]]


@dataclass(frozen=True)
class Life:
    zygote: Zygote
    steps: list[Step]
    folder: str  # of a database that lives undisturbed
    after: dict[str, Any] = field(default_factory=dict)

    def truth(self, last: Step) -> dict[str, Any]:
        """Contents after a step, of the life in the folder."""
        for step in self.steps[len(self.after) :]:
            if last.name in self.after:
                break
            done = self.zygote.run(*step.words(self.folder))
            assert done.code in (0, 1), done.err  # 1: the shard that breaks off
            self.after[step.name] = comparable(self.folder)
        return self.after[last.name]


@pytest.fixture(scope="module")
def life(server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    root = tmp_path_factory.mktemp("life")
    archive = odd_archive(root, shards=2, images=3)
    (root / "labels.csv").write_text("key,grade\nim0,a\nim1,b\n")
    (root / "keys.txt").write_text("im2\n")
    with pytest.MonkeyPatch.context() as patch, Zygote(root / "log") as zygote:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        steps = [
            Step("index", lambda db: ["index", archive, db, *ENCODER, "--commit-rows", 4]),
            Step("labels", lambda db: ["labels", db, root / "labels.csv"]),
            Step("build-ann", lambda db: ["build-ann", db]),
            Step("delete", lambda db: ["delete", db, "--keys", root / "keys.txt", "--yes"]),
            Step("optimize", lambda db: ["optimize", db, "--purge"]),
        ]
        yield Life(zygote, steps, str(root / "db"))


def comparable(database: str) -> dict[str, Any]:
    """Contents without the hashes of deleted keys, which hold the table's identity."""
    found = contents(database)
    found["failures"] = [tuple("" if DELETED in row else value for value in row) for row in found["failures"]]
    return found


def copied(server: ObjectStore, source: str) -> str:
    """A copy of a database: names in it are relative to it."""
    target, inside = server.fresh(), f"{source.removeprefix('s3://')}/"
    for name in server.names():
        if name.startswith(inside):
            server.put(f"{target}/{name.removeprefix(inside)}", objects.read(f"s3://{name}"))
    return target


def killed_at(life: Life, server: ObjectStore, step: Step, database: str, at: int) -> bool:
    """Kill a command at its at-th request, before or after the store has done it; whether it had so many."""
    known, seen, turn = threading.Event(), [], threading.Lock()
    pid, late = 0, at % 4 >= 2

    def rule(method: str, path: str, headers: object) -> str:
        if not known.wait(HUNG_SECONDS):  # a kill of process 0 would be one of this process and its group
            return "reset before"
        with turn:
            seen.append(path)
            if len(seen) < at:
                return ""
            if len(seen) == at and not late:
                os.kill(pid, signal.SIGKILL)
            elif len(seen) == at:
                server.act = lambda: os.kill(pid, signal.SIGKILL)
                return "act after"
            return "reset before"

    server.rule = rule
    run = life.zygote.start(*step.words(database))
    pid = run.pid
    known.set()
    try:
        life.zygote.wait(run, HUNG_SECONDS)
    finally:
        server.rule = lambda *_: ""
    return run.killed


def survives(life: Life, server: ObjectStore, step: Step, before: str, at: int, fault) -> bool:
    """A kill at that request, and the same command again. False: the command had fewer requests."""
    kind = f"S3 (moto): `indexer {step.name}` killed at a request"
    database = copied(server, before)
    with fault.unless_hung(kind):
        killed = killed_at(life, server, step, database, at)
        again = life.zygote.run(*step.words(database), seconds=HUNG_SECONDS)
    assert again.code == 0 or step.name == "index" or "nothing to delete" in again.err, (step.name, at, again.err)
    fault(kind, comparable(database), life.truth(step), faults=int(killed), runs=1 + killed)
    if step.name == "build-ann":
        assert index_place(EmbeddingStore.open(database)).load(whole=True) is not None
    return killed


def test_a_command_killed_at_any_request_is_done_again_and_nothing_is_lost(life, server, fault) -> None:
    draw, before = random.Random(8), server.fresh()
    for step in life.steps[:1]:
        for at in draw.sample(range(5, 40), 2):
            assert survives(life, server, step, before, at, fault)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "first", "stride"),  # a share of the long ones each
    [*((0, first, 4) for first in (1, 2, 3, 4)), (1, 1, 3), (2, 1, 3), (3, 1, 3), *((4, f, 12) for f in (1, 4, 7, 10))],
)
def test_the_same_at_every_request_of_an_index_run_and_at_every_third_of_what_follows(
    life, server, fault, number, first, stride
) -> None:
    before = server.fresh()
    for step in life.steps[:number]:
        assert life.zygote.run(*step.words(before)).code in (0, 1)
    at = first
    while survives(life, server, life.steps[number], before, at, fault):
        at += stride
    assert at > 10


ANSWERS = ["500 before", "500 after", "reset before", "reset after", "429", "cut", "slow"]


def misbehaving(server: ObjectStore, seed: int, share: float) -> list[str]:
    """Every `share`-th request is answered in one of ANSWERS; the list grows with each."""
    draw, met, turn = random.Random(seed), [], threading.Lock()

    def rule(method: str, path: str, headers: object) -> str:
        with turn:
            if draw.random() >= share:
                return ""
            met.append(draw.choice(ANSWERS))
            return met[-1]

    server.rule = rule
    return met


@pytest.fixture(scope="module")
def uploaded(server: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    """An archive in the bucket, and what a table of it holds that was made in a folder."""
    root = tmp_path_factory.mktemp("uploaded")
    archive, address = odd_archive(root), server.fresh()
    for path in sorted(archive.glob("*.tar")):
        server.put(f"{address}/{path.name}", path.read_bytes())
    indexed(f"{address}/", str(root / "db"))
    return f"{address}/", contents(str(root / "db"))


def indexed(archive: str, database: str) -> None:
    encoder = FakeEncoder()
    store = EmbeddingStore.create(database, "fake", encoder.spec)
    index(find_shards([archive]).shards, store, encoder, RunOptions(commit_rows=6))


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 17))])
def test_a_store_that_answers_with_errors_slowly_or_in_part_costs_time_alone(server, uploaded, fault, seed) -> None:
    archive, truth = uploaded
    database = server.fresh()
    met = misbehaving(server, seed, 0.15)
    runs = 0
    for _ in range(20):
        runs += 1
        with suppress(IndexerError):
            indexed(archive, database)
            break
    server.rule = lambda *_: ""
    assert met
    fault("S3 (moto): 429, 500, resets, cut and slow answers", contents(database), truth, faults=len(met), runs=runs)
