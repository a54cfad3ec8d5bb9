"""The `indexer` command line, run for real on tiny archives with the bundled encoder."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest

from indexer.cli import COMMANDS, group
from indexer.store.table import EmbeddingStore
from tests.archives import archive, png, shard, write_tar
from tests.commands import call

ENCODER = "efficientnet-lite0"


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    """A database of 12 images, one corrupt, indexed by the real command."""
    root = tmp_path_factory.mktemp("archive")
    folder = archive(root, shards=2, images=6)
    write_tar(folder / "002.tar", [("bad.png", png(99)[:50])])
    done = call("indexer", "index", folder, root / "db", "--json")
    assert done.code == 0, done.err
    report = done.json
    assert (report["embedded"], report["failed"], report["images"]) == (12, 1, 13)
    assert report["precision_cosine"] > 0.99
    return root / "db"


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_json_and_stands_in_the_readme(command, request):
    done = call("indexer", command, "-h")
    assert done.code == 0
    assert "--json" in done.out
    assert len(done.out.splitlines()) > 4
    readme = (request.config.rootpath / "README.md").read_text()
    assert command in readme


def test_each_command_module_is_named_in_the_group(request):
    modules = (request.config.rootpath / "indexer" / "commands").rglob("[a-z]*.py")
    files = {p.stem.replace("_", "-") for p in modules if "@click.command(" in p.read_text()}
    assert files | {"serve"} == set(COMMANDS)  # an application, whose command is in its own room
    assert all(importlib.import_module(group.module_of(name)).command for name in COMMANDS)


def test_a_rerun_embeds_nothing(db):
    done = call("indexer", "index", db.parent / "shards", db, "--json")
    assert done.code == 0
    assert (done.json["images"], done.json["shards_skipped"]) == (0, 3)


def test_info_says_what_the_table_holds(db):
    (fact,) = call("indexer", "info", db, "--json").json
    assert (fact["rows"], fact["shards"], fact["failures"], fact["encoder"], fact["dim"]) == (12, 3, 1, ENCODER, 1280)
    added_by_other_tests = {"grade", "site", "tag"}
    columns = {name: kind for name, kind in fact["columns"].items() if name not in added_by_other_tests}
    assert columns == {"n": "int64", "patient": "string", "sex": "string"}


def test_begun_shards_and_every_failure_are_told_however_many_there_are(tmp_path):
    from indexer.store.table import EmbeddingStore
    from indexer.store.writer import StoreWriter
    from indexer.types import Failure, Shard, ShardResult
    from tests.tables import spec_for

    def part(number, *, more):
        lost = tuple(Failure("s", f"{number}-{i}\n", "decode", f"cause {i % 3}", "tab\there") for i in range(100))
        return ShardResult(Shard("s", "s", "1"), (), lost, 100, more=more)

    store = EmbeddingStore.create(str(tmp_path / "db"), "t", spec_for(8))
    with StoreWriter(store) as writer:
        writer.commit([part(0, more=True)])
        writer.commit([part(1, more=True)])
        (fact,) = call("indexer", "info", tmp_path / "db", "--json").json
        assert (fact["shards"], fact["shards_begun"], fact["shards_partial"], fact["failures"]) == (1, 1, 0, 200)
        listed = call("indexer", "failures", tmp_path / "db", "--json").json
        assert [row["key"] for row in listed] == [f"{n}-{i}\n" for n in range(2) for i in range(100)]
        lines = call("indexer", "failures", tmp_path / "db").out.splitlines()
        assert lines[0].split("\t") == ["shard", "key", "stage", "reason", "detail"]
        assert lines[200].split("\t") == ["s", "1-99 ", "decode", "cause 0", "tab here"]
        counted = call("indexer", "failures", tmp_path / "db", "--summary", "--json").json
        assert {row["reason"]: row["count"] for row in counted} == {"cause 0": 68, "cause 1": 66, "cause 2": 66}
        writer.commit([part(2, more=False)])
    (fact,) = call("indexer", "info", tmp_path / "db", "--json").json
    assert (fact["shards_begun"], fact["failures"]) == (0, 300)


def test_failures_name_each_lost_image_and_count_by_reason(db):
    (failure,) = call("indexer", "failures", db, "--json").json
    assert (failure["key"], failure["stage"]) == ("bad", "decode")
    (row,) = call("indexer", "failures", db, "--summary", "--json").json
    assert (row["count"], row["reason"]) == (1, failure["reason"])
    assert call("indexer", "failures", db).out.splitlines()[1].split("\t")[1] == "bad"


def test_labels_are_joined_without_rewriting_a_vector(db, tmp_path):
    before = EmbeddingStore.open(str(db)).vectors(columns=["key"])
    table = pa.table({"key": [f"im{i}" for i in range(8)] + ["nobody"], "grade": [i % 3 for i in range(9)]})
    pa.csv.write_csv(table, tmp_path / "labels.csv")
    done = call("indexer", "labels", db, tmp_path / "labels.csv", "--json")
    assert (done.json["rows_labelled"], done.json["rows_without"]) == (8, 4)
    by_patient = pa.table({"patient": ["p0", "p1"], "site": ["A", "B"]})
    pa.csv.write_csv(by_patient, tmp_path / "sites.csv")
    assert call("indexer", "labels", db, tmp_path / "sites.csv", "--on", "patient", "--json").json["rows_labelled"] == 8
    store = EmbeddingStore.open(str(db))
    assert (store.count("grade = 2"), store.count("site = 'B' AND grade IS NOT NULL")) == (2, 4)
    after = store.vectors(columns=["key"])
    np.testing.assert_array_equal(before.vectors, after.vectors)
    np.testing.assert_array_equal(before.row_ids, after.row_ids)


def test_labels_again_keep_what_the_new_file_does_not_name(db, tmp_path):
    for name, keys in [("a.csv", ["im0", "im1"]), ("b.csv", ["im1", "im2"])]:
        pa.csv.write_csv(pa.table({"key": keys, "tag": [f"{name}-{k}" for k in keys]}), tmp_path / name)
        assert call("indexer", "labels", db, tmp_path / name).code == 0
    rows = EmbeddingStore.open(str(db)).vectors("tag IS NOT NULL", ["key", "tag"]).columns.to_pydict()
    assert dict(zip(rows["key"], rows["tag"], strict=True)) == {
        "im0": "a.csv-im0",
        "im1": "b.csv-im1",
        "im2": "b.csv-im2",
    }


def test_export_gives_the_same_vectors_in_both_forms(db, tmp_path):
    import pyarrow.parquet as pq

    assert call("indexer", "export", db, tmp_path / "v.npy", "--where", "sex = 'F'", "--json").json["rows"] == 6
    assert call("indexer", "export", db, tmp_path / "v.parquet", "--where", "sex = 'F'").code == 0
    keys = (tmp_path / "v.keys.txt").read_text().splitlines()
    table = pq.read_table(tmp_path / "v.parquet")
    assert table.column("key").to_pylist() == keys
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), np.stack(table.column("vector").to_numpy()))


def test_embed_gives_the_stored_vector_for_the_same_image(db, tmp_path):
    (tmp_path / "q.png").write_bytes(png(5))
    (tmp_path / "no.png").write_bytes(b"nothing")
    done = call("indexer", "embed", db, tmp_path / "q.png", tmp_path / "no.png", "--out", tmp_path / "v.npy", "--json")
    assert done.code == 1
    assert (done.json["keys"], len(done.json["failures"])) == ([str(tmp_path / "q.png")], 1)
    raw = np.load(tmp_path / "v.npy")[0]
    stored = EmbeddingStore.open(str(db)).vectors("key = 'im5'").vectors[0].astype(np.float32)
    assert raw @ stored / np.linalg.norm(raw) > 0.999


def test_search_finds_the_image_itself_first(db, tmp_path):
    (tmp_path / "q.png").write_bytes(png(7))
    answer = call("indexer", "search", db, tmp_path / "q.png", "-k", 3, "--json").json
    assert answer["queries"][0]["hits"][0]["key"] == "im7"
    assert len(answer["queries"][0]["hits"]) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["index", "none.tar", "db"], 1, "no such shard or folder"),
        (["index", "only-one"], 2, "SHARDS... DB"),
        (["index"], 2, "Missing argument"),
        (["index", "{shards}", "{fresh}", "--encoder", "efficientnet-lite"], 1, "efficientnet-lite0"),
        (["index", "{shards}", "{fresh}", "--encoder", "resnet50"], 1, "weights"),
        (["index", "{shards}", "{db}", "--precision", "fp32"], 1, "precision bf16 / fp32"),
        (["index", "{shards}", "{fresh}", "--table", "a/b"], 1, "cannot name a table"),
        (["info", "{fresh}"], 1, "no database"),
        (["search", "{fresh}", "x.png"], 1, "no database"),
        (["failures", "{db}", "--table", "nope"], 1, "no table nope"),
        (["export", "{db}", "x.npz"], 1, ".npy or a .parquet"),
        (["labels", "{db}", "{shards}/000.tar"], 1, "not a CSV table"),
        (["export", "{db}", "x.npy", "--where", "no_column = 1"], 1, "no_column"),
        (["serch"], 2, "search"),
    ],
)
def test_bad_input_gets_one_clear_line_and_creates_nothing(db, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    names = {"shards": db.parent / "shards", "db": db, "fresh": tmp_path / "fresh"}
    done = call("indexer", *(a.format(**names) for a in arguments))
    assert done.code == code, done.err
    assert words in done.err
    assert done.out == ""
    if code == 1:
        assert [line.startswith("error: ") for line in done.err.splitlines()] == [True]
        assert done.err.strip().isprintable()
    assert list(tmp_path.iterdir()) == []


def test_missing_weights_are_told_on_an_offline_machine_without_asking_the_network_or_waiting(
    db, tmp_path, monkeypatch
):
    asked = []

    def refuse(*arguments):
        asked.append(arguments)
        raise OSError("no network here")

    monkeypatch.setattr("indexer.encoders.families.hub._offline", lambda: True)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("time.sleep", refuse)  # the hub's own client waits between its tries
    done = call("indexer", "index", db.parent / "shards", tmp_path / "x", "--encoder", "clip-vit-b32")
    assert done.code == 1
    assert "not on this machine" in done.err
    assert asked == []


def test_a_cut_shard_ends_with_exit_code_1_and_says_so(tmp_path):
    whole = shard(tmp_path / "s.tar", [1, 2, 3]).read_bytes()
    (tmp_path / "s.tar").write_bytes(whole[: len(whole) - 3000])
    done = call("indexer", "index", tmp_path / "s.tar", tmp_path / "db")
    assert done.code == 1
    assert "1 cut or damaged" in done.out
    assert "shard is cut or damaged" in call("indexer", "failures", tmp_path / "db").out


def test_random_weights_are_marked_in_the_table(tmp_path):
    shard(tmp_path / "s.tar", [1, 2])
    arguments = ["--encoder", "resnet18", "--weights", "random", "--seed", 3, "--precision", "fp32"]
    done = call("indexer", "index", tmp_path / "s.tar", tmp_path / "db", *arguments, "--json")
    assert done.code == 0, done.err
    (fact,) = call("indexer", "info", tmp_path / "db", "--json").json
    assert fact["weights"].startswith("random:3")
    assert json.dumps(fact)


def photos(folder, seeds):
    folder.mkdir(exist_ok=True)
    for seed in seeds:
        (folder / f"photo{seed}.png").write_bytes(png(seed))
    return folder


def test_a_photo_added_to_an_indexed_folder_is_told_in_the_users_words_and_taken_with_replace(tmp_path):
    folder = photos(tmp_path / "photos", range(300))  # more than groups: a new file falls into one that is there
    assert call("indexer", "index", folder, tmp_path / "db", "--no-compile").code == 0
    photos(folder, range(300, 304))
    done = call("indexer", "index", folder, tmp_path / "db")
    assert done.code == 1
    assert f"error: folder {folder}: files were added" in done.err
    assert "#" not in done.err
    assert "--changed replace" in done.err
    done = call("indexer", "index", folder, tmp_path / "db", "--changed", "replace", "--json")
    assert done.code == 0, done.err
    assert done.json["embedded"] - done.json["reused"] == 4
    assert EmbeddingStore.open(str(tmp_path / "db")).count() == 304


def test_a_run_in_which_every_image_failed_gives_no_advice_on_speed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png(0)[:50])
    done = call("indexer", "index", tmp_path / "photos", tmp_path / "db")
    assert done.code == 1
    assert "nothing was embedded" in done.out
    assert "bound" not in done.out


@pytest.mark.parametrize("name", ["e.txt", "e", "nosuch/e.npy"])
def test_embed_writes_the_file_it_was_told_or_nothing(db, tmp_path, name):
    (tmp_path / "a.png").write_bytes(png(3))
    done = call("indexer", "embed", db, tmp_path / "a.png", "--out", tmp_path / name)
    assert (done.code, done.out) == (1, "")
    assert str(tmp_path / name) in done.err
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_info_of_a_database_without_a_table_says_so(tmp_path):
    done = call("indexer", "info", tmp_path)
    assert (done.code, done.out) == (0, "")
    assert "holds no table" in done.err


def test_one_is_counted_without_a_plural(tmp_path):
    photos(tmp_path / "photos", [1])
    done = call("indexer", "pack", tmp_path / "photos", tmp_path / "packed")
    assert "packed 1 of 1 file (" in done.out
    assert "into 1 shard," in done.out
    done = call("indexer", "index", tmp_path / "packed", tmp_path / "db", "--no-compile")
    assert done.out.startswith("1 image embedded, 0 failed")


# In a process of its own: pytest's takes a signal for its own where a library has put its handler beside Python's.
CTRL_C = """
import signal, sys
import lance
import pyarrow as pa
from indexer.cli import main

def interrupted(*_, **__):
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt as error:
        raise pa.ArrowInvalid("External error: KeyboardInterrupt: ") from error

scanner, lance.LanceDataset.scanner = lance.LanceDataset.scanner, interrupted
sys.argv = ["indexer", "optimize", sys.argv[1]]
try:
    main()
except SystemExit as stop:
    assert stop.code == 130, stop.code
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
lance.LanceDataset.scanner = scanner
main()
"""


def test_ctrl_c_that_a_library_tells_as_an_error_of_its_own_is_still_a_stop(db):
    done = subprocess.run([sys.executable, "-c", CTRL_C, str(db)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "stopped\n")
    assert "fragments" in done.stdout  # of the second call
