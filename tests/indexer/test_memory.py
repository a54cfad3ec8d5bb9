"""Memory is bounded by what is in hand, not by the archive (50,000 rows by a fake encoder)."""

from __future__ import annotations

import platform
import subprocess
import sys
import tracemalloc

import pytest

from indexer.archive.shards import find_shards
from indexer.pipeline.run import index
from indexer.store.table import EmbeddingStore
from tests.archives import png, write_tar
from tests.fakes import FakeEncoder

SCRIPT = """
import os
import sys
import threading
if hasattr(os, "sched_setaffinity"):  # libraries start threads by the number of cores, and each holds memory
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
import numpy as np
import psutil
import indexer.pipeline.engines.threads as engine
import indexer.pipeline.worker as worker
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import Hooks, index
from indexer.store.table import EmbeddingStore
from indexer.types import Part, Picture, Sample, Shard
from tests.fakes import FakeEncoder
from tests.progress import Recorder

SHARDS, IMAGES = 100, 500

def read(shard):
    first = int(shard.name) * IMAGES
    for i in range(first, first + IMAGES):
        yield Sample(shard.name, f"im{i}", "raw", i.to_bytes(8, "little") * 64, 512 * i, 512, {"n": i}, f"im{i}.raw")

def decode_missing(data, suffix, spec, *, frames, stored, **_):
    rng = np.random.default_rng(int.from_bytes(data[:8], "little"))
    yield Picture(Part(""), rng.integers(0, 256, (spec.size, spec.size, 3), np.uint8))

engine.read_shard, worker.decode_missing = read, decode_missing
import indexer.pipeline.run as run
run.read_shard = read
encoder = FakeEncoder(dim=2048, batch_size=128)
store = EmbeddingStore.create(sys.argv[1], "t", encoder.spec)
process, sizes, seen, ended = psutil.Process(), {}, [0], threading.Event()

def watch():
    while not ended.wait(0.01):
        sizes[seen[0] // 2500] = max(sizes.get(seen[0] // 2500, 0), process.memory_info().rss)

watching = threading.Thread(target=watch)
watching.start()
hook = lambda counts: seen.insert(0, counts["images"])
shards = [Shard(str(i), str(i), "1") for i in range(SHARDS)]
report = index(shards, store, encoder, RunOptions(), Hooks(Recorder(hook)))
ended.set()
watching.join()
marks = sorted(sizes)
early = max(sizes[m] for m in marks if m <= 8)
late = max(sizes[m] for m in marks if m >= 14)
print(report.embedded, store.count(), store.fragments(), early, late)
"""


def test_fifty_thousand_rows_take_no_more_memory_than_twenty_thousand(tmp_path, request):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "db")],
        capture_output=True, text=True, check=True, cwd=request.config.rootpath,
    )  # fmt: skip
    embedded, count, fragments, early, late = map(int, done.stdout.split())
    assert (embedded, count) == (50_000, 50_000)
    assert fragments < 100
    # 30,000 rows of 2048 numbers more would be 123 MB in float16 alone
    assert late < early + 60e6


def test_a_batch_of_large_files_does_not_keep_their_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("indexer.pipeline.engines.threads.CHUNK_BYTES", 1 << 20)
    small = find_shards([str(write_tar(tmp_path / "first.tar", [("first.png", png(99))]))]).shards
    large = [(f"{i}.png", png(i) + bytes(1 << 20)) for i in range(60)]
    source = find_shards([str(write_tar(tmp_path / "s.tar", large))]).shards
    encoder = FakeEncoder(batch_size=64, workers=1)
    store = EmbeddingStore.create(str(tmp_path / "db"), "t", encoder.spec)
    index(small, store, encoder)  # whatever is imported on the way
    del large
    tracemalloc.start()
    try:
        report = index(source, store, encoder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.embedded == 60
    assert peak < 30e6


FAULTS = """
import resource
import numpy as np
from indexer.malloc import keep_freed_memory

def pages(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        np.ones((1024, 1024, 3), np.uint8)  # a decoded picture, used and freed
        np.ones(12 << 20, np.uint8)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / rounds

keep_freed_memory()
pages(3)
print(pages(100))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_memory_that_a_picture_has_freed_is_not_fetched_from_the_system_again():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 10  # 3,800 where each array is mapped anew


GROWN = """
import numpy as np
from indexer.memory.huge_pages import collapse, grown

ranges, later = [], []
with grown(ranges):
    parts = [np.arange(19_000, dtype=np.int32) + i for i in range(1000)]  # 76 KB each, from the heap
assert sum(stop - start for start, stop in ranges) >= 76e6
assert any(start <= parts[500].ctypes.data < stop for start, stop in ranges)
collapse([*ranges, (1 << 40, 1 << 41)])  # the last one is no memory of this process
assert all((part == np.arange(19_000) + i).all() for i, part in enumerate(parts))
with grown(later):
    pass
assert sum(stop - start for start, stop in later) < 1e6
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the advice is Linux's")
def test_memory_that_a_library_took_is_put_onto_huge_pages_and_keeps_its_content():
    subprocess.run([sys.executable, "-c", GROWN], check=True)
