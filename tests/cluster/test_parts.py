"""An archive in parts: as many processes as one likes, on any machine, and the table of one undisturbed run."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from indexer.archive.shards import find_shards
from indexer.errors import IndexerError, InputError
from indexer.pipeline.drive import Hooks
from indexer.pipeline.in_flight import Before, Planned
from indexer.pipeline.options import RunOptions
from indexer.pipeline.parts.commit import CommitReport, commit_pending
from indexer.pipeline.parts.dealt import Part, PartOptions, dealt, part_of
from indexer.pipeline.parts.embed import index_part
from indexer.pipeline.parts.sink import PendingSink
from indexer.pipeline.run import index, threads_for
from indexer.progress.silent import SILENT
from indexer.store.pending.form import pending_name
from indexer.store.pending.place import pending_place
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.store.writing.deleted import key_hash, write_receipt
from indexer.types import DELETED, EmbeddingBatch, Shard, ShardResult
from tests.archives import png, shard, write_tar
from tests.cluster.truth import contents, odd_archive
from tests.commands import call
from tests.fakes import AnyPlane, FakeEncoder
from tests.object_store import server

__all__ = ["server"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def truth(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    database = str(tmp_path_factory.mktemp("truth"))
    whole(database, archive)
    return contents(database)


def whole(database: str, archive: Path, **options) -> None:
    encoder = FakeEncoder()
    store = EmbeddingStore.create(database, "fake", encoder.spec)
    index(find_shards([str(archive)]).shards, store, encoder, RunOptions(**options))


def part(database: str, archive: Path, number: int, of: int, *, commit: bool = True, **options):
    encoder, run = FakeEncoder(), RunOptions(commit_rows=6, **options)
    store = EmbeddingStore.create(database, "fake", encoder.spec)
    which = PartOptions(Part(number, of), commit)
    return index_part(threads_for(encoder, run), find_shards([str(archive)]).shards, store, run, which, Hooks())


def committed(database: str) -> CommitReport:
    store = EmbeddingStore.open(database)
    with StoreWriter(store) as writer:
        return commit_pending(writer, pending_place(store), SILENT, rows=6, beside=lambda *_: None)


def waiting(database: str) -> list[str]:
    return pending_place(EmbeddingStore.open(database)).names()


@pytest.mark.parametrize("of", [1, 3, 16, 40])
def test_every_shard_is_dealt_to_one_part_and_no_part_has_much_more_than_its_share(of: int) -> None:
    draw = random.Random(of)
    sizes = [None if draw.random() < 0.1 else int(draw.paretovariate(1.2) * 1000) for _ in range(30)]
    shards = [Shard(str(i), str(i), "1", nbytes=size) for i, size in enumerate(sizes)]
    parts = [dealt(shards, Part(number, of)) for number in range(of)]
    assert sorted(int(s.name) for own in parts for s in own) == list(range(30))
    assert [dealt(shards[::-1], Part(n, of))[::-1] for n in range(of)] == parts  # whatever order a listing has
    known = [size for size in sizes if size is not None]
    usual = sum(known) // len(known)
    loads = [sum(usual if s.nbytes is None else s.nbytes for s in own) for own in parts]
    least = max(sum(loads) / of, *(usual if size is None else size for size in sizes))
    assert max(loads) <= 4 / 3 * least + max(known) * (of == 1)


KILLED = "parts: kill -9 after a write"
ARRAY = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "16", "SLURM_ARRAY_TASK_MIN": "1"}


@pytest.mark.parametrize(
    ("text", "environment"),
    [
        ("16/16", {}),
        ("1/16", ARRAY),
        ("0/0", {}),
        ("-1/4", {}),
        ("3", {}),
        ("", {}),
        ("/", {}),
        ("1/x", {}),
        ("²/4", {}),
    ],
)
def test_a_part_that_would_leave_shards_out_is_refused_in_one_line(text: str, environment: dict[str, str]) -> None:
    with pytest.raises(InputError, match="--part") as refused:
        part_of(text, environment)
    assert "\n" not in str(refused.value)


def test_parts_of_slurm_and_kubernetes_are_read() -> None:
    assert part_of("15/16", {**ARRAY, "SLURM_ARRAY_TASK_ID": "15", "SLURM_ARRAY_TASK_MIN": "0"}) == Part(15, 16)
    assert part_of("1/16", {}) == Part(1, 16)


def test_parts_in_any_order_make_the_table_of_one_run_row_for_row(tmp_path, archive, truth) -> None:
    database, order = str(tmp_path), [2, 0, 3, 1]
    for number in order[:3]:
        report, done = part(database, archive, number, 4, commit=False)
        assert done is None
        assert report.pending == report.shards_done + report.shards_partial == len(dealt_to(archive, number, 4))
    assert EmbeddingStore.open(database).count() == 0
    again, _ = part(database, archive, order[0], 4, commit=False)
    assert (again.images, again.pending) == (0, len(dealt_to(archive, order[0], 4)))  # nothing is embedded twice
    report, done = part(database, archive, order[3], 4)
    assert (done.whole, done.shards, report.pending) == (True, len(truth["ledger"]), 0)  # it took the others' along
    assert contents(database) == truth
    assert not waiting(database)
    assert not (tmp_path / "fake.pending").exists()
    last, done = part(database, archive, 0, 4)
    assert (last.images, done) == (0, None)


def dealt_to(archive: Path, number: int, of: int) -> list[Shard]:
    return dealt(find_shards([str(archive)]).shards, Part(number, of))


def test_parts_on_an_object_store_survive_an_answer_that_is_lost_at_any_write(server, archive, truth, fault) -> None:
    database, puts = server.fresh(), []

    def rule(method: str, path: str, headers: object) -> str:
        puts.append(path)
        return random.Random(len(puts)).choice(["", "", "", "", "500 before", "reset after"]) if method == "PUT" else ""

    for number in range(3):
        server.rule = rule
        for _ in range(20):
            with suppress(IndexerError):  # the task ends with it, and is started again
                part(database, archive, number, 3, commit=number == 1)
                break
    server.rule = lambda *_: ""
    committed(database)
    fault("parts on S3: answers to writes lost", contents(database), truth)
    assert not waiting(database)


def start(database: Path | str, archive: Path, which: str, *more: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "tests.cluster.part", str(database), str(archive), which, *more]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def killed(database: Path, archive: Path, step: int) -> bool:
    """Whether a part that is to die after its step-th write did; in its place another one ends the work."""
    first = start(database, archive, "0/1", "--die-at", str(step))
    _, err = first.communicate(timeout=300)
    assert first.returncode in (0, -signal.SIGKILL), err
    return first.returncode != 0


@pytest.mark.parametrize("step", [random.Random(15).randint(2, 7), random.Random(16).randint(8, 16)])
def test_a_part_that_was_killed_is_done_again_and_nothing_is_lost_or_doubled(
    tmp_path, archive, truth, step, fault
) -> None:
    assert killed(tmp_path, archive, step)
    part(str(tmp_path), archive, 0, 1)
    fault(KILLED, contents(str(tmp_path)), truth, runs=2)


@pytest.mark.slow
def test_the_same_after_every_write(tmp_path, archive, truth, fault) -> None:
    step = 1
    while killed(database := tmp_path / str(step), archive, step):
        part(str(database), archive, 0, 1)
        fault(KILLED, contents(str(database)), truth, runs=2)
        step += 1
    assert step > 16


def test_the_same_part_twice_at_once_and_all_the_others_beside_it(tmp_path, archive, truth, fault) -> None:
    tasks = [start(tmp_path, archive, which) for which in ("0/3", "0/3", "1/3", "2/3")]
    for task in tasks:
        _, err = task.communicate(timeout=300)
        assert task.returncode == 0, err
    fault("parts: four tasks at once, two of them the same", contents(str(tmp_path)), truth, runs=4)
    assert not waiting(str(tmp_path))


def cut(result: ShardResult, start: int, stop: int) -> ShardResult:
    """A part of a shard with these of its rows, of one batch."""
    (batch,) = result.batches
    some = EmbeddingBatch(batch.rows[start:stop], batch.vectors[start:stop], batch.norms[start:stop])
    return replace(result, batches=(some,), failures=(), more=True)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_part_that_was_killed_inside_a_shard_goes_on_behind_its_last_piece(tmp_path, damaged) -> None:
    archive, database = tmp_path / "shards", str(tmp_path / "db")
    archive.mkdir()
    images = [(f"im{n:02}.png", png(n)) for n in range(40)]
    write_tar(archive / "large.tar", [*images[:20], ("bad.png", b"\x89PNG no"), *images[20:]])
    whole(str(tmp_path / "whole"), archive)
    encoder, options = FakeEncoder(), RunOptions()
    store, (large,) = EmbeddingStore.create(database, "fake", encoder.spec), find_shards([str(archive)]).shards
    engine = threads_for(encoder, options)
    (result,) = filter(None, engine.results([Planned(large)], lambda _: Before()))
    engine.close()
    place, names = pending_place(store), {large.name: pending_name(large.name, large.identity)}
    with PendingSink(store, place, names, {}, {}) as sink:  # as far as the killed part came
        sink.add(cut(result, 0, 12))
        sink.add(cut(result, 12, 24))
    pieces = sorted((tmp_path / "db" / "fake.pending").iterdir())
    assert [path.suffix for path in pieces] == [".piece", ".piece"]
    if damaged:
        pieces[1].write_bytes(pieces[1].read_bytes()[:-9])
    report, done = part(database, archive, 0, 1)
    assert report.embedded == (28 if damaged else 16)
    assert (done.rows, done.failed) == (40, 1)
    assert contents(database) == contents(str(tmp_path / "whole"))
    assert not (tmp_path / "db" / "fake.pending").exists()


def test_what_waits_does_not_replace_what_was_indexed_since(tmp_path) -> None:
    archive, database = tmp_path / "shards", str(tmp_path / "db")
    archive.mkdir()
    shard(archive / "a.tar", [1, 2])
    part(database, archive, 0, 1, commit=False)
    shard(archive / "a.tar", [3, 4, 5])
    whole(database, archive)
    newer = contents(database)
    report = committed(database)
    assert (report.rows, len(report.stale), report.whole) == (0, 1, False)
    assert contents(database) == newer
    shard(archive / "a.tar", [3, 4])
    part(database, archive, 0, 1, changed="replace")  # and a change that is wanted is taken
    assert sorted(contents(database)["rows"]) == ["im3", "im4"]


def test_two_contents_of_a_shard_that_wait_together_do_not_become_one(tmp_path) -> None:
    archive, database = tmp_path / "shards", str(tmp_path / "db")
    archive.mkdir()
    for numbers in ([1, 2], [3, 4, 5]):
        shard(archive / "a.tar", numbers)
        part(database, archive, 0, 1, commit=False)
    assert len(waiting(database)) == 2
    report = committed(database)
    assert (report.shards, len(report.stale), report.whole) == (1, 1, False)
    assert sorted(contents(database)["rows"]) in (["im1", "im2"], ["im3", "im4", "im5"])
    assert not waiting(database)
    part(database, archive, 0, 1, changed="replace")
    assert sorted(contents(database)["rows"]) == ["im3", "im4", "im5"]


def test_a_damaged_file_is_not_believed_and_its_shard_is_embedded_again(tmp_path, archive, truth) -> None:
    database = str(tmp_path)
    part(database, archive, 0, 1, commit=False)
    file = sorted((tmp_path / "fake.pending").iterdir())[2]
    data = bytearray(file.read_bytes())
    data[len(data) // 3] ^= 1
    file.write_bytes(data)
    report = committed(database)
    assert (len(report.damaged), report.whole, len(contents(database)["ledger"])) == (
        1,
        False,
        len(truth["ledger"]) - 1,
    )
    part(database, archive, 0, 1)
    assert contents(database) == truth


def test_an_image_deleted_by_request_while_it_waited_does_not_come_back(tmp_path) -> None:
    archive, database = tmp_path / "shards", str(tmp_path / "db")
    archive.mkdir()
    shard(archive / "a.tar", [1, 2])
    part(database, archive, 0, 1, commit=False)
    store = EmbeddingStore.open(database)
    digest = key_hash(store.state.identity, "im1")
    write_receipt(store, "r", {"key_hashes": [digest]})
    committed(database)
    found = contents(database)
    assert list(found["rows"]) == ["im2"]
    assert [(row[1], row[3]) for row in found["failures"]] == [(digest, DELETED)]


def test_the_commands_do_a_part_and_commit_it(tmp_path, archive, truth, monkeypatch) -> None:
    monkeypatch.setattr("indexer.encoders.load", lambda *_, **__: AnyPlane())
    database = str(tmp_path / "db")
    words = ("indexer", "index", str(archive), database, "--precision", "fp32", "--part")
    assert "counted from 0" in call(*words, "2/2").err
    first = call(*words, "0/2", "--no-commit")
    assert first.code in (0, 1), first.err  # 1: the shard that breaks off
    assert "wait beside the table for `indexer commit`" in first.out
    done = call("indexer", "commit", database, "--json")
    assert (done.code, done.json["rows"] > 0, done.json["damaged"]) == (0, True, [])
    assert call(*words, "1/2").code in (0, 1)
    assert contents(database) == truth
