"""Classes that any probe tells apart, through the command line: where every inner AUC is 1."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

from probes.reporting.words import number
from probes.runs.cautions import warnings_of_calls
from tests.commands import call
from tests.probes.cohort import make_cohort, make_separable
from tests.probes.test_rows import ILL, probe

COLOUR = ("--label", "colour", "--group", "patient")


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    return make_separable(tmp_path_factory.mktemp("separable"))


@pytest.mark.parametrize("kind", ["linear", "svm"])
def test_the_penalty_gives_every_row_its_own_class_though_all_penalties_rank_alike(db, tmp_path, kind):
    found = probe(kind, db, *COLOUR, "--out", tmp_path)
    assert {c["auc"] for c in found["selection"]["candidates"]} == {1.0}
    assert not found["selection"]["at_edge"]
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
    called = np.stack([rows[f"p({name})"] for name in ("blue", "grey", "red")], 1)
    assert [("blue", "grey", "red")[i] for i in called.argmax(1)] == rows["true"]
    assert called.max(1).min() > 0.9
    assert found["calibration"]["before"]["log_loss"] < 0.3  # by the penalty alone; chance: 1.1
    assert all(o["rates"]["sensitivity"]["value"] == 1 for o in found["operating"])
    assert not any("calls" in text for text in found["warnings"])


@pytest.mark.parametrize("split", ["hash", "nested"])
def test_a_probe_that_calls_one_class_is_warned_of(db, split):
    found = probe("linear", db, *COLOUR, "--penalty", "1e-9", "--split", split)
    assert found["test"]["metrics"]["auc_macro"]["value"] == 1
    assert found["test"]["metrics"]["balanced_accuracy"]["value"] < 0.7
    where = "in a fold " if split == "nested" else ""
    assert f"{where}the probe calls every test row 'grey'" in found["warnings"]


@pytest.mark.parametrize("split", ["hash", "nested"])
def test_a_temperature_that_its_range_stopped_is_warned_of(db, split):
    found = probe("svm", db, *COLOUR, "--penalty", "1e-9", "--split", split)  # decision values of 1e-8: it needs less
    where = "in a fold " if split == "nested" else ""
    words = f"{where}the temperature is at the bound of its search (0.01)"
    assert any(text.startswith(words) for text in found["warnings"])


def test_a_class_that_is_never_called_is_named():
    classes = ("grey", "red", "blue")
    assert warnings_of_calls(np.array([[3, 0, 0], [2, 0, 0], [1, 0, 0]]), classes) == (
        "the probe calls every test row 'grey'",
    )
    assert "no test row blue," in warnings_of_calls(np.array([[3, 0, 0], [0, 2, 0], [1, 1, 0]]), classes)[0]
    assert warnings_of_calls(np.diag([1, 1, 1]), classes) == ()
    assert warnings_of_calls(np.array([[4, 0, 0], [0, 0, 0], [0, 0, 0]]), classes) == ()  # the test rows hold one class
    assert warnings_of_calls(np.zeros((0, 0), int), classes) == ()  # labels have no confusion matrix


@pytest.mark.case("U11")
def test_a_perfect_score_has_the_bound_of_its_groups_for_an_interval_and_says_so(db):
    done = call("probes", "linear", db, *COLOUR, "--replicates", "50")
    lines = done.out.splitlines()
    note = "  note: every resample separates perfectly: the AUC's lower end is what 4 groups can show at most"
    assert next(i for i, line in enumerate(lines) if "AUC, macro" in line) < lines.index(note)
    assert lines.index(note) < next(i for i, line in enumerate(lines) if "class  positives" in line)


def test_an_ordinary_result_has_none_of_these_words(cohort_db):
    text = call("probes", "linear", cohort_db, *ILL, "--replicates", "50").out
    assert not any(words in text for words in ("every resample", "the probe calls", "is at the bound"))


@pytest.fixture(scope="module")
def cohort_db(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"))


def test_zero_is_never_printed_as_less_than_nothing(db):
    assert "-0.000" not in call("probes", "mlp", db, *COLOUR, "--replicates", "50").out
    assert [number(v) for v in (-0.0, -0.0004, -0.0006, float("nan"))] == ["0.000", "0.000", "-0.001", "not defined"]
