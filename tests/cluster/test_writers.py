"""Several writers of one table, on any machine: no row is lost or doubled, and a late commit is refused."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from indexer.archive.shards import find_shards
from indexer.doctor.stores import try_store
from indexer.errors import StoreError, StoreLocked
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index
from indexer.store.holding.lease import Lease
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from tests.archives import archive
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.object_store import SECRET, ObjectStore, server

__all__ = ["server"]
SHARDS, IMAGES = 3, 4
ASLEEP = "writer asleep past its lease (SIGSTOP) right before a commit"
LOOKS = 6  # that a run over the shards takes at its lease, at least: each is followed by a commit


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("archive"), SHARDS, IMAGES)


@pytest.fixture(scope="module")
def truth(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Key → vector of one undisturbed run into a folder."""
    encoder = FakeEncoder()
    store = EmbeddingStore.create(str(tmp_path_factory.mktemp("truth")), "fake", encoder.spec)
    index(find_shards([str(shards)]).shards, store, encoder)
    store.refresh()
    return rows_of(store)


def rows_of(store: EmbeddingStore) -> dict[str, bytes]:
    found = store.vectors(columns=["key"])
    keys = found.columns.column("key").to_pylist()
    assert Counter(keys).most_common(1)[0][1] == 1, "doubled"
    return {key: np.asarray(row).tobytes() for key, row in zip(keys, found.vectors, strict=True)}


def require_equal(fault, kind: str, database: str, truth: dict[str, bytes], runs: int = 2) -> None:
    """Rows and vectors are the undisturbed run's, once each, and ledger and failures agree with them."""
    store = EmbeddingStore.open(database)
    fault(kind, rows_of(store), truth, runs=runs)
    ledger = store.ledger().to_pylist()
    assert sorted(entry["embedded"] for entry in ledger) == [IMAGES] * SHARDS
    assert {entry["status"] for entry in ledger} == {"done"}
    assert store.failures().num_rows == 0


