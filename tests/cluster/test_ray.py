"""The engine of a Ray cluster: whichever actor dies, and whenever, the table is that of one undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from indexer.archive.shards import find_shards
from indexer.errors import EncoderError, StoreLocked
from indexer.pipeline.engines.ray_actors import DIED
from indexer.pipeline.run import index
from indexer.store.table import EmbeddingStore
from indexer.types import RunReport
from tests.archives import write_tar
from tests.cluster import namespaces
from tests.cluster.deadly import FATAL, Deadly, broken
from tests.cluster.driver import Call, driver, run, run_and_kill, run_and_stop
from tests.cluster.truth import contents, odd_archive
from tests.commands import call
from tests.fakes import AnyPlane, FakeEncoder
from tests.object_store import server

__all__ = ["server"]
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
def there() -> Iterator[Call]:
    with driver() as call_there:
        yield call_there


def deadly(folder: Path, when: str, times: int):
    folder.mkdir()
    return partial(Deadly, str(folder), when, times)


def settled(database: Path, archive: Path) -> dict:
    """Contents, after a second run where a shard was given up: by chance the deaths met it three times."""
    found = contents(str(database))
    if DIED in [row[3] for row in found["failures"]]:
        threads(str(database), archive)
        found = contents(str(database))
    return found


MOMENTS = {
    "before": "Ray: kill -9 of an actor while it reads",
    "after": "Ray: kill -9 of an actor after its rows are made",
    "never": "Ray: none",
}


@pytest.mark.parametrize(
    ("when", "times"),
    [
        ("after", 1),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in [("never", 0)] + 3 * [("before", 5), ("after", 5)]),
    ],
)
def test_a_run_by_actors_that_die_equals_a_run_by_threads_bit_for_bit(
    tmp_path, archive, truth, there, when, times, fault
) -> None:
    make, deaths = deadly(tmp_path / "deaths", when, times), tmp_path / "deaths"
    report, counts = there(run, tmp_path / "db", archive, make)
    assert len(list(deaths.glob("death-*"))) == times
    fault(MOMENTS[when], settled(tmp_path / "db", archive), truth, faults=times)
    assert report.reasons.get(DIED) or report.images == sum(row[4] + row[5] for row in truth["ledger"])
    assert 0 < max(now["workers"] for now in counts) <= 2
    again = threads(str(tmp_path / "db"), archive)
    assert (again.images, again.shards_skipped) == (0, len(truth["ledger"]))


@pytest.mark.slow
def test_actors_killed_while_the_driver_commits_lose_and_double_nothing(tmp_path, archive, truth, there, fault) -> None:
    kind, killed = "Ray: kill -9 of an actor while the driver commits", 0
    for trial in range(30):
        database, pids = tmp_path / f"db{trial}", tmp_path / f"deaths{trial}"
        now = there(run_and_kill, database, archive, deadly(pids, "never", 0), pids, trial)
        fault(kind, settled(database, archive), truth, faults=now)
        if (killed := killed + now) >= 12:
            return
    raise AssertionError(f"{killed} kills in 30 runs")


@pytest.mark.slow
@pytest.mark.parametrize("when", ["fatal", "memory"])
def test_a_shard_that_kills_its_workers_becomes_a_failure_and_is_read_again_by_the_next_run(
    tmp_path, there, when, fault
) -> None:
    archive = odd_archive(tmp_path, shards=2, images=3)
    white = tmp_path / "white.png"
    Image.fromarray(np.full((24, 24, 3), FATAL, np.uint8)).save(white)
    write_tar(archive / "fatal.tar", [("a.png", white.read_bytes())])
    report, _ = there(run, tmp_path / "db", archive, deadly(tmp_path / "deaths", when, 3))
    found = contents(str(tmp_path / "db"))
    died = [row for row in found["failures"] if row[3] == DIED]
    assert ([Path(row[0]).name for row in died], report.reasons[DIED]) == (["fatal.tar"], 1)
    assert "3 workers died" in died[0][4]
    threads(str(tmp_path / "db"), archive)
    threads(str(tmp_path / "truth"), archive)
    kind = "Ray: a worker runs out of memory" if when == "memory" else "Ray: a picture kills every worker"
    fault(kind, contents(str(tmp_path / "db")), contents(str(tmp_path / "truth")), faults=3)


def test_an_error_of_an_actor_is_the_error_of_the_run(tmp_path, archive, there) -> None:
    with pytest.raises(EncoderError, match=r"^no such weights here\. Name others with --weights\.$") as refused:
        there(run, tmp_path, archive, broken)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_a_run_that_is_stopped_keeps_what_was_settled_and_goes_on_later(tmp_path, archive, truth, there) -> None:
    report = there(run_and_stop, tmp_path, archive)
    assert report.interrupted
    assert 0 < report.embedded < len(truth["rows"])
    there(run, tmp_path, archive)
    assert contents(str(tmp_path)) == truth


def test_wrong_uses_are_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("indexer.encoders.load", lambda *_, **__: AnyPlane())
    words = ("indexer", "index", str(tmp_path), str(tmp_path / "db"))
    assert "choose one" in call(*words, "--engine", "ray", "--part", "0/2").err
    assert "--engine ray" in call(*words, "--address", "nowhere:1").err
    assert "without --engine ray" in call(*words, "--engine", "ray", "--processes", "2").err
    assert not (tmp_path / "db").exists()


def start(database: Path | str, archive: Path, seconds: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.cluster.deadly", str(database), str(archive), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)


def until_rows(database: Path | str, rows: int, driver: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end and driver.poll() is None:
        with suppress(Exception):
            if EmbeddingStore.open(str(database)).count() >= rows:
                return
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 6, 20])
def test_a_driver_that_is_killed_leaves_a_table_that_goes_on(tmp_path, archive, truth, rows, fault) -> None:
    driver = start(tmp_path, archive, 0.3)
    try:
        until_rows(tmp_path, rows, driver)
        driver.kill()
        driver.wait(60)
        threads(str(tmp_path), archive)
        fault("Ray: kill -9 of the driver", contents(str(tmp_path)), truth, runs=2)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)


def until_free(database: str, archive: Path) -> None:
    """Index as soon as the lease has run out."""
    while True:
        try:
            threads(database, archive)
            return
        except StoreLocked:
            time.sleep(0.5)


@pytest.mark.slow
def test_a_driver_asleep_past_its_lease_is_refused_when_it_goes_on(server, archive, truth, fault) -> None:
    database = server.fresh()
    driver = start(database, archive, 0.3)
    kind = "Ray: SIGSTOP of the driver past its lease"
    try:
        until_rows(database, 6, driver)
        driver.send_signal(signal.SIGSTOP)
        until_free(database, archive)
        driver.send_signal(signal.SIGCONT)
        with fault.unless_hung(kind):
            _, err = driver.communicate(timeout=240)
        assert "taken over by another writer" in err, err
        fault(kind, contents(database), truth, runs=2)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)


QUICK = {  # to notice a machine that is gone: Ray's own 5 looks, 3 seconds apart, and more
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
}


RAY = str(Path(sys.executable).with_name("ray"))


def with_token(home: Path) -> dict[str, str]:
    """The environment of the README's commands, in a new home, which holds the cluster's token."""
    environment = {**os.environ, **QUICK, "HOME": str(home), "RAY_AUTH_MODE": "token"}
    made = [RAY, "get-auth-token", "--generate"]
    subprocess.run(made, env=environment, check=True, capture_output=True, umask=0o077)
    return environment


@pytest.mark.slow
def test_a_cluster_with_a_token_takes_who_has_it_and_says_so_to_others(tmp_path, archive) -> None:
    environment, address = with_token(tmp_path), "127.0.0.1:6411"
    words = ["--head", "--node-ip-address", "127.0.0.1", "--port", "6411", "--include-dashboard", "false", "--block"]
    with TemporaryDirectory(prefix="ray-") as short, ExitStack() as stack:
        small = ["--num-cpus", "1", "--object-store-memory", str(100 << 20), "--temp-dir", short]
        head = subprocess.Popen(
            [RAY, "start", *words, *small], env=environment, start_new_session=True, stdout=subprocess.DEVNULL
        )
        stack.callback(_end_group, head)
        while subprocess.run([RAY, "status", "--address", address], env=environment, capture_output=True).returncode:
            assert head.poll() is None
            time.sleep(0.5)
        command = [sys.executable, "-m", "indexer", "index", str(archive), str(tmp_path / "db"), "--engine", "ray"]
        without = {name: value for name, value in environment.items() if name != "RAY_AUTH_MODE"}
        refused, taken = (
            subprocess.run(
                [*command, "--address", address], env=own, capture_output=True, text=True, timeout=300, check=False
            )
            for own in (without, environment)
        )
    assert refused.returncode == 1
    assert "set RAY_AUTH_MODE=token" in refused.stderr.splitlines()[-1]
    assert " images embedded" in taken.stdout, taken.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(bool(namespaces.missing()), reason=namespaces.missing() or "-")
@pytest.mark.parametrize("returns", [False, True])
def test_a_node_whose_cable_is_cut_costs_its_work_and_no_row(tmp_path, archive, truth, fault, returns) -> None:
    kind, port, environment = "Ray: the cable between two nodes is cut", "6400", with_token(tmp_path)
    with namespaces.two() as machines, ExitStack() as stack:

        def begin(machine: int, *words: str) -> subprocess.Popen[str]:
            process = machines.start(machine, *words, environment=environment)
            stack.callback(_end_group, process)
            return process

        address = f"{machines.addresses[0]}:{port}"
        short = stack.enter_context(TemporaryDirectory(prefix="ray-"))  # a socket's path has at most 107 characters
        one = ["--num-cpus", "1", "--object-store-memory", str(100 << 20), "--block", "--disable-usage-stats"]
        own = ["--node-ip-address", machines.addresses[0], "--port", port, "--include-dashboard", "false"]
        begin(0, RAY, "start", "--head", *own, *one, "--temp-dir", short)
        machines.until_listening(0, address)
        second = begin(1, RAY, "start", "--address", address, "--node-ip-address", machines.addresses[1], *one)
        while machines.run(0, RAY, "status", "--address", address, environment=environment).count(" node_") < 2:
            assert second.poll() is None, second.communicate()[1][-3000:]
            time.sleep(0.5)
        database = tmp_path / "db"
        words = [sys.executable, "-m", "tests.cluster.deadly", str(database), str(archive), "0.5", address]
        driver = begin(0, *words)
        until_rows(database, 12, driver)
        machines.cut()
        if returns:
            time.sleep(1.5)
            machines.join()
        with fault.unless_hung(kind):
            _, err = driver.communicate(timeout=400)
        assert driver.returncode == 0, err[-3000:]
        fault(kind, settled(database, archive), truth)


def _end_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
