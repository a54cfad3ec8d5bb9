"""What long calls report: stages that reach their totals, in steps that an independent count of the work confirms."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import indexer.pipeline.worker as worker
from indexer.ann.goal import Goal
from indexer.archive.shards import find_shards
from indexer.duplicates.find import find_near_duplicates
from indexer.duplicates.options import NearOptions
from indexer.errors import InputError
from indexer.pack.run import PackOptions, pack
from indexer.pipeline.options import RunOptions
from indexer.pipeline.retry import retry
from indexer.pipeline.run import Hooks, index
from indexer.search.batch import search_shards
from indexer.search.index_build import build_index, refresh_index
from indexer.search.options import SearchOptions
from indexer.search.searcher import Searcher
from indexer.store.table import EmbeddingStore
from tests.archives import archive, png, write_tar
from tests.commands import call
from tests.decoding import decode_by
from tests.fakes import FakeEncoder
from tests.progress import Recorder
from tests.tables import add_shard, make_table, unit_rows

NO_PICTURE = b"\x89PNG\r\n\x1a\nno"


def embedded(sources, db, recorder, *, encoder=None, **options):
    encoder = encoder or FakeEncoder()
    store = EmbeddingStore.create(str(db), "t", encoder.spec)
    shards = find_shards([str(source) for source in sources]).shards
    return index(shards, store, encoder, RunOptions(**options), Hooks(recorder))


def members(n):
    """`n` images, every fifth of them damaged, all larger than their tar headers."""
    return [(f"im{i:03d}.png", NO_PICTURE + bytes(9000) if i % 5 == 4 else png(i, 64)) for i in range(n)]


@pytest.mark.case("U8")
def test_one_large_shard_moves_the_bar_by_the_bytes_of_its_images_and_ends_at_its_size(tmp_path):
    path, first = write_tar(tmp_path / "s.tar", members(60)), {}

    def slow(vectors):  # the third batch and those after it wait until the first images were reported
        if encoder.calls > 2:
            assert reported.wait(60)
        return vectors

    def watch(counts):
        if counts["images"] and recorder.stages[0].done:
            first.setdefault("images", counts["images"])
            reported.set()

    reported, encoder, recorder = threading.Event(), FakeEncoder(change=slow), Recorder(watch)
    report = embedded([path], tmp_path / "db", recorder, encoder=encoder)
    (stage,) = recorder.stages
    assert first["images"] < 60
    assert stage.total == stage.done == path.stat().st_size
    assert sum(step > 0 for step in stage.steps) > 1
    assert min(stage.steps) >= 0
    assert stage.counts[-1] == {"shards": 1, "images": 60, "failed": 12}
    assert (report.images, report.failed) == (60, 12)


def test_a_folder_of_images_is_as_long_as_its_files(tmp_path):
    folder, recorder = tmp_path / "images", Recorder()
    folder.mkdir()
    for name, data in members(30):
        (folder / name).write_bytes(data)
    (folder / "im000.json").write_text('{"n": 1}')
    embedded([folder], tmp_path / "db", recorder)
    (stage,) = recorder.stages
    assert stage.total == stage.done == sum(path.stat().st_size for path in folder.glob("*.png"))


@pytest.mark.parametrize(("shards", "total"), [(1, None), (3, 3)])
def test_shards_of_unknown_size_are_counted_and_their_images_too(tmp_path, shards, total):
    paths = [write_tar(tmp_path / f"{i}.tar.gz", members(10), "w:gz") for i in range(shards)]
    recorder = Recorder()
    embedded(paths, tmp_path / "db", recorder)
    (stage,) = recorder.stages
    assert stage.total == total
    assert stage.done == shards
    assert stage.counts[-1] == {"shards": shards, "images": 10 * shards, "failed": 2 * shards}


def test_a_compressed_shard_under_a_plain_name_never_moves_the_bar_past_its_size(tmp_path):
    paths = [write_tar(tmp_path / "a.tar", [(f"{i}.bmp", bytes(100_000)) for i in range(30)], "w:gz")]
    paths.append(write_tar(tmp_path / "b.tar", members(10)))
    recorder = Recorder()
    embedded(paths, tmp_path / "db", recorder, max_failures=1.0)
    (stage,) = recorder.stages
    assert stage.total == stage.done == sum(path.stat().st_size for path in paths)
    assert max(np.cumsum(stage.steps)) <= stage.total


def test_cut_shards_and_shards_that_a_stopped_run_had_begun_reach_their_sizes_too(tmp_path):
    whole = write_tar(tmp_path / "a.tar", members(60))
    cut = tmp_path / "b.tar"
    cut.write_bytes(write_tar(tmp_path / "c.tar", members(20)).read_bytes()[:30_000])
    (tmp_path / "c.tar").unlink()

    class Stopped(Exception):
        pass

    def stop(counts):
        if counts["images"] >= 20:
            raise Stopped

    def slow(vectors):
        turn.wait(0.05)
        return vectors

    turn, recorder = threading.Event(), Recorder()
    with pytest.raises(Stopped):
        embedded([whole, cut], tmp_path / "db", Recorder(stop), encoder=FakeEncoder(change=slow), commit_rows=8)
    store = EmbeddingStore.open(str(tmp_path / "db"))
    assert store.ledger().column("status").to_pylist() == ["begun"]
    report = embedded([whole, cut], tmp_path / "db", recorder)
    assert any("were stored already" in warning for warning in report.warnings)
    (stage,) = recorder.stages
    assert stage.total == stage.done == whole.stat().st_size + cut.stat().st_size
    again = Recorder()
    retry(store, FakeEncoder(), None, Hooks(again), roots=[str(tmp_path)])
    assert again.stages[0].total == again.stages[0].done > 0


def test_a_run_ends_though_a_later_shard_was_committed_while_the_first_took_long(tmp_path, monkeypatch):
    paths = [write_tar(tmp_path / "a.tar", [("slow.png", png(0))]), write_tar(tmp_path / "b.tar", [("b.png", png(1))])]
    later, reports, decode = threading.Event(), Counter(), worker.decode_missing

    def slow(data, *arguments, **options):
        if data == png(0):
            assert later.wait(60)
        return decode(data, *arguments, **options)

    def watch(counts):
        if counts["shards"]:
            later.set()
        reports["after the end"] += counts["images"] == 2
        assert reports["after the end"] < 100, "both images are embedded, and the run goes on"

    decode_by(monkeypatch, slow)
    encoder = FakeEncoder(batch_size=1, workers=2)
    report = embedded(paths, tmp_path / "db", Recorder(watch), encoder=encoder, commit_seconds=0.0)
    assert (report.embedded, report.shards_done) == (2, 2)


def totals(recorder):
    """Steps done of the stages whose length was known, by name; each reaches it."""
    known = {stage.name: stage for stage in recorder.stages if stage.total is not None}
    assert {name: stage.done for name, stage in known.items()} == {name: stage.total for name, stage in known.items()}
    assert all(stage.ended for stage in recorder.stages)
    return {name: stage.total for name, stage in known.items()}


def test_a_build_and_a_refresh_report_each_row_and_predict_before_they_build(tmp_path):
    n = 3000
    store = make_table(tmp_path, unit_rows(n, 16))
    said = []

    class Listener(Recorder):
        def note(self, text):
            said.append((len(self.stages), text))

    recorder = Listener()
    report = build_index(store, Goal(kind="ivf-fp16", recall=0.9), progress=recorder)
    assert totals(recorder) == {"reading vectors": n, "building ivf-fp16": n}
    names = [stage.name for stage in recorder.stages]
    (before, predicted), (_, verdict), (chosen, _) = said
    assert (before, predicted[:21]) == (0, "predicted build time:")
    assert f"{report.predicted_seconds:.2g} s" in predicted
    assert chosen == names.index("building ivf-fp16")
    assert verdict
    add_shard(store, "more", [f"more{i}" for i in range(50)], unit_rows(50, 16, seed=3))
    again = Recorder()
    assert refresh_index(store, progress=again).inserted == 50
    assert totals(again) == {"copying vectors": n + 50}


def test_a_comparison_of_all_pairs_reports_each_block(tmp_path):
    n = 2500
    store = make_table(tmp_path, unit_rows(n, 16))
    recorder = Recorder()
    report, _ = find_near_duplicates(store, NearOptions(threshold=0.99), progress=recorder)
    got = totals(recorder)
    assert got["reading vectors"] == n
    assert n * (n - 1) / 2 <= got["comparing"] < n * n
    assert recorder.stages[-1].counts[-1] == {"pairs": report.pairs}


def test_a_search_of_whole_shards_counts_its_images(tmp_path, monkeypatch):
    monkeypatch.setattr("indexer.search.batch.CHUNK", 16)
    folder = archive(tmp_path, shards=2, images=15)
    embedded([folder], tmp_path / "db", Recorder())
    write_tar(folder / "damaged.tar", [("x.png", NO_PICTURE)])
    store, recorder = EmbeddingStore.open(str(tmp_path / "db")), Recorder()
    shards = find_shards([str(folder)]).shards
    searcher = Searcher(store, load_encoder=lambda _spec: FakeEncoder())
    search_shards(searcher, shards, SearchOptions(), tmp_path / "hits.parquet", progress=recorder)
    (stage,) = recorder.stages
    assert stage.steps == [16, 15]
    assert stage.counts[-1] == {"images": 31, "failed": 1}


def test_packing_reports_files_and_shards_those_that_lay_there_included(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for i in range(600):
        (source / f"{i:03d}.png").write_bytes(png(i % 7))
    options = PackOptions(str(source), tmp_path / "out", shard_files=100)
    for _ in range(2):
        recorder = Recorder()
        pack(options, progress=recorder)
        assert totals(recorder) == {"reading headers": 600, "writing shards": 6}
        assert recorder.stages[-1].counts[-1] == {"shards": 6}
        (tmp_path / "out" / "000000.tar").unlink(missing_ok=True)


def test_a_new_secret_is_noted_before_the_run_fails(tmp_path):
    source, recorder = tmp_path / "in", Recorder()
    source.mkdir()
    (source / "a.png").write_bytes(png(0))
    (tmp_path / "t.csv").write_text("path,patient\na.png,Doe\n")
    (tmp_path / "out").write_text("in the way")
    secret = tmp_path / "keys" / "secret"
    options = PackOptions(
        str(source), tmp_path / "out", secret, new_secret=True, csv=tmp_path / "t.csv", hashed=("patient",)
    )
    with pytest.raises(InputError):
        pack(options, progress=recorder)
    assert [note.startswith(f"A new secret was made: {secret}.") for note in recorder.notes] == [True]


def test_every_long_command_shows_its_progress_on_the_terminal(tmp_path, monkeypatch):
    made = []

    def terminal():
        made.append(Recorder())
        return made[-1]

    monkeypatch.setattr("indexer.progress.terminal.Terminal", terminal)
    images, db = tmp_path / "images", tmp_path / "db"
    images.mkdir()
    for name, data in members(10):
        (images / name).write_bytes(data)
    for arguments, stages in (
        (("pack", images, tmp_path / "packed"), ["listing files", "reading headers", "writing shards"]),
        (("index", tmp_path / "packed", db), ["embedding 1 shard"]),
        (("failures", db, "--retry"), ["embedding 1 shard"]),
        (("build-ann", db), ["reading vectors", "measuring candidates", "building exact", "measuring", "writing"]),
        (("near-duplicates", db), ["reading vectors", "grouping copies", "putting near rows together", "comparing"]),
        (("search", db, "--shards", tmp_path / "packed", "--out", tmp_path / "hits.parquet"), ["searching"]),
    ):
        made.clear()
        done = call("indexer", *arguments)
        assert done.code == 0, done.err
        (recorder,) = made
        assert [stage.name for stage in recorder.stages] == stages, arguments[0]
        totals(recorder)


SCRIPT = """
import time
import rich.console, rich.progress  # otherwise read while the first stage runs
from indexer.progress import terminal
terminal.QUIET_SECONDS = 0.0
progress = terminal.Terminal()
for name, total in (("embedding 7 shards", 2000), ("searching [red]x", None)):
    with progress.stage(name, total):
        for i in range(10):
            progress.advance(100, images=120 * (i + 1), failed=i)
            time.sleep(0.1)
        progress.note("said [b]at once")
        time.sleep(0.3)
