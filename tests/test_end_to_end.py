"""From a DICOM tree to search and a probe by the commands alone, held against numpy."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from indexer.demo import __main__ as demo
from indexer.demo import review
from indexer.demo.volume import Slice, slices, write_dicom
from probes.runs.result_files import read_result
from tests.archives import picture
from tests.commands import call


def grey(seed: int) -> np.ndarray:
    return picture(seed, 96).mean(axis=2).astype(np.float32) / 255


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """40 DICOM slices, a truncated one and a letter, packed and indexed; 5 of them as PNG queries."""
    root = tmp_path_factory.mktemp("tree")
    for i in range(40):
        folder = root / "dicom" / f"study{i % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        write_dicom(Slice("axial", float(i), grey(i), query=False), folder / f"{i:03d}")
    whole = (root / "dicom" / "study0" / "000").read_bytes()
    (root / "dicom" / "cut.dcm").write_bytes(whole[: len(whole) // 2])
    (root / "dicom" / "letter.dcm").write_bytes(b"Dear colleague, " * 20)
    for i in range(5):
        Image.fromarray((grey(i) * 255).round().astype(np.uint8)).save(root / f"q{i}.png")
    secret = ("--secret", root / "secret", "--new-secret")
    packed = call("indexer", "pack", root / "dicom", root / "shards", *secret, "--json").json
    assert packed["left_out"] == {"DICOM header that cannot be de-identified": 1}  # the letter
    done = call("indexer", "index", root / "shards", root / "db", "--json")
    assert done.code == 0, done.err
    assert (done.json["embedded"], done.json["failed"]) == (40, 1)  # the truncated one
    return root


def exact(root, vectors, k):
    """Keys and cosines of the k nearest stored rows, in float64 on the exported vectors."""
    assert call("indexer", "export", root / "db", root / "all.npy").code == 0
    stored = np.load(root / "all.npy").astype(np.float64)
    keys = (root / "all.keys.txt").read_text().splitlines()
    scores = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ stored.T
    order = np.argsort(-scores, axis=1)[:, :k]
    return [[keys[j] for j in row] for row in order], np.take_along_axis(scores, order, 1)


def test_search_of_image_files_finds_what_numpy_finds_on_the_exported_vectors(root):
    queries = [root / f"q{i}.png" for i in range(5)]
    assert call("indexer", "embed", root / "db", *queries, "--out", root / "q.npy").code == 0
    keys, scores = exact(root, np.load(root / "q.npy").astype(np.float64), 7)
    for more in ([], ["--exact"]):
        answers = call("indexer", "search", root / "db", *queries, "-k", 7, *more, "--json").json["queries"]
        assert [[hit["key"] for hit in answer["hits"]] for answer in answers] == keys
        np.testing.assert_allclose([[hit["score"] for hit in a["hits"]] for a in answers], scores, atol=2e-3)


def test_a_picture_finds_the_dicom_file_it_was_drawn_from(root):
    answers = call("indexer", "search", root / "db", root / "q3.png", "-k", 1, "--columns", "slice_location", "--json")
    assert answers.json["queries"][0]["hits"][0]["columns"]["slice_location"] == 3.0


def test_the_index_gives_the_same_hits_as_the_scan(root):
    assert call("indexer", "build-ann", root / "db").code == 0
    ask = ("indexer", "search", root / "db", root / "q0.png", root / "q1.png", "-k", 10, "--json")
    indexed, scanned = (json.loads(call(*ask, *more).out)["queries"] for more in ([], ["--exact"]))
    assert [[h["key"] for h in q["hits"]] for q in indexed] == [[h["key"] for h in q["hits"]] for q in scanned]


def test_each_file_is_a_row_or_a_named_failure(root):
    failures = call("indexer", "failures", root / "db", "--json").json
    assert [f["reason"] for f in failures] == ["truncated"]
    (fact,) = call("indexer", "info", root / "db", "--json").json
    assert fact["rows"] + fact["failures"] == 41  # and the letter, which pack has named


def test_the_demo_finds_more_than_raw_pixels_do_and_ends_with_one_self_contained_page(tmp_path, monkeypatch, capsys):
    def step(program, *arguments, capture=False):
        done = call(program, *arguments)
        assert done.code == 0, done.err
        return done.out

    monkeypatch.setattr(demo, "step", step)
    monkeypatch.setattr(review, "step", step)
    monkeypatch.setattr(review, "REVIEW", (*review.REVIEW, "--replicates", "50"))
    monkeypatch.setattr(demo, "slices", lambda: [s for s in slices() if s.query or round(s.millimetres) % 2 == 0])
    demo.demo.main(["--out", str(tmp_path / "out")], standalone_mode=False)
    shares = re.findall(r"^(?:sagittal|coronal|axial) +\d+ +([\d.]+) +([\d.]+)", capsys.readouterr().out, re.MULTILINE)
    assert len(shares) == 3
    assert all(float(embedding) > float(raw) for embedding, raw in shares)
    page = (tmp_path / "out" / "demo.html").read_text()
    assert page.count("src='data:image/png;base64,") == 9 * 5
    assert page.count("<svg") == page.count("<table class='grid named'>") == 2  # each probe's curve, and its errors
    links = re.findall(r"""(?:src|href)\s*=\s*["']?([^\s"'>]+)""", page) + re.findall(r"url\(([^)]+)\)", page)
    beside = [link for link in links if not link.startswith(("data:", "#"))]  # the probes' own reports
    files = [link.partition("#")[0] for link in beside]
    assert list(dict.fromkeys(files)) == ["probe-linear/report.html", "probe-knn/report.html", "review.html"]
    assert all((tmp_path / "out" / link).is_file() for link in files)
    reviewed = (tmp_path / "out" / "review.html").read_text()
    assert all(f"id='{link.partition('#')[2]}'" in reviewed for link in beside if "#" in link)
    assert "images of elsewhere?" in reviewed
    assert reviewed.count("src='data:image/png;base64,") > 20  # errors, suspects and typical slices
    linear = read_result(tmp_path / "out" / "probe-linear").test.metrics["auc_macro"]
    assert f"<b>{linear.value:.3f}</b> <span class='ci'>({linear.low:.3f} to {linear.high:.3f})" in page
    assert "one average brain" in page.lower()
    with pytest.raises(Exception, match="not a former demo's"):
        demo.demo.main(["--out", str(tmp_path)], standalone_mode=False)
