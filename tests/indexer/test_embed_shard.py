"""The work on one shard, without threads, engine or table, gives what a run stores."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tarfile
import time

import numpy as np
import psutil
import pytest

from indexer.archive.shards import find_shards
from indexer.pipeline.in_flight import Before
from indexer.pipeline.run import index
from indexer.pipeline.tally import Tally
from indexer.pipeline.worker import Embedder, embed_shard
from indexer.store.table import EmbeddingStore
from tests.archives import png, shard, write_tar
from tests.fakes import FakeEncoder


def work(path, **options):
    encoder = FakeEncoder(batch_size=4)
    embedder = Embedder(encoder, Tally(encoder.spec.dim))
    return [embed_shard(one, embedder, **options) for one in find_shards([str(path)]).shards]


def test_a_shard_worked_through_by_itself_equals_what_a_run_stores_bit_for_bit(tmp_path):
    path = shard(tmp_path / "s.tar", list(range(11)))
    (result,) = work(path)
    store = EmbeddingStore.create(str(tmp_path / "db"), "fake", FakeEncoder().spec)
    index(find_shards([str(path)]).shards, store, FakeEncoder())
    stored = EmbeddingStore.open(str(tmp_path / "db")).vectors(columns=["key", "n", "content"])
    (batch,) = result.batches
    assert [row.key for row in batch.rows] == stored.columns.column("key").to_pylist()
    assert [row.content for row in batch.rows] == stored.columns.column("content").to_pylist()
    np.testing.assert_array_equal(batch.vectors, stored.vectors)
    assert (result.samples, result.failures, result.partial, result.more) == (11, (), False, False)


def test_a_shard_worked_through_by_itself_names_its_failures_in_order_and_says_that_it_breaks_off(tmp_path):
    whole = write_tar(
        tmp_path / "w.tar", [("a.png", png(0)), ("b.png", b"\x89PNG no"), ("c.txt", b"x"), ("d.png", png(1))]
    )
    with tarfile.open(whole) as archive:
        inside = archive.getmember("d.png").offset_data + 10
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole.read_bytes()[:inside])
    failed = ["not an image", "no image in sample"]
    (result,) = work(whole)
    assert [row.key for row in result.batches[0].rows] == ["a", "d"]
    assert ([f.reason for f in result.failures], result.samples, result.partial) == (failed, 4, False)
    (result,) = work(cut)
    assert [row.key for row in result.batches[0].rows] == ["a"]
    # more of c might follow what is cut away, so it is not given
    assert [f.reason for f in result.failures] == ["not an image", "shard is cut or damaged"]
    assert (result.samples, result.partial) == (2, True)


def test_samples_that_are_stored_are_passed_over_without_decoding(tmp_path):
    path = shard(tmp_path / "s.tar", list(range(6)))
    (whole,) = work(path)
    first = {(row.place.member, row.place.offset) for row in whole.batches[0].rows[:4]}
    (rest,) = work(path, before=Before(stored=first))
    assert [row.key for row in rest.batches[0].rows] == ["im4", "im5"]
    assert rest.samples == 6


SCRIPT = """
import sys
from indexer.archive.shards import find_shards
from indexer.pipeline.run import index
from indexer.store.table import EmbeddingStore
from tests.fakes import FakeEncoder
store = EmbeddingStore.create(sys.argv[1], "fake", FakeEncoder().spec)
print(index(find_shards([sys.argv[2]]).shards, store, FakeEncoder()).interrupted)
"""


def alive(marker):
    """The processes of that command. A killed one is still listed until the kernel has ended it."""
    until = time.monotonic() + 60
    while (found := _listed(marker)) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def _listed(marker):
    return [p for p in psutil.process_iter(["cmdline"]) if marker in " ".join(p.info["cmdline"] or [])]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_children_of_a_hanging_pipe_end_with_the_run(tmp_path, request, stop):
    marker, ready = f"3{os.getpid()}.{stop:d}", tmp_path / "ready"  # a length of sleep that no other process has
    shard(tmp_path / "s.tar", [0, 1])
    address = f"pipe:touch {ready}; (sleep {marker}; echo) & sleep {marker}; cat {tmp_path}/s.tar"
    run = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "db"), address],
        cwd=request.config.rootpath,
        stdout=subprocess.PIPE,
    )
    try:
        while not ready.exists():
            assert run.poll() is None
            time.sleep(0.01)
        run.send_signal(stop)
        assert run.communicate(timeout=60)[0] == b"True\n"
        assert alive(f"sleep {marker}") == []
    finally:
        run.kill()
        for process in _listed(f"sleep {marker}"):
            process.kill()


def test_a_command_that_goes_on_after_its_archive_is_ended_and_one_that_fails_is_named(tmp_path):
    path = shard(tmp_path / "s.tar", [0, 1])
    marker = f"4{os.getpid()}"
    (good,) = work(f"pipe:cat {path}; exec >&-; sleep {marker}")
    assert (len(good.batches[0].rows), good.partial) == (2, False)
    assert alive(f"sleep {marker}") == []
    (bad,) = work(f"pipe:cat {path}; exit 7")
    assert bad.partial
    assert "exit code 7" in bad.failures[-1].detail