"""


def on_stderr(descriptor: int) -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], stderr=descriptor, check=True, env=os.environ | {"COLUMNS": "150"})


def test_a_terminal_shows_share_counts_rate_and_time_left(tmp_path):
    ours, theirs = os.openpty()
    drawn = b""

    def read():
        nonlocal drawn
        while True:
            try:
                drawn += os.read(ours, 4096)
            except OSError:  # the other end was closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    on_stderr(theirs)
    os.close(theirs)
    reader.join()
    os.close(ours)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.decode())
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    known = [line for line in lines if line.startswith("embedding 7 shards")]
    last = re.search(r"50% 1,200 images  9 failed  ([\d,.]+) images/s 0:00:0\d left 0:00:\d\d", known[-1])
    assert last, known[-1]
    assert 0 < float(last[1].replace(",", "")) <= 1200 / 0.9  # the last count came after nine pauses of 0.1 s
    unknown = [line for line in lines if line.startswith("searching [red]x")]
    assert "1,200 images  9 failed" in unknown[-1]
    assert not any("left" in line or "%" in line for line in unknown)
    assert lines.count("said [b]at once") == 2


def test_a_file_gets_the_notes_and_no_bar(tmp_path):
    with Path(tmp_path / "err").open("wb") as file:
        on_stderr(file.fileno())
    assert (tmp_path / "err").read_text() == "said [b]at once\n" * 2
