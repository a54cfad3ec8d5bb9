"""Handed-over files that are devices, pipes, links or bombs are one line, at once."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from indexer.ann.goal import Goal
from indexer.ann.manifest import read_manifest
from indexer.disk import read_small
from indexer.errors import IndexFileError, ProbeError
from indexer.search.index_build import build_index
from probes.runs.bundle import read_bundle
from tests.commands import call
from tests.probes.cohort import make_cohort
from tests.tables import make_table, unit_rows


@pytest.fixture(params=["pipe", "endless", "link to a pipe"])
def put(request):
    """Puts a file that never ends in the place of another."""

    def replace(path):
        path.unlink(missing_ok=True)
        if request.param == "endless":
            path.symlink_to("/dev/zero")
        elif request.param == "pipe":
            os.mkfifo(path)
        else:
            os.mkfifo(path.with_name("pipe"))
            path.symlink_to(path.with_name("pipe"))

    return replace


@pytest.mark.case("X7")
def test_a_manifest_or_result_that_never_ends_is_refused(tmp_path, put):
    (tmp_path / "i").mkdir()
    put(tmp_path / "i" / "manifest.json")
    with pytest.raises(IndexFileError, match="no regular file"):
        read_manifest(tmp_path / "i")
    (tmp_path / "r").mkdir()
    put(tmp_path / "r" / "result.json")
    done = call("probes", "report", tmp_path / "r")
    assert (done.code, done.err.count("\n")) == (1, 1), done.err


@pytest.mark.case("X7")
def test_a_small_file_is_read_and_a_large_one_is_not(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert read_small(path) == b"abc"
    with pytest.raises(ValueError, match="over 2 bytes"):
        read_small(path, 2)


@pytest.mark.case("X7")
def test_weights_that_unpack_to_more_than_they_hold_are_refused(tmp_path):
    db = make_cohort(tmp_path / "db", patients=40)
    done = call("probes", "linear", db, "--label", "ill", "--group", "patient", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert read_bundle(tmp_path / "out").facts.classes
    weights = tmp_path / "out" / "weights.npz"
    with np.load(weights) as stored:
        arrays = {name: stored[name] for name in stored.files}
    np.savez_compressed(weights, **(arrays | {"model.bomb": np.zeros(1 << 24)}))
    assert weights.stat().st_size < 1 << 20
    with pytest.raises(ProbeError, match=r"weights\.npz is compressed"):
        read_bundle(tmp_path / "out")
    weights.unlink()
    os.mkfifo(weights)
    with pytest.raises(ProbeError, match="no regular file"):
        read_bundle(tmp_path / "out")


@pytest.mark.case("X5")
def test_an_index_folder_that_is_a_link_has_no_file_swept(tmp_path):
    store = make_table(tmp_path / "db", unit_rows(40, 8))
    other = tmp_path / "other"
    other.mkdir()
    (other / "index-mine.faiss").write_text("mine")
    store.index_directory.symlink_to(other)
    with pytest.raises(IndexFileError, match="is a link, which is not followed"):
        build_index(store, Goal(kind="exact"))
    assert [path.name for path in other.iterdir()] == ["index-mine.faiss"]


@pytest.mark.case("X5")
def test_a_page_replaces_a_link_and_not_the_file_behind_it(tmp_path):
    db = make_cohort(tmp_path / "db", patients=40)
    done = call("probes", "knn", db, "--label", "ill", "--group", "patient", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    (tmp_path / "mine.txt").write_text("mine")
    page = tmp_path / "out" / "report.html"
    page.unlink()
    page.symlink_to(tmp_path / "mine.txt")
    assert call("probes", "report", tmp_path / "out").code == 0
    assert (tmp_path / "mine.txt").read_text() == "mine"
    assert "<html" in page.read_text()
    assert not page.is_symlink()
    assert json.loads((tmp_path / "out" / "result.json").read_text())
