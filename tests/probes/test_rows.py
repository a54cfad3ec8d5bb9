"""D0-D2 through the command line: what a probe takes as rows, how it splits them, and which leaks it finds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from indexer.store.labelling.join import add_columns
from indexer.store.table import EmbeddingStore
from tests.commands import call
from tests.probes.cohort import DIM, make_cohort, make_rows, rows_of, unit
from tests.tables import add_shard

QUICK = ("--replicates", "100", "--json")


def probe(kind, db, *options):
    done = call("probes", kind, db, *options, *QUICK)
    assert done.code == 0, done.err
    return done.json


def refusal(kind, db, *options):
    """The one line of an error of ours."""
    done = call("probes", kind, db, *options, *QUICK)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    return done.err


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"))


ILL = ("--label", "ill", "--group", "patient")


def test_an_image_level_split_says_so_in_the_first_line(cohort):
    done = call("probes", "linear", cohort, "--label", "ill", "--group", "none", "--replicates", "50")
    assert done.out.splitlines()[0] == "image-level split: results may be inflated"
    assert probe("linear", cohort, "--label", "ill", "--group", "none")["split"]["level"] == "image"
    grouped = call("probes", "linear", cohort, *ILL, "--replicates", "50")
    assert grouped.out.startswith("patient-level split: no patient is on two sides (120 in all)\n")


def test_splits_and_audit_stand_before_every_number(cohort):
    text = call("probes", "linear", cohort, *ILL, "--replicates", "50").out
    order = [text.index(words) for words in ("patient-level", "warning:", "split hash", "near-duplicate audit", "AUC")]
    assert order == sorted(order)


def test_a_row_without_a_patient_is_an_error_that_names_it(tmp_path):
    vectors, metadata = rows_of(30)
    metadata[7]["patient"] = None
    make_rows(tmp_path, vectors, metadata)
    assert "1 labelled rows have no patient (e.g. k7)" in refusal("linear", str(tmp_path), *ILL)
    assert probe("linear", str(tmp_path), *ILL, "--where", "patient IS NOT NULL")["flow"]["labelled"] == 89


def test_zero_and_nan_vectors_are_refused_by_key(tmp_path):
    vectors, metadata = rows_of(30)
    vectors = vectors.copy()
    store = make_rows(tmp_path, vectors, metadata)
    bad = np.stack([np.zeros(DIM), np.full(DIM, np.nan)]).astype(np.float16)
    add_shard(store, "second", ["zero", "nan"], bad, metadata[:2])
    assert "2 vectors are zero or not finite (keys zero, nan)" in refusal("linear", str(tmp_path), *ILL)


def test_rows_with_a_null_or_nan_label_are_left_out_and_counted(tmp_path):
    vectors, metadata = rows_of(40)
    for row in metadata:
        row["score"] = float(row["ill"])
    metadata[3]["score"], metadata[4]["score"], metadata[5]["ill"] = float("nan"), None, None
    make_rows(tmp_path, vectors, metadata)
    assert probe("linear", str(tmp_path), *ILL)["flow"]["unlabelled"] == 1
    flow = probe("linear", str(tmp_path), "--label", "score", "--group", "patient")["flow"]
    assert (flow["embedded"], flow["unlabelled"], flow["labelled"]) == (120, 2, 118)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--label", "nothing", "--group", "patient"), "no column 'nothing'"),
        (("--label", "ill", "--group", "person"), "no column 'person'"),
        ((*ILL, "--split", "fold"), "no column 'fold'"),
        ((*ILL, "--split", "sex"), "the split column holds"),
        ((*ILL, "--where", "ill = 0"), "holds one class only (0)"),
        ((*ILL, "--where", "ill = 7"), "no rows in table t match --where"),
        ((*ILL, "--where", "patient = 'patient 003'"), "one class only"),
        (("--label", "finding", "--group", "patient", "--ordinal"), "ordinal grades must be numbers"),
        (("--label", "ill,grade", "--multilabel", "--group", "patient"), "a label of --multilabel holds 0, 1 or null"),
        (("--label", "ill,sex", "--multilabel", "--group", "patient"), "column sex is string"),
    ],
)
def test_what_cannot_be_probed_is_an_error_in_one_line(cohort, options, words):
    assert words in refusal("linear", cohort, *options)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ([{"p": "one", "y": 0}, {"p": "two", "y": 1}], "is empty|one class only|cannot be split"),
        ([{"p": "one", "y": i % 2} for i in range(20)], "is empty|cannot be split|one class only"),
        ([{"p": str(i), "y": int(i == 0)} for i in range(20)], "one class only"),
    ],
    ids=["two rows", "one patient", "one positive"],
)
@pytest.mark.parametrize("split", ["hash", "stratified", "nested"])
@pytest.mark.parametrize("kind", ["linear", "knn"])
def test_too_little_data_is_an_error_in_words_or_a_named_nan(tmp_path, metadata, words, split, kind):
    make_rows(tmp_path, np.random.default_rng(0).standard_normal((len(metadata), 6)), metadata)
    done = call("probes", kind, tmp_path, "--label", "y", "--group", "p", "--split", split, *QUICK)
    if done.code:
        assert any(word in done.err for word in words.split("|")), done.err
        assert done.err.count("\n") == 1
        return
    named = [c["name"] for c in done.json["test"]["classes"] if c["auc"]["value"] is None]
    assert named == done.json["test"]["excluded"]
    assert done.json["test"]["metrics"]["auc_macro"]["value"] is None
    assert any("metrics not defined" in text for text in done.json["warnings"])


@pytest.mark.parametrize("salt", ["a", "b", "h"])
@pytest.mark.parametrize("split", ["hash", "stratified"])
def test_two_patients_are_an_error_that_counts_them(tmp_path, salt, split):
    metadata = [{"p": f"p{i // 10}", "y": "ab"[i // 10]} for i in range(20)]
    make_rows(tmp_path, np.random.default_rng(0).standard_normal((20, 6)), metadata)
    how = ("--salt", salt) if split == "hash" else ("--split", split)
    assert "2 groups" in refusal("linear", tmp_path, "--label", "y", "--group", "p", *how)


def test_a_column_without_any_value_is_named_as_such(tmp_path):
    db = make_cohort(tmp_path, patients=20)
    store = EmbeddingStore.open(db)
    keys = store.vectors(None, ["key"]).columns.column("key")
    add_columns(store, pa.table({"key": keys, "nothing": pa.nulls(len(keys))}))
    refused = refusal("linear", db, "--label", "nothing", "--group", "patient")
    assert "column nothing has no value" in refused
    assert "60 labelled rows have no nothing" in refusal("linear", db, "--label", "ill", "--group", "nothing")


def test_a_class_that_train_or_test_lacks_is_named_and_in_no_mean(tmp_path):
    vectors, metadata = rows_of(60)
    for i, row in enumerate(metadata):
        row["finding"] = "rare" if row["side"] == "val" and i % 2 else row["finding"]
        if row["side"] == "test" and i % 5 == 2:
            row["finding"] = "unseen"
    make_rows(tmp_path, vectors, metadata)
    rows = ("--label", "finding", "--group", "patient", "--split", "side")
    for kind in ("linear", "knn", "prototype", "svm"):
        found = probe(kind, str(tmp_path), *rows)
        assert found["split"]["absent"] == {"train": ["rare", "unseen"], "test": ["rare"]}, kind
        assert found["test"]["excluded"] == ["rare", "unseen"]
        defined = {c["name"]: c["auc"]["value"] for c in found["test"]["classes"]}
        assert defined["rare"] is defined["unseen"] is None
        others = [defined[name] for name in ("effusion", "mass", "none")]
        assert found["test"]["metrics"]["auc_macro"]["value"] == pytest.approx(np.mean(others))
        points = {o["column"]: o["threshold"] for o in found["operating"]}
        assert points["rare"] is points["unseen"] is None
    confusion = np.array(found["confusion"])
    recalls = (confusion.diagonal() / np.maximum(confusion.sum(1), 1))[:3]
    assert found["test"]["metrics"]["balanced_accuracy"]["value"] == pytest.approx(recalls.mean())


def test_where_val_shows_one_class_folds_of_train_choose(tmp_path):
    vectors, metadata = rows_of(80)
    keep = [i for i, row in enumerate(metadata) if row["side"] != "val" or row["ill"] == 0]
    make_rows(tmp_path, vectors[keep], [metadata[i] for i in keep])
    for kind in ("linear", "knn"):
        found = probe(kind, str(tmp_path), *ILL, "--split", "side")
        assert found["split"]["parts"]["val"]["classes"]["1"] == 0
        by_folds, by_groups = "5 grouped folds of train", "train rows, each without its own group"
        assert found["selection"]["inner"] == (by_folds if kind == "linear" else by_groups)
        assert not any(c["auc"] is None for c in found["selection"]["candidates"])
        assert found["operating"][0]["threshold"] is not None
        assert "val shows one class only: train rows choose in its place" in found["warnings"]
    without = make_rows(tmp_path / "no-val", *no_val(vectors, metadata))
    found = probe("linear", without.uri, *ILL, "--split", "side")
    assert found["selection"]["inner"] == "5 grouped folds of train"
    assert found["warnings"] == ["numbers has random weights: the vectors mean nothing"]


def test_one_test_patient_gives_no_interval(tmp_path):
    vectors, metadata = rows_of(60)
    for row in metadata:
        row["side"] = "test" if row["patient"] == "patient 004" else "train"
    metadata[13]["ill"] = 1 - metadata[12]["ill"]  # both classes in the one test patient
    make_rows(tmp_path, vectors, metadata)
    found = probe("linear", str(tmp_path), *ILL, "--split", "side")
    auc = found["test"]["metrics"]["auc_macro"]
    assert auc["value"] is not None
    assert (auc["low"], auc["high"], auc["reliable"]) == (None, None, False)
    assert any("an interval is unreliable" in text for text in found["warnings"])
    text = call("probes", "linear", tmp_path, *ILL, "--split", "side", "--replicates", "20").out
    assert f"{auc['value']:.3f}  (no interval)" in text


def no_val(vectors, metadata):
    keep = [i for i, row in enumerate(metadata) if row["side"] != "val"]
    return vectors[keep], [metadata[i] for i in keep]


def test_vectors_that_are_all_the_same_are_refused(tmp_path):
    _, metadata = rows_of(60)
    make_rows(tmp_path, np.ones((180, DIM)), metadata)
    for kind in ("linear", "knn", "svm"):
        assert "all vectors are alike" in refusal(kind, str(tmp_path), *ILL)


def test_where_every_test_row_has_a_twin_nothing_is_left_to_score_without_them(tmp_path):
    _, metadata = rows_of(60)
    rng = np.random.default_rng(0)
    make_rows(tmp_path, 1 + 0.01 * rng.standard_normal((180, DIM)), metadata)
    found = probe("linear", str(tmp_path), *ILL)
    assert found["audit"]["flagged"] == found["audit"]["test_rows"]
    assert found["without_duplicates"] is None
    assert any("nothing is left to score without them" in text for text in found["warnings"])


def test_a_feature_that_never_varies_disturbs_no_probe(tmp_path):
    vectors, metadata = rows_of(60)
    flat = vectors.astype(float)
    flat[:, 3] = 0
    make_rows(tmp_path, flat, metadata)
    for kind in ("linear", "knn", "prototype", "svm", "mlp"):
        done = call("probes", kind, tmp_path, *ILL, "--scaling", "zscore", *QUICK)
        assert (done.code, done.err) == (0, ""), kind
        assert done.json["test"]["metrics"]["auc_macro"]["value"] > 0.5


def test_more_patients_never_move_an_old_one(tmp_path):
    def parts(folder):
        out = tmp_path / f"{folder.name}-out"
        probe("prototype", str(folder), *ILL, "--out", out)
        return set(pq.read_table(out / "predictions.parquet").column("group").to_pylist())

    vectors, metadata = rows_of(120)
    few = int(np.flatnonzero([row["patient"] == "patient 079" for row in metadata])[-1]) + 1
    make_rows(tmp_path / "few", vectors[:few], metadata[:few])
    make_rows(tmp_path / "many", vectors, metadata)
    old, new = parts(tmp_path / "few"), parts(tmp_path / "many")
    assert old == {name for name in new if name <= "patient 079"}
    assert len(new) > len(old)


def test_a_salt_is_another_split_and_a_seed_another_stratified_one(cohort):
    def sha(*options):
        return probe("prototype", cohort, *ILL, *options)["split"]["sha256"]

    assert sha() == sha("--seed", 3)
    assert sha() != sha("--salt", "other")
    assert sha("--split", "stratified") != sha("--split", "stratified", "--seed", 3)


def test_a_split_column_that_leaks_a_patient_is_refused(tmp_path):
    vectors, metadata = rows_of(40)
    metadata[0]["side"], metadata[1]["side"] = "train", "test"
    make_rows(tmp_path, vectors, metadata)
    assert "1 groups are in both train and test (e.g. patient 000)" in refusal(
        "linear", str(tmp_path), *ILL, "--split", "side"
    )


def planted(folder: Path) -> tuple[str, int]:
    """A cohort whose test part holds copies of train images of other patients, with noise of 1e-4."""
    vectors, metadata = rows_of(80)
    exact = vectors.astype(np.float64)
    part = np.array([row["side"] for row in metadata])
    rng = np.random.default_rng(1)
    targets = rng.choice(np.flatnonzero(part == "test"), 20, replace=False)
    sources = rng.choice(np.flatnonzero(part == "train"), 20, replace=False)
    exact[targets] = exact[sources] + 1e-4 * rng.standard_normal((20, DIM))
    make_rows(folder, unit(exact), metadata)
    return str(folder), len(targets)


def test_planted_copies_are_all_found_and_every_metric_is_given_without_them(tmp_path):
    db, count = planted(tmp_path)
    for kind in ("linear", "knn"):
        found = probe(kind, db, *ILL, "--split", "side")
        levels = {level["cosine"]: level["rows"] for level in found["audit"]["levels"]}
        assert levels[0.999] >= count
        assert found["audit"]["flagged"] == levels[0.99]
        assert any(f"{levels[0.99]} of 48 test rows have a near-twin" in text for text in found["warnings"])
        assert found["without_duplicates"]["rows"] == 48 - levels[0.99]
        assert found["without_duplicates"]["metrics"].keys() == found["test"]["metrics"].keys()
    wide = probe("linear", db, *ILL, "--split", "side", "--tau", ".9")
    assert (wide["audit"]["tau"], wide["audit"]["levels"][-1]["cosine"]) == (0.9, 0.9)
    assert wide["audit"]["flagged"] >= count


def test_nested_folds_are_audited_too(tmp_path):
    db, count = planted(tmp_path)
    found = probe("linear", db, *ILL, "--split", "nested")
    assert found["audit"]["test_rows"] == 240
    assert found["audit"]["flagged"] >= count
    assert found["without_duplicates"]["rows"] == 240 - found["audit"]["flagged"]


def test_equal_bytes_never_stand_in_two_parts(tmp_path):
    vectors, metadata = rows_of(60)
    store = make_rows(tmp_path, vectors[:-6], metadata[:-6])
    twins = [f"k{i}" for i, row in enumerate(metadata[:-6]) if row["side"] == "train"][:6]
    import hashlib

    strangers = [dict(row, part="test", patient=f"twin {i}") for i, row in enumerate(metadata[-6:])]
    contents = [hashlib.sha256(key.encode()).hexdigest() for key in twins]
    add_shard(store, "second", [f"t{i}" for i in range(6)], vectors[-6:], strangers, contents=contents)
    found = probe("linear", str(tmp_path), *ILL, "--split", "side")
    assert found["flow"]["duplicates"] == 6
    assert any("6 fitted rows left out" in text for text in found["warnings"])


def test_the_same_seed_gives_the_same_result_in_other_processes(cohort):
    runs = []
    for _ in range(2):
        command = [sys.executable, "-m", "probes", "mlp", cohort, *ILL, "--split", "stratified", "--seed", "5", *QUICK]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        result = json.loads(done.stdout)
        del result["seconds"]
        runs.append(result)
    assert runs[0] == runs[1]
