"""The engine of a Ray cluster: whichever actor dies, and whenever, the table is that of one undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer.archive.shards import find_shards
from indexer.errors import EncoderError
from indexer.pipeline.drive import Hooks
from indexer.pipeline.engines.ray_actors import DIED, RayActors
from indexer.pipeline.engines.ray_cluster import Cluster, ClusterOptions, connected
from indexer.pipeline.engines.ray_worker import WorkerOptions
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index, index_by
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.types import RunReport
from tests.archives import write_tar
from tests.cluster.deadly import FATAL, Deadly
from tests.cluster.truth import contents, odd_archive
from tests.commands import call
from tests.fakes import AnyPlane, FakeEncoder
from tests.progress import Recorder

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra ray is not installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray leaves its processes to themselves
]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_archive(tmp_path_factory.mktemp("archive"), shards=4, images=14)


@pytest.fixture(scope="module")
def truth(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    database = str(tmp_path_factory.mktemp("truth"))
    threads(database, archive)
    return contents(database)


def threads(database: str, archive: Path) -> RunReport:
    encoder = FakeEncoder()
    store = EmbeddingStore.create(database, "fake", encoder.spec)
    return index(find_shards([str(archive)]).shards, store, encoder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with connected(ClusterOptions(workers=2), WorkerOptions(FakeEncoder, 1, "all", 6)):
        yield


def run(database: Path, archive: Path, make=FakeEncoder, hooks: Hooks | None = None) -> RunReport:
    import ray  # after the cluster's token

    engine = RayActors(Cluster(ray, ClusterOptions(workers=2), WorkerOptions(make, 1, "all", 6)))
    try:
        store = EmbeddingStore.create(str(database), "fake", engine.spec)
        return index_by(engine, find_shards([str(archive)]).shards, store, RunOptions(commit_rows=6), hooks)
    finally:
        engine.close()


def deadly(folder: Path, when: str, times: int):
    folder.mkdir()
    return partial(Deadly, str(folder), when, times)


@pytest.mark.parametrize(
    "when", ["after", *(pytest.param(word, marks=pytest.mark.slow) for word in ("before", "never"))]
)
def test_a_run_by_actors_that_die_equals_a_run_by_threads_bit_for_bit(tmp_path, archive, truth, cluster, when) -> None:
    counts: list[dict[str, int]] = []
    make, deaths = deadly(tmp_path / "deaths", when, 1 if when == "after" else 4), tmp_path / "deaths"
    report = run(tmp_path / "db", archive, make, Hooks(Recorder(lambda now: counts.append(dict(now)))))
    assert len(list(deaths.glob("death-*"))) == {"after": 1, "before": 4, "never": 0}[when]
    assert contents(str(tmp_path / "db")) == truth
    assert (report.images, report.shards_partial) == (sum(row[4] + row[5] for row in truth["ledger"]), 1)
    assert 0 < max(now["workers"] for now in counts) <= 2
    again = threads(str(tmp_path / "db"), archive)
    assert (again.images, again.shards_skipped) == (0, len(truth["ledger"]))


@pytest.mark.slow
def test_actors_killed_while_the_driver_commits_lose_and_double_nothing(
    tmp_path, archive, truth, cluster, monkeypatch
) -> None:
    make, draw, killed = deadly(tmp_path / "deaths", "never", 0), random.Random(2), []
    real = StoreWriter._sync

    def sync(writer, *kinds) -> None:
        pids = [int(path.name.removeprefix("pid-")) for path in (tmp_path / "deaths").glob("pid-*")]
        if len(killed) < 12 and draw.random() < 0.5:
            with suppress(ProcessLookupError):
                os.kill(pid := draw.choice([pid for pid in pids if pid not in killed] or pids), signal.SIGKILL)
                killed.append(pid)
        real(writer, *kinds)

    monkeypatch.setattr(StoreWriter, "_sync", sync)
    run(tmp_path / "db", archive, make)
    assert len(killed) > 3
    found = contents(str(tmp_path / "db"))
    if DIED in [row[3] for row in found["failures"]]:  # a shard whose actors were killed three times, by chance
        threads(str(tmp_path / "db"), archive)
        found = contents(str(tmp_path / "db"))
    assert found == truth


@pytest.mark.slow
@pytest.mark.parametrize("when", ["fatal", "memory"])
def test_a_shard_that_kills_its_workers_becomes_a_failure_and_is_read_again_by_the_next_run(
    tmp_path, cluster, when
) -> None:
    archive = odd_archive(tmp_path, shards=2, images=3)
    white = tmp_path / "white.png"
    Image.fromarray(np.full((24, 24, 3), FATAL, np.uint8)).save(white)
    write_tar(archive / "fatal.tar", [("a.png", white.read_bytes())])
    report = run(tmp_path / "db", archive, deadly(tmp_path / "deaths", when, 3))
    found = contents(str(tmp_path / "db"))
    died = [row for row in found["failures"] if row[3] == DIED]
    assert ([Path(row[0]).name for row in died], report.reasons[DIED]) == (["fatal.tar"], 1)
    assert "3 workers died" in died[0][4]
    threads(str(tmp_path / "db"), archive)
    threads(str(tmp_path / "truth"), archive)
    assert contents(str(tmp_path / "db")) == contents(str(tmp_path / "truth"))


def broken() -> FakeEncoder:
    raise EncoderError("no such weights here. Name others with --weights.")


def test_an_error_of_an_actor_is_the_error_of_the_run(tmp_path, archive, cluster) -> None:
    with pytest.raises(EncoderError, match=r"no such weights|starts") as refused:
        run(tmp_path, archive, broken)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_what_was_settled_and_goes_on_later(tmp_path, archive, truth, cluster) -> None:
    stopped = []

    def stop(now: dict[str, int]) -> None:
        if now["images"] >= 6 and not stopped:
            stopped.append(now["images"])
            os.kill(os.getpid(), signal.SIGINT)

    report = run(tmp_path, archive, hooks=Hooks(Recorder(stop)))
    assert report.interrupted
    assert 0 < report.embedded < len(truth["rows"])
    run(tmp_path, archive)
    assert contents(str(tmp_path)) == truth


def test_wrong_uses_are_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("indexer.encoders.load", lambda *_, **__: AnyPlane())
    words = ("indexer", "index", str(tmp_path), str(tmp_path / "db"))
    assert "choose one" in call(*words, "--engine", "ray", "--part", "0/2").err
    assert "--engine ray" in call(*words, "--address", "nowhere:1").err
    assert not (tmp_path / "db").exists()


def start(database: Path, archive: Path, seconds: float) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.cluster.deadly", str(database), str(archive), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def until_rows(database: Path, rows: int, driver: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end and driver.poll() is None:
        with suppress(Exception):
            if EmbeddingStore.open(str(database)).count() >= rows:
                return
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_driver_that_is_killed_or_sleeps_past_its_lease_leaves_a_table_that_goes_on(
    tmp_path, archive, truth, monkeypatch, number
) -> None:
    monkeypatch.setenv("INDEXER_LEASE_SECONDS", "3")
    driver = start(tmp_path, archive, 0.3)
    try:
        until_rows(tmp_path, 6, driver)
        driver.send_signal(number)
        if number == signal.SIGSTOP:
            time.sleep(4)
            os.killpg(driver.pid, signal.SIGKILL)  # on one machine its lock holds while it sleeps
        driver.wait(60)
        threads(str(tmp_path), archive)
        assert contents(str(tmp_path)) == truth
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
