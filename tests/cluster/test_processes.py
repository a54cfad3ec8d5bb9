"""Processes that decode for their parent's encoder: whatever happens to one, the table is that of a run by threads."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from indexer.archive.shards import find_shards
from indexer.encoders import load
from indexer.errors import EncoderError
from indexer.pipeline.drive import Hooks
from indexer.pipeline.engines import processes
from indexer.pipeline.engines.processes import Processes, processes_for
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import index, index_by
from indexer.pixels.isolated import Turn
from indexer.store.table import EmbeddingStore
from indexer.types import RunReport
from tests.archives import png, write_tar
from tests.cluster.truth import contents, odd_archive
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.progress import Recorder

OPTIONS = RunOptions(commit_rows=6, workers=2)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_archive(tmp_path_factory.mktemp("archive"), shards=4, images=14)


@pytest.fixture(scope="module")
def truth(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    database = tmp_path_factory.mktemp("truth")
    run(database, archive, processes=1)
    return contents(str(database))


def run(
    database: Path, archive: Path, *, processes: int = 2, hooks: Hooks | None = None, encoder=None, **options
) -> RunReport:
    encoder = encoder or FakeEncoder()
    store = EmbeddingStore.create(str(database), "fake", encoder.spec)
    chosen = RunOptions(commit_rows=6, workers=2, processes=processes, **options)
    return index(find_shards([str(archive)]).shards, store, encoder, chosen, hooks)


def children(parent: psutil.Process | None = None) -> list[psutil.Process]:
    """The processes that decode."""
    found = []
    for process in (parent or psutil.Process()).children():
        try:
            found += [process] if "indexer.pipeline.engines.child" in process.cmdline() else []
        except psutil.Error:
            continue
    return found


class Slow(FakeEncoder):
    """Takes its time, so that something can happen in a run."""

    def embed(self, pictures):
        time.sleep(0.2)
        return super().embed(pictures)


def test_a_run_by_processes_equals_a_run_by_threads_bit_for_bit(tmp_path, archive, truth) -> None:
    encoder, seen = FakeEncoder(), list[int]()
    report = run(tmp_path, archive, encoder=encoder, hooks=Hooks(Recorder(lambda _: seen.append(len(children())))))
    assert contents(str(tmp_path)) == truth
    assert max(seen) == 2
    assert children() == []
    assert report.images == sum(row[4] + row[5] for row in truth["ledger"])
    threads = {stage.name: stage.threads for stage in report.stages}
    assert (threads["read"], threads["decode"]) == (2, 2)  # of two workers one for each process
    assert encoder.pictures % encoder.batch_size == 0  # every batch of every process was whole
    again = run(tmp_path, archive)
    assert (again.images, again.shards_skipped) == (0, len(truth["ledger"]))


@pytest.mark.parametrize(("processes", "started"), [(3, 2), (5, 0)])
def test_few_shards_get_few_processes_and_very_few_none(tmp_path, processes, started) -> None:
    for shard in range(2):
        write_tar(tmp_path / f"{shard}.tar", [(f"{shard}-{i}.png", png(10 * shard + i)) for i in range(5)])
    seen: list[int] = []
    hooks = Hooks(Recorder(lambda _: seen.append(len(children()))))
    run(tmp_path / "db", tmp_path, processes=processes, hooks=hooks)
    assert seen
    assert max(seen) == started
    run(tmp_path / "whole", tmp_path, processes=1)
    assert contents(str(tmp_path / "db")) == contents(str(tmp_path / "whole"))


def test_a_run_that_is_stopped_keeps_what_was_settled_and_goes_on_later(tmp_path, archive, truth) -> None:
    encoder = Slow()
    store = EmbeddingStore.create(str(tmp_path), "fake", encoder.spec)
    engine = Processes(encoder, 2, OPTIONS)

    def stop(now: dict[str, int]) -> None:
        if now["images"] >= 6:
            engine.stop.set()

    report = index_by(engine, find_shards([str(archive)]).shards, store, OPTIONS, Hooks(Recorder(stop)))
    assert 0 < report.embedded < len(truth["rows"])
    assert children() == []
    run(tmp_path, archive)
    assert contents(str(tmp_path)) == truth


def test_a_process_that_is_killed_ends_the_run_in_one_line_and_the_next_run_goes_on(tmp_path, archive, truth) -> None:
    def kill(now: dict[str, int]) -> None:
        if now["images"] >= 6 and (alive := children()):
            alive[0].kill()

    with pytest.raises(EncoderError, match=r"has ended by itself \(SIGKILL\).*run the same command again") as died:
        run(tmp_path, archive, encoder=Slow(), hooks=Hooks(Recorder(kill)))
    assert "\n" not in str(died.value)
    assert children() == []
    run(tmp_path, archive, processes=1)
    assert contents(str(tmp_path)) == truth


def test_a_signal_to_every_process_is_left_to_the_parent(tmp_path, archive, truth) -> None:
    """As schedulers send SIGTERM to all processes of a job."""
    told = []

    def terminate(now: dict[str, int]) -> None:
        if now["images"] >= 6 and not told:
            told.extend(child.send_signal(signal.SIGTERM) for child in children())

    run(tmp_path, archive, encoder=Slow(), hooks=Hooks(Recorder(terminate)))
    assert len(told) == 2
    assert contents(str(tmp_path)) == truth


def test_a_signal_to_processes_that_start_is_left_to_the_parent(tmp_path, archive, truth, monkeypatch) -> None:
    start, told = subprocess.Popen, []

    def told_at_once(*given, **named):
        process = start(*given, **named)
        told.append(process.send_signal(signal.SIGTERM))
        return process

    monkeypatch.setattr(subprocess, "Popen", told_at_once)
    run(tmp_path, archive)
    assert len(told) >= 2
    assert contents(str(tmp_path)) == truth


def test_processes_that_cannot_start_are_an_error_with_the_way_out_and_leave_nothing_open(
    tmp_path, archive, monkeypatch
) -> None:
    start, started = subprocess.Popen, []

    def full(*given, **named):
        if len(started) == 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        started.append(start(*given, **named))
        return started[-1]

    def shared() -> list[str]:
        found = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        return [name for name in found if "indexer-batches" in name or name.startswith("socket:")]

    run(tmp_path / "first", archive)  # libraries open sockets of their own once
    before = shared()
    monkeypatch.setattr(subprocess, "Popen", full)
    with pytest.raises(EncoderError, match=r"2 of 3 were \(Too many open files\).*--processes") as failed:
        run(tmp_path, archive, processes=3)
    assert "\n" not in str(failed.value)
    del failed  # its frames hold what they made
    gc.collect()
    assert children() == []
    assert not Counter(shared()) - Counter(before)  # others, of tests before this one, may be closed meanwhile


def test_many_processes_get_the_descriptors_that_they_take(monkeypatch) -> None:
    given = []
    monkeypatch.setattr("resource.getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr("resource.setrlimit", lambda _, limits: given.append(limits))
    for descriptors in (840, 840_000):
        processes._make_room(descriptors)
    assert given == [(1024 + 840, 4096), (4096, 4096)]


def test_no_process_gets_a_second_shard_before_each_has_one(tmp_path, archive, monkeypatch) -> None:
    given, give = [], processes._give
    monkeypatch.setattr(processes, "_give", lambda child, *rest: (given.append(id(child)), give(child, *rest)))
    run(tmp_path, archive, processes=3)
    assert len(given) == 6
    assert len(set(given[:3])) == 3


def test_a_folder_goes_to_a_process_with_the_names_of_its_files(tmp_path) -> None:
    for i in range(20):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    shards = find_shards([str(tmp_path)]).shards
    wanted = sorted(f"{i}.png" for i in range(20))
    sent = [pickle.loads(pickle.dumps(shard.files.in_hand())) for shard in shards]
    (tmp_path / "20.png").write_bytes(png(20))  # of which the shards' identities know nothing
    assert sorted(name for files in sent for name in files) == wanted
    (tmp_path / "20.png").unlink()
    run(tmp_path / "db", tmp_path)
    run(tmp_path / "whole", tmp_path, processes=1)
    assert contents(str(tmp_path / "db")) == contents(str(tmp_path / "whole"))


def test_processes_decode_their_large_images_one_after_the_other(tmp_path) -> None:
    shared = tmp_path / "turn"
    shared.touch()
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('has it', flush=True); sys.stdin.read()"
    )
    with (
        shared.open("r+") as file,
        subprocess.Popen(
            [sys.executable, "-c", code, str(shared)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as other,
    ):  # fmt: skip
        turn = Turn()
        assert turn.acquire(1)
        assert not turn.acquire(0.1)  # of this process
        turn.release()
        turn.share(file.fileno())
        other.stdout.readline()
        assert not turn.acquire(0.3)
        other.communicate()
        assert turn.acquire(60)
        turn.release()
        assert turn.acquire(1)


def test_an_error_of_the_encoder_is_the_error_of_the_run(tmp_path, archive) -> None:
    class Broken(FakeEncoder):
        def embed(self, pictures):  # noqa: ARG002 - the protocol's
            raise EncoderError("the GPU has fallen off the bus.")

    with pytest.raises(EncoderError, match=r"^the GPU has fallen off the bus\.$"):
        run(tmp_path, archive, encoder=Broken())
    assert children() == []


def test_images_of_a_changed_shard_keep_their_vectors(tmp_path) -> None:
    for shard in range(3):
        write_tar(tmp_path / f"{shard}.tar", [(f"{shard}-{i}.png", png(10 * shard + i)) for i in range(5)])
    run(tmp_path / "db", tmp_path, processes=1)
    for shard in range(3):  # one image more in each
        write_tar(tmp_path / f"{shard}.tar", [(f"{shard}-{i}.png", png(10 * shard + i)) for i in range(6)])
    encoder = FakeEncoder()
    report = run(tmp_path / "db", tmp_path, encoder=encoder, changed="replace")
    assert (report.embedded, report.reused) == (18, 15)
    run(tmp_path / "whole", tmp_path, processes=1)
    assert contents(str(tmp_path / "db"))["rows"] == contents(str(tmp_path / "whole"))["rows"]


def test_many_small_shards_share_their_batches(tmp_path) -> None:
    for shard in range(40):
        write_tar(tmp_path / f"{shard:02d}.tar", [(f"{shard}-{i}.png", png(10 * shard + i)) for i in range(2)])
    encoder = FakeEncoder(batch_size=8)
    run(tmp_path / "db", tmp_path, encoder=encoder)
    assert encoder.calls <= 20  # of 10 that would do; 40, were a batch closed with its shard
    run(tmp_path / "whole", tmp_path, processes=1)
    assert contents(str(tmp_path / "db")) == contents(str(tmp_path / "whole"))


def test_processes_end_with_their_parent(tmp_path, archive) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from tests.cluster import test_processes as t\n"
        "class Still(t.FakeEncoder):\n"
        "    def embed(self, pictures): time.sleep(600)\n"
        "t.run(Path(sys.argv[1]), Path(sys.argv[2]), encoder=Still())\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(archive)]) as parent:
        try:
            found: list[psutil.Process] = []
            while len(found) < 2 and parent.poll() is None:
                time.sleep(0.1)
                found = children(psutil.Process(parent.pid))
        finally:
            parent.kill()
    _, alive = psutil.wait_procs(found, timeout=60)
    assert (len(found), alive) == (2, [])


def test_the_command_takes_their_number_and_ctrl_c(tmp_path, archive) -> None:
    words = [sys.executable, "-m", "indexer", "index", str(archive), str(tmp_path / "db")]
    words += ["--encoder", "timm:test_vit", "--weights", "random", "--processes", "2"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while len(children(psutil.Process(process.pid))) < 2 and process.poll() is None:
            time.sleep(0.05)
        found = children(psutil.Process(process.pid))
        for child in found:
            child.suspend()  # else the run may be done before the signal
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        for child in found:
            child.resume()
        _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    done = call(*words[2:-1], "1")
    assert done.code == 1, done.err  # three images of the archive cannot be decoded
    alone = [*words[2:5], str(tmp_path / "alone"), *words[6:-2], "--processes", "1"]
    assert call(*alone).code == 1
    one, other = (contents(str(tmp_path / name)) for name in ("db", "alone"))
    assert one["rows"] == other["rows"]


def test_only_a_gpu_with_cores_beside_it_gets_them_unasked(monkeypatch) -> None:
    encoder = load("timm:test_vit", weights="random", device="cpu")
    assert [processes_for(encoder, asked) for asked in (None, 1, 2)] == [0, 0, 2]

    class OnGpu(FakeEncoder):
        device = "cuda:0"

    for cores, wanted in [(2, 0), (4, 3), (16, 12)]:
        monkeypatch.setattr("indexer.pipeline.engines.processes.cores", lambda cores=cores: cores)
        monkeypatch.setattr("indexer.pipeline.engines.processes.machine_bytes", lambda: 128 << 30)
        assert processes_for(OnGpu(), None) == wanted
    monkeypatch.setattr("indexer.pipeline.engines.processes.machine_bytes", lambda: 16 << 30)
    assert processes_for(OnGpu(), None) == 5


def test_an_error_that_no_other_process_could_make_is_told_in_its_words(tmp_path, archive) -> None:
    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} of {two}")
            self.lock = threading.Lock()

    class Broken(FakeEncoder):
        def embed(self, pictures):  # noqa: ARG002 - the protocol's
            raise Odd(1, 2)

    with pytest.raises(EncoderError, match=r"^Odd: 1 of 2$"):
        run(tmp_path, archive, encoder=Broken())
