"""Each run leaves a record beside the table, however it ends, and no secret goes into it or anywhere else."""

from __future__ import annotations

import json
import signal
import threading

import pytest

from indexer.archive.shards import find_shards
from indexer.errors import TooManyFailures
from indexer.pipeline.options import RunOptions
from indexer.pipeline.retry import retry
from indexer.pipeline.run import Hooks, index
from indexer.pipeline.run_record import runs
from indexer.store.table import EmbeddingStore
from tests.archives import archive, shard, write_tar
from tests.commands import call
from tests.fakes import FakeEncoder
from tests.progress import Recorder

SECRET = "hunter2SECRETvalue"


def run(source, db, encoder=None, options=None, hooks=None):
    encoder = encoder or FakeEncoder()
    store = EmbeddingStore.create(str(db), "t", encoder.spec)
    return index(find_shards([str(source)]).shards, store, encoder, options, hooks)


def records(db):
    return runs(EmbeddingStore.open(str(db)))


def undecodable(path, count):
    return write_tar(path, [(f"bad{i}.png", b"no picture at all") for i in range(count)])


def test_a_run_that_ends_well_leaves_its_command_versions_encoder_counts_and_bottleneck(tmp_path):
    source = archive(tmp_path)
    write_tar(source / "bad.tar", [("bad.png", b"no picture")])
    report = run(source, tmp_path / "db", options=RunOptions(command=("indexer", "index", "shards", "db")))
    (facts,) = records(tmp_path / "db")
    assert facts["status"] == "done"
    assert facts["command"] == ["indexer", "index", "shards", "db"]
    assert facts["encoder"] == json.loads(FakeEncoder().spec.to_json())
    assert {"python", "torch", "pylance", "embedding-indexer"} <= set(facts["versions"])
    assert facts["shards_named"] == 4
    for name in ("embedded", "failed", "images", "shards_done", "reasons", "bottleneck"):
        assert facts["report"][name] == getattr(report, name)
    (text,) = [p.read_text() for p in (tmp_path / "db").glob("t.runs/*/summary.md")]
    assert f"# Run of {facts['started_at']}: done" in text
    for line in ("| embedded | 30 |", "| failed | 1 |", f"| bottleneck | {report.bottleneck} |", "- 1 × not an image"):
        assert line in text
    run(source, tmp_path / "db")
    assert [facts["report"]["embedded"] for facts in records(tmp_path / "db")] == [30, 0]


def test_a_run_stopped_by_its_failures_exits_1_and_says_what_it_did(tmp_path, monkeypatch):
    source = tmp_path / "shards"
    source.mkdir()
    for i in range(8):
        undecodable(source / f"{i}.tar", 400)
    with pytest.raises(TooManyFailures, match=r"of the first 1\d{3} images failed"):
        run(source, tmp_path / "db")
    (facts,) = records(tmp_path / "db")
    assert facts["status"] == "stopped"
    assert facts["error"]["kind"] == "TooManyFailures"
    assert 0 < facts["report"]["failed"] < 3200
    assert facts["report"]["failed"] == EmbeddingStore.open(str(tmp_path / "db")).failures().num_rows


def test_a_small_run_in_which_all_fails_ends_with_a_warning(tmp_path):
    report = run(undecodable(tmp_path / "few.tar", 5), tmp_path / "db")
    (warning,) = report.warnings
    assert warning.startswith("5 of 5 images failed, more than --max-failures 0.5")
    assert run(archive(tmp_path), tmp_path / "db").warnings == ()


def test_a_command_in_which_most_images_fail_exits_1(tmp_path):
    source, db = undecodable(tmp_path / "few.tar", 3), tmp_path / "db"
    arguments = ("index", source, db, "--encoder", "timm:test_efficientnet", "--weights", "random", "--device", "cpu")
    done = call("indexer", *arguments)
    assert (done.code, "3 of 3 images failed" in done.out) == (1, True)
    assert call("indexer", *arguments).code == 0  # nothing was left to do
    (first, second) = records(db)
    assert first["command"][1:] == [str(a) for a in arguments]
    assert second["report"]["shards_skipped"] == 1
    assert second["started_at"] in call("indexer", "info", db).out


def test_a_bug_and_a_stop_are_recorded_too(tmp_path):
    def broken(_):
        raise RuntimeError("a device is gone")

    source = archive(tmp_path)
    with pytest.raises(RuntimeError):
        run(source, tmp_path / "db", FakeEncoder(change=broken))
    handlers = []  # once: how often progress is reported before the run has ended hangs on the machine's load

    def press(_):
        if not handlers:
            handlers.append(signal.getsignal(signal.SIGINT))
            assert handlers[0] is not signal.default_int_handler  # which would end the tests
            handlers[0](signal.SIGINT, None)

    assert threading.current_thread() is threading.main_thread()
    assert run(source, tmp_path / "db", hooks=Hooks(Recorder(press))).interrupted
    failed, interrupted = records(tmp_path / "db")
    assert (failed["status"], failed["error"]) == ("failed", {"kind": "RuntimeError", "message": "a device is gone"})
    assert (interrupted["status"], interrupted["report"]["interrupted"]) == ("interrupted", True)


def test_a_run_that_was_killed_is_called_dead_by_the_next(tmp_path):
    source = archive(tmp_path)
    run(source, tmp_path / "db")
    (manifest,) = (tmp_path / "db").glob("t.runs/*/manifest.json")
    manifest.write_text(manifest.read_text().replace('"status": "done"', '"status": "running"'))
    run(source, tmp_path / "db")
    assert [facts["status"] for facts in records(tmp_path / "db")] == ["died", "done"]


def test_a_retry_is_a_run_of_its_own(tmp_path):
    run(undecodable(tmp_path / "few.tar", 2), tmp_path / "db")
    report = retry(EmbeddingStore.open(str(tmp_path / "db")), FakeEncoder())
    _, facts = records(tmp_path / "db")
    assert (facts["retried"], facts["report"]["failed"], report.warnings) == (2, 2, ())


def test_a_password_in_an_address_is_used_and_stored_nowhere(tmp_path):
    good, cut = shard(tmp_path / "a.tar", [1, 2, 3]), shard(tmp_path / "b.tar", [4, 5, 6])
    cut.write_bytes(cut.read_bytes()[:1500])
    db = tmp_path / "db"
    sources = [f"pipe:env API_TOKEN={SECRET} cat {path}" for path in (good, cut)]
    arguments = ("--encoder", "timm:test_efficientnet", "--weights", "random", "--device", "cpu", "--table", "t")
    done = call("indexer", "index", *sources, db, *arguments)
    assert EmbeddingStore.open(str(db)).count() >= 3
    listed = call("indexer", "failures", db), call("indexer", "info", db, "--json")
    assert EmbeddingStore.open(str(db)).failures().num_rows == 1
    for text in (done.out, done.err, *(x.out + x.err for x in listed)):
        assert SECRET not in text
    for path in db.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    assert all(name.startswith("pipe:env#") for name in EmbeddingStore.open(str(db)).urls())


def test_two_addresses_that_differ_in_a_secret_alone_are_not_taken_for_one(tmp_path):
    path = shard(tmp_path / "a.tar", [1])
    done = call("indexer", "index", f"pipe:env TOKEN=a cat {path}", f"pipe:env TOKEN=b cat {path}", tmp_path / "db")
    assert done.code == 1
    assert "two addresses" in done.err
    assert not (tmp_path / "db").exists()
