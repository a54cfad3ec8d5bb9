"""Weak signal, few patients, names of classes: what the numbers of small and awkward data must still be."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.neighbors import KNeighborsClassifier

from indexer.store.rows import TextVectors
from indexer.store.table import EmbeddingStore
from indexer.store.text import write_text
from probes.cohort.positive import is_absence
from probes.cohort.truth import class_truth
from probes.evaluation.metrics import macro_auc_error
from probes.fitting.estimators import Recipe
from probes.fitting.selection import choose_penalty
from probes.fitting.sweep import UNCHOSEN, Candidate, choose
from probes.fitting.train import cross_fit
from tests.commands import call
from tests.probes.cohort import make_rows, rows_of
from tests.probes.test_rows import probe, refusal


def weak(seed, n=600, dim=24):
    """Three of 24 features carry a little of the class; one image a patient."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    x = rng.standard_normal((n, dim))
    x[:, :3] += 0.45 * (2 * y - 1)[:, None]
    return x, y


def weak_table(folder, seed, names=("ok", "defective")):
    x, y = weak(seed)
    make_rows(folder, x, [{"patient": f"p{i}", "state": names[v]} for i, v in enumerate(y)])
    return str(folder)


STATE = ("--label", "state", "--group", "patient")


@pytest.mark.case("N2")
@pytest.mark.parametrize("seed", range(6))
def test_on_weak_signal_the_operating_point_holds_on_the_tested_model(tmp_path, seed):
    found = probe("linear", weak_table(tmp_path, seed), *STATE)
    (point,) = found["operating"]
    rates = {name: value["value"] for name, value in point["rates"].items()}
    assert 0.75 <= rates["specificity"] <= 0.99
    assert 0.3 <= rates["sensitivity"] <= 0.75
    assert found["test"]["metrics"]["balanced_accuracy"]["value"] > 0.68
    assert found["selection"]["value"] >= 1e-3
    assert not any("calls every test row" in text or "misses its specificity" in text for text in found["warnings"])


@pytest.mark.case("N2")
def test_held_out_scores_are_those_of_scikit_learn_fitted_without_each_rows_group():
    x, y = weak(3, n=240)
    x = x.astype(np.float32)
    groups = np.repeat(np.arange(80), 3)
    rows, logits = cross_fit(Recipe("linear"), x, class_truth(y, ("a", "b")), (groups, 5), (0.05, None))
    expected = np.empty(240)
    for fit_at, held_at in StratifiedGroupKFold(5, shuffle=True, random_state=5).split(x, y, groups):
        model = LogisticRegression(C=0.05, tol=1e-10, max_iter=5000).fit(x[fit_at], y[fit_at])
        expected[held_at] = model.decision_function(x[held_at])
    assert sorted(rows) == list(range(240))
    assert logits[:, 1] - logits[:, 0] == pytest.approx(expected[rows], abs=1e-2)


def test_knn_thresholds_come_from_votes_of_all_other_fitted_patients(tmp_path):
    db = weak_table(tmp_path / "db", 1)
    found = probe("knn", db, *STATE, "-k", "20", "--vote", "uniform", "--out", tmp_path / "out")
    table = EmbeddingStore.open(db).vectors(None, ["key", "patient", "state"])
    unit = table.vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    from probes.cohort.splits import hash_split

    names, groups = np.unique(table.columns.column("patient").to_pylist(), return_inverse=True)
    split = hash_split(groups, names.tolist(), "")
    fitted = np.concatenate([split.train, split.val])
    y = np.array(table.columns.column("state").to_pylist()) == "defective"
    votes = []
    for row in split.val:
        others = fitted[fitted != row]
        votes.append(KNeighborsClassifier(20).fit(unit[others], y[others]).predict_proba(unit[[row]])[0, 1])
    threshold = found["operating"][0]["threshold"]
    logit = found["temperature"] * np.log(threshold / (1 - threshold))
    votes, own = np.array(votes), y[split.val]
    at = 1 / (1 + np.exp(-logit)) - 1e-6
    assert found["operating"][0]["validation_specificity"] == pytest.approx((votes[~own] < at).mean())
    assert found["operating"][0]["validation_sensitivity"] == pytest.approx((votes[own] >= at).mean())