def writer(database: str, shards: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.cluster.writer", database, str(shards), *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def answers(process: subprocess.Popen[str]) -> list[dict[str, object]]:
    out, _ = process.communicate(timeout=300)
    return [json.loads(line) for line in out.splitlines()]


def both_wrote_once(fault, database: str, shards: Path, truth: dict[str, bytes], machines: list[str]) -> None:
    options = [["--patience", "240", *(["--machine", name] if name else [])] for name in machines]
    running = [writer(database, shards, *own) for own in options]
    last = [answers(process)[-1] for process in running]
    assert all("embedded" in answer for answer in last), last
    where = "on S3 (moto)" if database.startswith("s3:") else "in a folder without locks"
    require_equal(fault, f"writers {where}: {len(machines)} at once", database, truth, len(machines))


def late_commit_is_refused(
    fault, database: str, shards: Path, truth: dict[str, bytes], look: int, *, machine: str
) -> bool:
    """A process stops before its look-th commit, another does the work, the first goes on. False: it ended first."""
    first = writer(database, shards, "--stop-at", str(look), *(["--machine", f"a{machine}"] if machine else []))
    _, status = os.waitpid(first.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        first.returncode = os.waitstatus_to_exitcode(status)
        assert "embedded" in answers(first)[-1]
        return False
    second = writer(database, shards, "--patience", "240", *(["--machine", f"b{machine}"] if machine else []))
    try:
        assert "embedded" in answers(second)[-1]
    finally:
        os.kill(first.pid, signal.SIGCONT)
    said = answers(first)[-1]
    assert "taken over by another writer" in str(said.get("locked")), said
    require_equal(fault, ASLEEP, database, truth)
    return True


def asleep(
    fault, database: str, shards: Path, truth: dict[str, bytes], look: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same with the first writer in this process, whose heartbeat stops while the second one works."""
    real, looks, others = Lease.require, [], []

    def require(lease: Lease) -> None:
        real(lease)
        looks.append(lease)
        if len(looks) == look:
            lease._stop.set()
            others.append(answers(writer(database, shards, "--patience", "240", "--machine", "another"))[-1])

    monkeypatch.setattr(Lease, "require", require)
    store, encoder = EmbeddingStore.create(database, "fake", FakeEncoder().spec), FakeEncoder()
    with pytest.raises(StoreLocked, match="taken over by another writer"):
        index(find_shards([str(shards)]).shards, store, encoder, RunOptions(commit_rows=1))
    assert "embedded" in others[0], others
    require_equal(fault, ASLEEP, database, truth)


@pytest.mark.case("O1")
def test_two_writers_at_once_on_an_object_store_double_nothing(server: ObjectStore, shards, truth, fault) -> None:
    both_wrote_once(fault, server.fresh(), shards, truth, ["", ""])


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(4))
def test_three_and_four_writers_at_once_on_an_object_store_double_nothing(server, shards, truth, trial, fault) -> None:
    both_wrote_once(fault, server.fresh(), shards, truth, [f"{trial}{n}" for n in range(3 + trial % 2)])


@pytest.mark.slow
def test_two_machines_that_share_a_folder_without_common_locks_double_nothing(
    tmp_path, shards, truth, monkeypatch, fault
) -> None:
    monkeypatch.setenv("INDEXER_LEASE_SECONDS", "2")
    both_wrote_once(fault, str(tmp_path / "db"), shards, truth, ["a", "b"])


CHOSEN = random.Random(7).sample(range(1, LOOKS + 1), 2)


@pytest.mark.case("O1")
def test_a_writer_asleep_past_its_lease_right_before_a_commit_is_refused_and_nothing_doubles(
    server, shards, truth, monkeypatch, fault
) -> None:
    asleep(fault, server.fresh(), shards, truth, CHOSEN[0], monkeypatch)


@pytest.mark.slow
def test_in_a_folder_that_two_machines_share_too(tmp_path, shards, truth, monkeypatch, fault) -> None:
    monkeypatch.setenv("INDEXER_LEASE_SECONDS", "3")
    asleep(fault, str(tmp_path / "db"), shards, truth, CHOSEN[1], monkeypatch)


@pytest.mark.slow
def test_a_process_stopped_before_any_commit_of_a_run_is_refused_when_it_goes_on(server, shards, truth, fault) -> None:
    looks = next(look for look in range(1, 100) if not late_commit_is_refused(
        fault, server.fresh(), shards, truth, look, machine="m"))  # fmt: skip
    assert looks > LOOKS


@pytest.mark.slow
def test_the_same_in_a_folder_of_two_machines(tmp_path, shards, truth, monkeypatch, fault) -> None:
    monkeypatch.setenv("INDEXER_LEASE_SECONDS", "2")
    looks = next(look for look in range(1, 100) if not late_commit_is_refused(
        fault, str(tmp_path / str(look)), shards, truth, look, machine="m"))  # fmt: skip
    assert looks > LOOKS


FAULTS = ["500 before", "500 after", "reset after"]


def disturbed(fault, server: ObjectStore, shards: Path, truth, answer: str, at: int) -> bool:
    """A run with one fault at its at-th commit, run again where it failed. False: it has fewer commits."""
    database, encoder, commits = server.fresh(), FakeEncoder(), []

    def rule(method: str, path: str, headers: object) -> str:
        if method == "PUT" and ("_versions/" in path or path.endswith(".lease")):
            commits.append(path)
            return answer if len(commits) == at else ""
        return ""

    server.rule = rule
    for _ in range(2):
        try:
            store = EmbeddingStore.create(database, "fake", encoder.spec)
            index(find_shards([str(shards)]).shards, store, encoder)
            break
        except StoreError:
            continue
    require_equal(fault, "S3 (moto): the answer to a commit is lost (500, reset)", database, truth, runs=1)
    return len(commits) >= at


@pytest.mark.parametrize("answer", FAULTS)
def test_a_commit_whose_answer_is_lost_is_looked_up_and_not_repeated(server, shards, truth, answer, fault) -> None:
    assert disturbed(fault, server, shards, truth, answer, at=random.Random(answer).randint(3, 8))


@pytest.mark.slow
@pytest.mark.parametrize("answer", FAULTS)
def test_the_same_at_every_commit_of_a_run(server, shards, truth, answer, fault) -> None:
    assert next(at for at in range(1, 100) if not disturbed(fault, server, shards, truth, answer, at)) > 8


@pytest.mark.case("O2")
def test_a_store_that_ignores_conditional_puts_has_one_writer_that_is_told_so(server, shards, tmp_path) -> None:
    database, encoder = server.fresh(), FakeEncoder()
    server.rule = lambda *_: "ignore conditions"
    store = EmbeddingStore.create(database, "fake", encoder.spec)
    with StoreWriter(store) as first:
        assert "ignores conditional puts" in " ".join(first.notes)
        with pytest.raises(StoreLocked, match=f"being written by process {os.getpid()}") as refused, StoreWriter(store):
            pass
        assert "\n" not in str(refused.value)
    report = index(find_shards([str(shards)]).shards, EmbeddingStore.open(database), encoder)
    assert report.embedded == SHARDS * IMAGES
    assert any("only one writer" in warning for warning in report.warnings)


def test_a_lease_given_back_is_taken_at_once_and_nothing_but_it_stays_beside_the_table(server, shards) -> None:
    database, encoder = server.fresh(), FakeEncoder()
    store = EmbeddingStore.create(database, "fake", encoder.spec)
    for _ in range(3):
        with StoreWriter(store) as held:
            assert held.notes == ()
    assert [name for name in server.names() if "lease" in name and database[5:] in name] == [
        f"{database[5:]}/fake.lease"
    ]


@pytest.mark.parametrize(("rule", "holds"), [("", True), ("ignore conditions", False)])
def test_doctor_proves_conditional_puts_and_leaves_no_object(server: ObjectStore, rule: str, holds: bool) -> None:
    address = server.fresh()
    server.rule = lambda *_: rule
    tried = try_store(address)
    assert (tried.reachable, tried.conditional_puts, bool(tried.problem)) == (True, holds, not holds)
    assert not any(address[5:] in name for name in server.names())


def test_doctor_names_a_place_that_cannot_be_reached_in_one_line_without_secrets(server: ObjectStore) -> None:
    done = call("indexer", "doctor", "s3://no-such-bucket/db", "--strict")
    assert done.code == 1
    assert "problem: s3://no-such-bucket/db: " in done.out
    assert SECRET not in done.out + done.err
