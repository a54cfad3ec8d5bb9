"""Where results are written: whole or not at all, never over another probe's, and errors in one line."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from indexer import output_file
from tests.commands import call
from tests.probes.cohort import make_cohort
from tests.probes.test_results import FINDING
from tests.probes.test_rows import ILL, QUICK, probe, refusal


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"), patients=80)


def state(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.mark.case("U3")
@pytest.mark.parametrize(
    "other",
    [("knn", *ILL), ("prototype", *FINDING), ("prototype", *ILL, "--positive", "0")],
    ids=["another probe", "another label", "another positive class"],
)
def test_the_result_of_another_probe_is_kept_unless_it_may_be_replaced(db, tmp_path, other):
    out = tmp_path / "out"
    probe("prototype", db, *ILL, "--out", out)
    before = state(out)
    assert "holds the result of another probe" in refusal(other[0], db, *other[1:], "--out", out)
    assert state(out) == before
    found = probe(other[0], db, *other[1:], "--out", out, "--replace")
    assert found["request"]["probe"] == other[0]
    assert call("probes", "rerun", out, "--json").json["reproduced"]


@pytest.mark.case("U3")
def test_the_same_probe_replaces_its_own_result_and_removes_what_it_no_longer_has(db, tmp_path):
    out = tmp_path / "out"
    probe("prototype", db, *ILL, "--out", out)
    (out / "notes.txt").write_text("mine")
    probe("prototype", db, *ILL, "--split", "nested", "--out", out)
    assert sorted(state(out)) == ["notes.txt", "report.html", "result.json"]  # no weights of the former one


@pytest.mark.parametrize("damage", ["{", '{"format": 1}', ""])
def test_a_folder_whose_result_cannot_be_read_is_not_taken_for_the_same_probe(db, tmp_path, damage):
    (tmp_path / "result.json").write_text(damage)
    assert "another probe" in refusal("prototype", db, *ILL, "--out", tmp_path)


def test_a_comparison_and_a_result_never_share_a_folder(db, tmp_path):
    from tests.probes.cohort import rows_of
    from tests.tables import make_table

    vectors, metadata = rows_of(80)
    make_table(tmp_path / "db", vectors, metadata, "one")
    make_table(tmp_path / "db", vectors, metadata, "two")
    both = ("--tables", "one,two", "--probe", "prototype", *QUICK)
    out = tmp_path / "out"
    assert call("probes", "compare", tmp_path / "db", *ILL, *both, "--out", out).code == 0
    before = state(out)
    assert "another probe" in refusal("prototype", tmp_path / "db", *ILL, "--table", "one", "--out", out)
    turned = ("--tables", "two,one", "--probe", "prototype", *QUICK)
    done = call("probes", "compare", tmp_path / "db", *ILL, *turned, "--out", out)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert state(out) == before


@pytest.mark.case("U3")
@pytest.mark.parametrize("full_at", ["report.html", "weights.npz", "predictions.parquet"])
def test_a_disk_that_fills_up_leaves_the_former_result_whole(db, tmp_path, monkeypatch, full_at):
    out = tmp_path / "out"
    probe("prototype", db, *ILL, "--out", out)
    before = state(out)

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device", full_at)

    place = {
        "report.html": "probes.reporting.html.report_html",
        "weights.npz": "probes.runs.bundle.write_bundle",
        "predictions.parquet": "probes.outputs._write_predictions",
    }
    monkeypatch.setattr(place[full_at], fail)
    done = call("probes", "prototype", db, *ILL, "--seed", "3", *QUICK, "--out", out)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert state(out) == before
    fresh = tmp_path / "fresh"
    assert call("probes", "prototype", db, *ILL, *QUICK, "--out", fresh).code == 1
    assert not fresh.exists()


@pytest.mark.case("U4")
@pytest.mark.parametrize("where", ["none/x.html", "file/x.html"])
def test_a_page_that_cannot_be_written_is_an_error_in_one_line(db, tmp_path, where):
    out = tmp_path / "out"
    probe("prototype", db, *ILL, "--out", out)
    (tmp_path / "file").touch()
    done = call("probes", "report", out, "--html", tmp_path / where)
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert "there is no folder" in done.err


@pytest.mark.case("U3")
def test_a_page_on_a_full_disk_leaves_the_old_one_and_nothing_beside_it(db, tmp_path, monkeypatch):
    out = tmp_path / "out"
    probe("prototype", db, *ILL, "--out", out)
    before = state(out)

    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output_file, "fsync", fail)
    done = call("probes", "report", out)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "cannot be written: No space left on device" in done.err
    assert state(out) == before


@pytest.mark.case("U3", "X5")
def test_a_page_goes_into_a_pipe_or_a_device_and_does_not_take_its_place(db, tmp_path):
    """As root, `--html /dev/null` would else leave a file where every program expects the device."""
    out, pipe = tmp_path / "out", tmp_path / "pipe"
    probe("prototype", db, *ILL, "--out", out)
    os.mkfifo(pipe)
    pages: list[str] = []
    reader = threading.Thread(target=lambda: pages.append(pipe.read_text()))
    reader.start()
    assert call("probes", "report", out, "--html", pipe).code == 0
    reader.join(60)
    assert pipe.is_fifo()
    assert pages == [(out / "report.html").read_text()]


def test_an_out_that_is_no_folder_is_refused_before_the_work(db, tmp_path):
    (tmp_path / "file").touch()
    assert "is not a writable folder" in refusal("prototype", db, *ILL, "--out", tmp_path / "file" / "out")
    assert not (tmp_path / "new").exists()
    refusal("prototype", db, "--label", "nothing", "--group", "patient", "--out", tmp_path / "new")
    assert not (tmp_path / "new").exists()  # nothing is left of a probe that did not run


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--label", "patient", "--group", "patient"), "patient is both --label and --group"),
        (("--label", "a,patient", "--multilabel", "--group", "patient"), "patient is both --label and --group"),
        (("--label", "side", "--group", "patient", "--split", "side"), "side is both --label and --split"),
    ],
)
@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_one_column_in_two_parts_is_refused_at_once(db, kind, options, words):
    assert words in refusal(kind, db, *options)


@pytest.mark.case("U11")
def test_a_label_that_names_the_patient_by_another_word_is_refused_with_the_hint(tmp_path):
    from tests.probes.cohort import make_rows, rows_of

    vectors, metadata = rows_of(40)
    for row in metadata:
        row["case"] = f"case {row['patient']}"
    make_rows(tmp_path, vectors, metadata)
    refused = refusal("linear", tmp_path, "--label", "case", "--group", "patient")
    assert "each class of case is of one patient alone" in refused
    assert "with --label" in refused
