"""D31, D32: images to look at, repeated splits and the multiverse."""

from __future__ import annotations

import csv
from html import unescape

import numpy as np
import pytest

from indexer.store.table import EmbeddingStore
from probes.evaluation.examples.label_errors import confident, normalised_margin
from tests.commands import call
from tests.probes.cohort import make_cohort, make_rows, make_separable, rows_of
from tests.probes.test_results import FINDING
from tests.probes.test_rows import ILL, probe


def test_the_confident_joint_is_that_of_its_definition():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7], [0.45, 0.55]])
    codes = np.array([0, 0, 0, 1, 1])
    found = confident(p, codes)
    assert found.thresholds == pytest.approx([(0.9 + 0.2 + 0.6) / 3, (0.7 + 0.55) / 2])
    assert found.suggested.tolist() == [0, 1, 0, 1, -1]
    assert found.joint.tolist() == [[2, 1], [0, 1]]
    assert found.suspects(codes).tolist() == [1]
    assert normalised_margin(p, codes) == pytest.approx([0.8, -0.6, 0.2, 0.4, 0.1])


def test_flipped_labels_are_the_first_suspects_and_every_list_is_in_the_csv(tmp_path):
    make_separable(tmp_path / "clean", patients=60)
    table = EmbeddingStore.open(str(tmp_path / "clean")).vectors(None, ["key", "colour", "patient"])
    metadata = [
        {"colour": c, "patient": p}
        for c, p in zip(*(table.columns.column(n).to_pylist() for n in ("colour", "patient")), strict=True)
    ]
    flipped = list(range(7, 240, 40))
    for i in flipped:
        metadata[i]["colour"] = "blue" if metadata[i]["colour"] != "blue" else "red"
    make_rows(tmp_path / "db", table.vectors.astype(np.float64), metadata)
    found = probe("linear", str(tmp_path / "db"), "--label", "colour", "--group", "patient", "--review",
                  "--out", tmp_path / "out")["review"]["examples"]  # fmt: skip
    keys = EmbeddingStore.open(str(tmp_path / "db")).vectors(None, ["key"]).columns.column("key").to_pylist()
    suspects = [e["key"] for e in found["shown"] if e["kind"] == "suspect"]
    assert set(suspects[: len(flipped)]) == {keys[i] for i in flipped}
    with (tmp_path / "out" / "examples.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["key"] for line in lines if line["kind"] == "suspect"] == suspects
    assert {line["kind"] for line in lines} >= {"error", "doubtful", "suspect", "prototype", "outlier"}
    assert len(lines) == len(found["shown"])
    page = unescape((tmp_path / "out" / "report.html").read_text())
    assert all(key in page for key in suspects[:5])


def test_an_error_stands_beside_its_nearest_fitted_images_of_other_patients(tmp_path):
    db = make_cohort(tmp_path / "db")
    found = probe("linear", db, *FINDING, "--review")
    table = EmbeddingStore.open(db).vectors(None, ["key", "finding", "patient"])
    keys, labels, patients = (np.array(table.columns.column(n).to_pylist()) for n in ("key", "finding", "patient"))
    x = table.vectors.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    errors = [e for e in found["review"]["examples"]["shown"] if e["kind"] == "error"]
    assert len(errors) == found["review"]["examples"]["errors"] > 3
    tested = {e["group"] for e in errors}
    for error in errors[:5]:
        assert error["label"] != error["called"]
        me = int(np.flatnonzero(keys == error["key"])[0])
        assert labels[me] == error["label"]
        cosines = x @ x[me]
        for near in error["neighbours"]:
            other = int(np.flatnonzero(keys == near["key"])[0])
            assert near["cosine"] == pytest.approx(cosines[other], abs=1e-3)
            assert near["label"] == labels[other]
            assert patients[other] not in tested  # of the fitted rows
        assert [n["cosine"] for n in error["neighbours"]] == sorted(
            (n["cosine"] for n in error["neighbours"]), reverse=True
        )


def test_prototypes_are_near_the_mean_of_their_class(tmp_path):
    db = make_cohort(tmp_path / "db", patients=60)
    shown = probe("linear", db, *FINDING, "--review")["review"]["examples"]["shown"]
    near = [e["score"] for e in shown if e["kind"] == "prototype" and e["label"] == "mass"]
    far = [e["score"] for e in shown if e["kind"] == "outlier" and e["label"] == "mass"]
    assert len(near) == len(far) == 5
    assert near == sorted(near, reverse=True)
    assert far == sorted(far)
    assert len({e["group"] for e in shown if e["kind"] == "prototype" and e["label"] == "mass"}) == 5


def test_repeats_are_the_results_of_their_salts_and_the_multiverse_holds_the_result(tmp_path):
    db = make_cohort(tmp_path / "db", patients=80)
    found = probe("linear", db, *ILL, "--repeats", "2", "--multiverse")
    areas = next(s for s in found["review"]["repeats"] if s["metric"] == "auc_macro")
    own = [
        probe("linear", db, *ILL, "--salt", f"#{number}")["test"]["metrics"]["auc_macro"]["value"] for number in (1, 2)
    ]
    assert areas["values"] == pytest.approx(own)
    assert (areas["mean"], areas["sd"]) == pytest.approx((np.mean(own), np.std(own, ddof=1)))
    choices = found["review"]["multiverse"]
    assert len(choices) == 3 * 2 * 3 * 3
    same = [c for c in choices if (c["scaling"], c["penalty"], c["seed"]) == ("l2", "inner validation", "salt ''")]
    by = {c["pooling"]: c["auc_macro"] for c in same}
    assert by["rows"] == pytest.approx(found["test"]["metrics"]["auc_macro"]["value"])
    assert by["mean of a group"] == pytest.approx(found["patients"]["metrics"]["auc_macro"]["value"])


def test_a_multiverse_of_splits_without_a_positive_test_row_says_that_its_area_is_not_defined(tmp_path):
    vectors, metadata = rows_of(40)
    for row in metadata:
        row["ill"] = int(row["patient"] in ("patient 003", "patient 004"))
    make_rows(tmp_path / "db", vectors, metadata)
    done = call("probes", "linear", tmp_path / "db", *ILL, "--salt", "s11", "--multiverse", "--replicates", 10,
                "--out", tmp_path / "out")  # fmt: skip
    assert "multiverse of 54: macro AUC not defined" in done.out, done.err
    assert "Sensitivity to the protocol" in (tmp_path / "out" / "report.html").read_text()


def test_labels_have_examples_that_rank_together_and_a_decision_curve_each(tmp_path):
    db = make_cohort(tmp_path / "db")
    found = probe("linear", db, "--label", "a,b", "--multilabel", "--group", "patient", "--review",
                  "--out", tmp_path / "out")["review"]  # fmt: skip
    known = [sum(row[name] is not None for row in rows_of(120)[1]) for name in "ab"]
    assert found["examples"]["scored"] <= sum(known)  # a row counts once for each label that is known
    shown = {kind: [e for e in found["examples"]["shown"] if e["kind"] == kind] for kind in ("error", "suspect")}
    for examples in shown.values():
        assert {e["label"].split(":")[0] for e in examples} == {"a", "b"}
    prototypes = {e["label"] for e in found["examples"]["shown"] if e["kind"] == "prototype"}
    assert prototypes == {"a", "b"}  # of the rows that have the label
    assert len((tmp_path / "out" / "examples.csv").read_text().splitlines()) == 1 + len(found["examples"]["shown"])
    assert [c["name"] for c in found["decision"]] == ["a", "b"]
