"""Remote shards are read ahead, in order, into bounded memory, and a hanging one does not hold up a stop."""

from __future__ import annotations

import functools
import http.server
import threading
import time
from collections import deque
from dataclasses import replace
from itertools import chain

import pytest

from indexer.archive.reader import read_shard
from indexer.archive.shards import find_shards
from indexer.errors import CutShard
from indexer.memory.budget import Admission, Budget
from indexer.pipeline import prefetch as ahead
from indexer.pipeline.in_flight import StopRun
from indexer.pipeline.prefetch import ReadAhead
from indexer.pipeline.run import index
from indexer.store.table import EmbeddingStore
from indexer.types import Sample, Shard
from tests.archives import archive
from tests.fakes import FakeEncoder


def remote(number):
    return Shard(f"pipe:shard {number}", f"{number}", "1")


def sample(shard, number, nbytes=8):
    return Sample(shard.name, f"{shard.name}/{number}", "jpg", bytes(nbytes), 0, nbytes)


def streams(shards, read, stop=None):
    with ReadAhead(deque(shards), read, stop or threading.Event(), Admission(Budget(1 << 40)), lambda: None) as ahead:
        for shard in shards:
            yield shard, ahead.stream(shard)


def test_the_next_shards_are_opened_while_the_first_one_is_still_read():
    opened = [threading.Event() for _ in range(8)]

    def read(shard):
        number = int(shard.name)
        opened[number].set()
        if number == 0:
            for later in opened[1 : ahead.SHARDS]:
                assert later.wait(600)  # would never come if shards were opened one after the other
        yield sample(shard, 0)

    shards = [remote(i) for i in range(8)]
    got = [item.key for _, stream in streams(shards, read) for item in stream]
    assert got == [f"{i}/0" for i in range(8)]


def test_no_more_than_a_few_are_open_and_what_they_hold_is_bounded(monkeypatch):
    monkeypatch.setattr(ahead, "SHARD_BYTES", 1000)
    given, lock = {}, threading.Lock()

    def read(shard):
        for number in range(50):
            with lock:
                given[shard.name] = number + 1
            yield sample(shard, number, 100)

    shards = [remote(i) for i in range(9)]
    taken = 0
    for shard, stream in streams(shards, read):
        for _ in stream:
            taken += 1
            with lock:
                waiting = {name: n for name, n in given.items() if name > shard.name}
            assert len(waiting) < ahead.SHARDS
            assert all(n <= 11 for n in waiting.values())  # ten lie there, one is in the reader's hand
    assert taken == 9 * 50


def test_local_shards_in_between_are_read_directly_and_the_order_is_kept():
    readers = {}

    def read(shard):
        readers[shard.name] = threading.current_thread()
        yield sample(shard, 0)

    shards = [replace(remote(i), url=f"/local/{i}.tar") if i % 2 else remote(i) for i in range(9)]
    got = [item.shard for _, stream in streams(shards, read) for item in stream]
    assert got == [f"{i}" for i in range(9)]
    assert {name for name, thread in readers.items() if thread is threading.current_thread()} == {"1", "3", "5", "7"}


def test_what_came_before_an_error_is_given_first_and_the_other_shards_are_not_touched():
    def read(shard):
        yield sample(shard, 0)
        if shard.name == "1":
            raise CutShard("1 breaks off")

    got = []
    for shard, stream in streams([remote(i) for i in range(3)], read):
        if shard.name == "1":
            with pytest.raises(CutShard, match="breaks off"):
                take(stream, got)
        else:
            take(stream, got)
    assert got == ["0/0", "1/0", "2/0"]


def take(stream, into):
    for item in stream:
        into.append(item.key)


def test_a_stop_ends_the_wait_for_a_shard_that_hangs(monkeypatch):
    monkeypatch.setattr(ahead, "CLOSE_SECONDS", 0.01)
    stop, never = threading.Event(), threading.Event()

    def read(shard):
        never.wait()
        yield sample(shard, 0)

    threading.Timer(0.05, stop.set).start()
    try:
        with pytest.raises(StopRun):
            list(chain.from_iterable(stream for _, stream in streams([remote(i) for i in range(3)], read, stop)))
    finally:
        never.set()


def test_a_run_over_http_stores_what_a_run_over_the_files_stores(tmp_path):
    source = archive(tmp_path, shards=6)
    handler = functools.partial(SilentHandler, directory=str(source))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        found = find_shards([f"http://127.0.0.1:{server.server_port}/{{000..005}}.tar"]).shards
        store = EmbeddingStore.create(str(tmp_path / "db"), "t", FakeEncoder().spec)
        report = index(found, store, FakeEncoder())
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert (report.embedded, report.failed, report.shards_done) == (60, 0, 6)
    keys = [s.key for shard in find_shards([str(source)]).shards for s in read_shard(shard)]
    assert store.vectors(columns=["key"]).columns.column("key").to_pylist() == keys


class SilentHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        time.sleep(0.01)  # every answer is a little late, so that several are on their way at once