@pytest.mark.case("N2")
def test_a_specificity_that_the_test_rows_miss_is_said(tmp_path):
    x, y = weak(0)
    part = np.array([("train", "train", "val", "test")[i % 4] for i in range(600)])
    x[(part == "test") & (y == 0), :3] += 1.5  # another site: its negatives score higher
    rows = [{"patient": f"p{i}", "state": ("ok", "defective")[v], "side": part[i]} for i, v in enumerate(y)]
    make_rows(tmp_path, x, rows)
    found = probe("linear", str(tmp_path), *STATE, "--split", "side")
    specificity = found["operating"][0]["rates"]["specificity"]
    assert specificity["high"] < 0.9
    said = next(text for text in found["warnings"] if "misses its specificity" in text)
    assert f"{specificity['value']:.3f}" in said
    assert "0.9 asked for" in said


@pytest.mark.case("N2")
def test_candidates_within_one_standard_error_are_told_apart_by_log_loss_and_constant_ones_are_never_chosen():
    lucky = Candidate(1e-7, 0.71, log_loss=0.69, auc_error=0.05, constant=True)
    best = Candidate(1e4, 0.70, log_loss=0.9, auc_error=0.05)
    sound, small = Candidate(0.1, 0.68, log_loss=0.62), Candidate(0.01, 0.67, log_loss=0.66)
    far = Candidate(1e-4, 0.6, log_loss=0.5)
    assert choose([lucky, best, sound, small, far]) is sound
    assert choose([lucky, Candidate(1e-6, 0.7, constant=True)]) is lucky  # nothing else is there
    assert choose([Candidate(1.0, 0.9, converged=False), Candidate(0.1, 0.8)]).value == 0.1


def test_the_standard_error_of_an_area_is_hanley_and_mcneils():
    y = np.repeat([0, 1], [60, 40])
    a, q1, q2 = 0.8, 0.8 / 1.2, 2 * 0.64 / 1.8
    expected = np.sqrt((a * (1 - a) + 39 * (q1 - a * a) + 59 * (q2 - a * a)) / (40 * 60))
    assert macro_auc_error(0.8, class_truth(y, ("a", "b"))) == pytest.approx(expected)
    rng = np.random.default_rng(0)  # and what it says is what resampled scores do
    shift = np.sqrt(2) * 0.8416212
    from sklearn.metrics import roc_auc_score

    spread = np.std([roc_auc_score(y, rng.standard_normal(100) + shift * y) for _ in range(2000)])
    assert expected == pytest.approx(spread, rel=0.1)


