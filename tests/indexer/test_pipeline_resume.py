"""One large shard: committed in parts, and gone on with where a stop or a kill left it."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from indexer.archive.shards import find_shards
from indexer.errors import StoreNotFound
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import Hooks, index
from indexer.store.table import EmbeddingStore
from tests.archives import picture, png, write_tar
from tests.fakes import FakeEncoder
from tests.progress import Recorder

IMAGES, PART = 240, 40


def gif(seed):
    frames, buffer = [Image.fromarray(picture(100 * seed + i)) for i in range(3)], io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path):
    """One tar: 240 images, of which every tenth is damaged, and every seventh has three frames."""

    def member(i):
        if i % 10 == 3:
            return f"im{i:03d}.png", b"\x89PNG\r\n\x1a\nno"
        return (f"im{i:03d}.gif", gif(i)) if i % 7 == 0 else (f"im{i:03d}.png", png(i))

    return write_tar(tmp_path / "s.tar", [member(i) for i in range(IMAGES)])


def run(archive, db, encoder=None, *, part=PART, hooks=None):
    encoder = encoder or FakeEncoder()
    store = EmbeddingStore.create(str(db), "t", encoder.spec)
    return index(find_shards([str(archive)]).shards, store, encoder, RunOptions(commit_rows=part), hooks)


def content(db):
    """Everything that an undisturbed run must equal: rows with their vectors, failures, the ledger's counts."""
    store = EmbeddingStore.open(str(db))
    read = store.vectors(columns=["key", "part", "offset", "content", "norm"])
    rows = {
        row["key"]: (row, vector.tobytes()) for row, vector in zip(read.columns.to_pylist(), read.vectors, strict=True)
    }
    assert len(rows) == len(read.vectors)
    failures = sorted((f["key"], f["reason"], f["offset"]) for f in store.failures().to_pylist())
    counts = ("status", "samples", "embedded", "failed")
    ledger = [tuple(entry[name] for name in counts) for entry in store.ledger().to_pylist()]
    return rows, failures, ledger


@pytest.mark.case("U8")
def test_a_large_shard_is_committed_in_parts_and_equals_one_commit(archive, tmp_path):
    seen = []
    hooks = Hooks(Recorder(lambda _: seen.append(EmbeddingStore.open(str(tmp_path / "parts")).count())))

    def slow(vectors):  # on a quick machine the whole shard would be embedded during the first commit
        time.sleep(0.02)
        return vectors

    report = run(archive, tmp_path / "parts", FakeEncoder(change=slow), hooks=hooks)
    assert len(set(seen)) > 2  # it grows while the one shard is read
    run(archive, tmp_path / "whole", part=10_000)
    assert content(tmp_path / "parts") == content(tmp_path / "whole")
    rows, failures, ledger = content(tmp_path / "parts")
    assert ledger == [("done", IMAGES, len(rows), len(failures))]
    assert (report.embedded, report.failed, report.shards_done) == (len(rows), len(failures), 1)
    again = FakeEncoder()
    assert run(archive, tmp_path / "parts", again).shards_skipped == 1
    assert again.pictures == 0


SCRIPT = """
import sys, time
from pathlib import Path
from indexer.archive.shards import find_shards
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run import Hooks, index
from indexer.store.table import EmbeddingStore
from tests.fakes import FakeEncoder

def slow(vectors):  # until the stop was sent, most of the shard is not embedded yet
    until = time.monotonic() + 100
    while encoder.pictures > 3 * int(sys.argv[3]) and not Path(sys.argv[4]).exists() and time.monotonic() < until:
        time.sleep(0.01)
    return vectors

encoder = FakeEncoder(change=slow)
store = EmbeddingStore.create(sys.argv[1], "t", encoder.spec)
report = index(find_shards([sys.argv[2]]).shards, store, encoder, RunOptions(commit_rows=int(sys.argv[3])))
print(report.interrupted, report.embedded)
"""


def rows_so_far(db) -> int:
    try:
        return EmbeddingStore.open(str(db), "t").count() if (db / "t.lance").exists() else 0
    except StoreNotFound:  # it is just being made
        return 0


@pytest.mark.case("U8")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_a_shard_goes_on_where_a_stop_left_it_and_nothing_is_embedded_twice(archive, tmp_path, request, stop):
    run(archive, tmp_path / "whole")
    db, sent = tmp_path / "db", tmp_path / "sent"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(db), str(archive), str(PART), str(sent)],
        cwd=request.config.rootpath,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        while process.poll() is None and rows_so_far(db) < PART:
            time.sleep(0.01)
        process.send_signal(stop)
        sent.touch()
        out, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    stored = EmbeddingStore.open(str(db))
    before = stored.count()
    assert 0 < before < len(content(tmp_path / "whole")[0])
    assert stored.ledger().column("status").to_pylist() == ["begun"]
    if stop == signal.SIGTERM:
        assert out.split() == ["True", str(before)]
    encoder = FakeEncoder()
    report = run(archive, db, encoder)
    assert content(db) == content(tmp_path / "whole")
    assert report.embedded == len(content(db)[0]) - before
    assert encoder.pictures < report.embedded + 3 * encoder.batch_size  # padding of short batches apart
    assert any("were stored already" in warning for warning in report.warnings)


def test_a_shard_that_changed_after_it_was_begun_is_done_again_from_its_new_content(archive, tmp_path):
    class Stopped(Exception):
        pass

    def stop(counts):
        if counts["images"] >= 3 * PART:
            raise Stopped

    with pytest.raises(Stopped):
        run(archive, tmp_path / "db", hooks=Hooks(Recorder(stop)))
    store = EmbeddingStore.open(str(tmp_path / "db"))
    assert store.ledger().column("status").to_pylist() == ["begun"]
    write_tar(archive, [(f"im{i:03d}.png", png(1000 + i)) for i in range(50)])
    report = run(archive, tmp_path / "db")
    rows, failures, ledger = content(tmp_path / "db")
    assert (len(rows), failures, ledger) == (50, [], [("done", 50, 50, 0)])
    assert report.shards_done == 1
    run(archive, tmp_path / "fresh")
    assert content(tmp_path / "fresh") == (rows, failures, ledger)