@pytest.mark.case("N3")
@pytest.mark.parametrize("options", [(), ("--penalty", "0.5")], ids=["default", "fixed"])
@pytest.mark.parametrize("kind", ["linear", "svm", "mlp", "prototype", "knn"])
def test_one_patient_of_a_class_in_train_is_enough_to_fit(tmp_path, kind, options):
    if options and kind in ("prototype", "knn"):
        options = ()
    rng = np.random.default_rng(0)
    ill = [int(i // 4 in (0, 21, 22)) for i in range(100)]
    rows = [{"p": f"p{i // 4:02d}", "y": v, "side": "train" if i < 80 else "test"} for i, v in enumerate(ill)]
    make_rows(tmp_path, rng.standard_normal((100, 8)) + 2 * np.array(ill)[:, None], rows)
    found = probe(kind, tmp_path, "--label", "y", "--group", "p", "--split", "side", *options)
    assert found["test"]["metrics"]["auc_macro"]["value"] > 0.9
    if kind in ("linear", "svm", "mlp") and not options:
        assert found["selection"]["inner"] == UNCHOSEN
        assert any("nothing could choose" in text for text in found["warnings"])


@pytest.mark.case("N3")
def test_folds_that_show_one_class_are_left_out_of_the_choice():
    x, y = weak(0, n=120)
    truth = class_truth(y, ("a", "b"))
    one, rest = np.flatnonzero(y == 0)[:20], np.arange(60, 120)
    inner = choose_penalty(Recipe("linear"), x, truth, [(one, rest), (np.arange(60), rest)], value=1.0)
    assert inner.rows.tolist() == rest.tolist()
    only = choose_penalty(Recipe("linear"), x, truth, [(one, rest)])
    assert (only.selection.inner, only.selection.value, len(only.rows)) == (UNCHOSEN, 1.0, 0)


NAMES = [
    (("ok", "defective"), "defective", "absence"),
    (("0_intact", "1_defective"), "1_defective", "absence"),
    (("normal", "cancer"), "cancer", "absence"),
    (("Healthy", "glaucoma"), "glaucoma", "absence"),
    (("no tumour", "tumour"), "tumour", "absence"),
    (("non-malignant", "malignant"), "malignant", "absence"),
    (("benign", "malignant"), "malignant", "absence"),
    (("NEG", "POS"), "POS", "absence"),
    (("cat", "dog"), "dog", "order"),
    (("no", "none"), "none", "order"),
]


@pytest.mark.case("M2")
@pytest.mark.parametrize(("names", "positive", "reason"), NAMES, ids=lambda v: str(v))
def test_the_positive_class_is_never_a_word_for_absence_and_a_guess_is_said(tmp_path, names, positive, reason):
    found = probe("prototype", weak_table(tmp_path, 0, names), *STATE)
    assert found["positive"] == {"name": positive, "reason": reason}
    assert found["operating"][0]["column"] == positive
    assert [c["name"] for c in found["test"]["classes"]][-1] == positive
    assert any("name the right one with --positive" in text for text in found["warnings"]) == (reason == "order")


@pytest.mark.case("M2")
def test_numbers_do_not_depend_on_how_the_classes_are_named(tmp_path):
    found = [
        probe("linear", weak_table(tmp_path / str(i), 2, names), *STATE, *asked)
        for i, (names, asked) in enumerate(
            ((("ok", "defective"), ()), (("0", "1"), ()), (("b", "a"), ("--positive", "a")))
        )
    ]
    rates = [{name: value["value"] for name, value in result["operating"][0]["rates"].items()} for result in found]
    assert rates[0] == pytest.approx(rates[1], abs=1e-6)
    assert rates[0] == pytest.approx(rates[2], abs=1e-6)
    assert found[2]["positive"] == {"name": "a", "reason": "asked"}


@pytest.mark.case("M2")
def test_the_asked_positive_class_is_the_one_of_patients_and_pages(tmp_path):
    rng = np.random.default_rng(0)
    labels = [("benign", "cancer")[int(i % 5 == 0)] for i in range(300)]  # one image of five, a patient's whole truth
    rows = [{"patient": f"p{i // 5}", "state": v if i // 5 % 2 else "benign"} for i, v in enumerate(labels)]
    x = rng.standard_normal((300, 6)) + 1.5 * np.array([r["state"] == "cancer" for r in rows])[:, None]
    make_rows(tmp_path / "db", x, rows)
    out = tmp_path / "out"
    found = probe("linear", tmp_path / "db", *STATE, "--out", out)
    with_cancer = next(c for c in found["patients"]["classes"] if c["name"] == "cancer")
    assert 0 < with_cancer["positives"] < with_cancer["rows"]
    assert "positive class: cancer (the other is a word for absence)" in (out / "report.html").read_text()
    text = call("probes", "linear", tmp_path / "db", *STATE, "--replicates", "20", "--positive", "benign").out
    assert "positive class: benign (as asked)" in text
    assert json.loads((out / "result.json").read_text())["positive"]["name"] == "cancer"
    assert call("probes", "rerun", out, "--json").json["reproduced"]


@pytest.mark.case("M2")
def test_a_positive_class_that_is_none_is_refused_with_those_there_are(tmp_path):
    db = weak_table(tmp_path, 0)
    assert "--positive bad is not a class of the label; there are: defective, ok" in refusal(
        "linear", db, *STATE, "--positive", "bad"
    )
    vectors, metadata = rows_of(40)
    make_rows(tmp_path / "three", vectors, metadata)
    three = ("--label", "finding", "--group", "patient", "--positive", "mass")
    assert "is of a label with two classes, this one has 3" in refusal("linear", tmp_path / "three", *three)
    done = call("probes", "linear", db, "--label", "a,b", "--multilabel", "--group", "patient", "--positive", "a")
    assert done.code == 2


@pytest.mark.parametrize("name", ["tumour", "nodule", "notch", "nonunion", "1", "abnormal", "positive", "okayish"])
def test_a_name_that_only_begins_like_absence_is_a_presence(name):
    assert not is_absence(name)


def test_zero_shot_keeps_texts_and_classes_together_when_the_positive_one_moves(tmp_path):
    vectors, metadata = rows_of(80)
    for row in metadata:
        row["state"] = ("normal", "ill")[row["ill"]]
    store = make_rows(tmp_path / "db", vectors, metadata)
    unit = vectors.astype(np.float64)
    ill = np.array([row["ill"] == 1 for row in metadata])
    means = np.stack([unit[ill].mean(0), unit[~ill].mean(0)])
    texts = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    write_text(store, "state", TextVectors(("ill", "normal"), texts, 20.0, None))
    found = probe("zero-shot", tmp_path / "db", *STATE, "--task", "state")
    assert [c["name"] for c in found["test"]["classes"]] == ["normal", "ill"]
    assert found["test"]["metrics"]["auc_macro"]["value"] > 0.7
