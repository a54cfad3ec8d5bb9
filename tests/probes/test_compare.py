"""`probes compare`: the same rows, splits and draws; differences, their intervals and Holm's correction."""

from __future__ import annotations

import json
import re
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
from MLstatkit import Delong_test
from scipy.stats import t
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from indexer.store.table import EmbeddingStore
from probes.cohort.splits import hash_split
from probes.evaluation.bootstrap import draw
from tests.commands import call
from tests.probes.cohort import make_rows, rows_of, unit
from tests.probes.test_rows import ILL, QUICK, probe
from tests.tables import add_shard, make_table, spec_for


def table(folder, name, vectors, keys, metadata=None, contents=None):
    """A table whose rows stand in the order of `keys`."""
    store = EmbeddingStore.create(str(folder), name, spec_for(vectors.shape[1]))
    add_shard(store, "first", keys, vectors, metadata, contents=contents)


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    """good: the cohort. worse: the same images with much noise, in another order. blind: noise alone."""
    folder = tmp_path_factory.mktemp("tables")
    vectors, metadata = rows_of(150)
    keys = [f"k{i}" for i in range(len(vectors))]
    make_table(folder, vectors, metadata, "good")
    rng = np.random.default_rng(5)
    noise = rng.standard_normal((len(vectors), vectors.shape[1])) / np.sqrt(vectors.shape[1])
    order = rng.permutation(len(vectors))
    worse = unit(vectors.astype(float) + 1.2 * noise)
    table(folder, "worse", worse[order], [keys[i] for i in order])
    table(folder, "blind", unit(rng.standard_normal((len(vectors), 7))), keys)
    return str(folder)


def compare(db, *options, tables="good,worse,blind"):
    done = call("probes", "compare", db, *ILL, "--tables", tables, *QUICK, *options)
    assert done.code == 0, done.err
    return done.json


def test_each_table_gets_what_its_own_probe_gets_on_the_same_split(db):
    found = compare(db)
    assert [r["source"]["table"] for r in found["results"]] == ["good", "worse", "blind"]
    assert len({r["split"]["sha256"] for r in found["results"]}) == 1
    assert [r["source"]["dim"] for r in found["results"]] == [12, 12, 7]
    assert found["unmatched"] == {"good": 0, "worse": 0, "blind": 0}
    assert found["warnings"] == []
    alone = probe("linear", db, *ILL, "--table", "good")
    first = found["results"][0]
    for part in ("split", "audit", "selection", "test", "patients", "operating", "confusion", "flow"):
        assert first[part] == alone[part], part


def test_rows_are_joined_by_key_not_by_place(db, tmp_path):
    """`worse` holds its rows in another order; put into the first table's order it must give the same numbers."""
    store = EmbeddingStore.open(db, "worse").vectors(None, ["key"])
    place = {key: i for i, key in enumerate(store.columns.column("key").to_pylist())}
    metadata = rows_of(150)[1]
    own = store.vectors[[place[f"k{i}"] for i in range(len(metadata))]]
    make_rows(tmp_path, own.astype(np.float64), metadata)
    alone = probe("linear", str(tmp_path), *ILL)
    joined = compare(db)["results"][1]
    for name, value in alone["test"]["metrics"].items():
        assert joined["test"]["metrics"][name]["value"] == pytest.approx(value["value"], abs=2e-3), name


def probabilities(db, name, out):
    """Test keys → probability of ill, by `probes predict` of the bundle of that table alone."""
    probe("linear", db, *ILL, "--table", name, "--out", out)
    found: dict[str, list[object]] = pq.read_table(out / "predictions.parquet").to_pydict()
    return found


def test_differences_are_those_of_the_same_draws_of_patients(db, tmp_path):
    found = compare(db, tables="good,blind")
    good = probabilities(db, "good", tmp_path / "good")
    y, p_good = np.array(good["true"]) == "1", np.array(good["p(1)"])
    groups = np.unique(good["group"], return_inverse=True)[1]
    p_blind = blind_probabilities(db, good["key"], tmp_path)
    (difference,) = found["differences"]
    point = roc_auc_score(y, p_good) - roc_auc_score(y, p_blind)
    assert difference["delta"]["value"] == pytest.approx(point, abs=1e-6)
    deltas = []
    for weights in draw(int(groups.max()) + 1, 100, 0):
        for each in weights:
            times = each[groups]
            if 0 < times[y].sum() < times.sum():
                areas = [roc_auc_score(y, p, sample_weight=times) for p in (p_good, p_blind)]
                deltas.append(areas[0] - areas[1])
    without = [
        roc_auc_score(y[groups != g], p_good[groups != g]) - roc_auc_score(y[groups != g], p_blind[groups != g])
        for g in range(groups.max() + 1)
    ]
    d = np.array(without) - np.mean(without)
    freedom, spread = 3 * (d**2).sum() ** 2 / (d**4).sum(), np.std(deltas)
    half = t.ppf(0.975, freedom) * spread
    interval = difference["delta"]["low"], difference["delta"]["high"]
    assert interval == pytest.approx((point - half, point + half), abs=1e-6)
    assert difference["p"] == pytest.approx(2 * t.sf(abs(point) / spread, freedom), rel=1e-4)


def blind_probabilities(db, keys, tmp_path):
    """The probe of table `blind`, which has no labels of its own: its vectors with the labels of `good`."""
    store = EmbeddingStore.open(db, "blind").vectors(None, ["key"])
    place = {key: i for i, key in enumerate(store.columns.column("key").to_pylist())}
    metadata = rows_of(150)[1]
    vectors = store.vectors[[place[f"k{i}"] for i in range(len(metadata))]]
    make_table(tmp_path / "labelled", vectors, metadata)
    rows = probabilities(str(tmp_path / "labelled"), "t", tmp_path / "blind")
    assert rows["key"] == keys
    return np.array(rows["p(1)"])


def test_a_better_encoder_is_told_from_a_blind_one_and_p_values_are_holms(db):
    found = compare(db)
    pairs = [(d["first"], d["second"]) for d in found["differences"]]
    assert pairs == list(combinations(["good", "worse", "blind"], 2))
    blind = found["differences"][1]
    assert blind["delta"]["low"] > 0
    assert blind["p"] < 0.01
    raw = [d["p"] for d in found["differences"]]
    order = np.argsort(raw, kind="stable")
    adjusted = np.minimum(1, np.maximum.accumulate([(3 - i) * raw[j] for i, j in enumerate(order)]))
    assert [found["differences"][j]["p_holm"] for j in order] == pytest.approx(adjusted.tolist())


def test_a_table_compared_with_its_own_copy_differs_by_nothing(tmp_path):
    vectors, metadata = rows_of(80)
    keys = [f"k{i}" for i in range(len(vectors))]
    make_table(tmp_path, vectors, metadata, "one")
    table(tmp_path, "two", vectors, keys)
    (difference,) = compare(str(tmp_path), tables="one,two")["differences"]
    assert difference["delta"] == {"value": 0, "low": 0, "high": 0, "dropped": 0, "reliable": True, "held": None}
    assert (difference["p"], difference["p_holm"]) == (1, 1)


def test_rows_without_a_partner_are_counted_and_left_out(tmp_path):
    vectors, metadata = rows_of(80)
    metadata[0]["ill"] = None
    keys = [f"k{i}" for i in range(len(vectors))]
    make_table(tmp_path, vectors, metadata, "one")
    rng = np.random.default_rng(0)
    kept = [*range(200), 230]  # 39 of `one` are missing
    others = unit(rng.standard_normal((4, vectors.shape[1])))
    table(tmp_path, "two", np.concatenate([vectors[kept], others]), [*(keys[i] for i in kept), *"wxyz"])
    found = compare(str(tmp_path), tables="one,two")
    assert found["rows"] == 200  # 201 shared keys, one without a label
    assert found["unmatched"] == {"one": 39, "two": 4}
    assert found["warnings"] == [
        "39 labelled rows of one left out: not every table holds their keys",
        "4 rows of two left out: one does not hold their keys",
    ]
    assert {r["flow"]["embedded"] for r in found["results"]} == {240, 205}
    assert {r["flow"]["labelled"] for r in found["results"]} == {200}


def test_the_same_key_over_other_bytes_is_said(tmp_path):
    vectors, metadata = rows_of(60)
    keys = [f"k{i}" for i in range(len(vectors))]
    contents = [f"{i:064x}" for i in range(len(keys))]
    make_table(tmp_path, vectors, metadata, "one")
    table(tmp_path, "two", vectors, keys, contents=contents)
    found = compare(str(tmp_path), tables="one,two")
    assert found["warnings"] == ["180 rows of two have the key of a row of one but other image bytes"]


def test_one_image_a_patient_also_gets_delongs_p(tmp_path):
    vectors, metadata = rows_of(250, images=1)
    keys = [f"k{i}" for i in range(len(vectors))]
    make_table(tmp_path, vectors, metadata, "one")
    rng = np.random.default_rng(1)
    worse = unit(vectors.astype(float) + 0.4 * rng.standard_normal(vectors.shape))
    table(tmp_path, "two", worse, keys)
    found = compare(str(tmp_path), tables="one,two")
    names, groups = np.unique([row["patient"] for row in metadata], return_inverse=True)
    test = hash_split(groups, names.tolist(), "").test
    y = np.array([metadata[i]["ill"] for i in test])
    scores = []
    for name, rows in (("one", vectors), ("two", worse)):
        make_table(tmp_path / name, rows, metadata)
        scores.append(np.array(probabilities(str(tmp_path / name), "t", tmp_path / f"{name}-out")["p(1)"]))
    expected = Delong_test(y, *scores)[1]
    assert found["delong_p"] == pytest.approx([expected], rel=1e-6)
    assert compare(str(tmp_path), "--metric", "balanced_accuracy", tables="one,two")["delong_p"] == []


def test_other_metrics_and_probes_compare_too(db, tmp_path):
    for kind in ("knn", "prototype", "svm"):
        found = compare(db, "--probe", kind, "--metric", "balanced_accuracy", tables="good,blind")
        alone = probe(kind, db, *ILL, "--table", "good")
        assert found["results"][0]["test"] == alone["test"], kind
        values = [r["test"]["metrics"]["balanced_accuracy"]["value"] for r in found["results"]]
        assert found["differences"][0]["delta"]["value"] == pytest.approx(values[0] - values[1])
    rows = probabilities(db, "good", tmp_path / "out")
    called = np.array(rows["p(1)"]) > 0.5
    expected = balanced_accuracy_score(np.array(rows["true"]) == "1", called)
    first = compare(db, "--metric", "balanced_accuracy")["results"][0]["test"]["metrics"]["balanced_accuracy"]["value"]
    assert first == pytest.approx(expected)


def test_the_page_and_the_terminal_show_levels_numbers_and_differences(db, tmp_path):
    out = tmp_path / "out"
    done = call("probes", "compare", db, *ILL, "--tables", "good,blind", "--replicates", "200", "--out", out)
    assert done.code == 0, done.err
    assert done.out.startswith("patient-level split: no patient is on two sides (150 in all)\n")
    assert re.search(r"good - blind +0\.\d{3}  \(0\.\d{3} to 0\.\d{3}\) +0\.\d{4} +0\.\d{4}", done.out)
    assert "majority class" in done.out
    page = (out / "comparison.html").read_text()
    assert "<svg" in page
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"|<metadata>.*?</metadata>|<!DOCTYPE[^>]*>', "", page, flags=re.S)
    assert page.index("patient-level split") < page.index("Each table") < page.index("Paired differences")
    assert (out / "comparison.json").exists()
    drawn = call("probes", "report", out, "--html", tmp_path / "again.html", "--json")
    assert drawn.json == {"report": str(tmp_path / "again.html")}
    assert (tmp_path / "again.html").read_text() == page
    same = call("probes", "rerun", out, "--json")
    assert (same.code, same.json["reproduced"], same.json["largest_difference"]) == (0, True, 0)
    stored = json.loads((out / "comparison.json").read_text())
    stored["differences"][0]["delta"]["value"] += 1e-6
    (out / "comparison.json").write_text(json.dumps(stored))
    other = call("probes", "rerun", out / "comparison.json", "--json")
    assert (other.code, other.json["reproduced"]) == (1, False)
    assert other.json["differences"][0].startswith("differences[0].delta.value")
    again = call("probes", "compare", db, *ILL, "--tables", "good,blind", "--replicates", "200", "--out", out)
    assert again.code == 0  # a former comparison's folder is written anew


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tables", "good"), "a comparison needs two tables or more"),
        (("--tables", "good,worse,good"), "table good is named twice"),
        (("--tables", "good,missing"), "missing"),
        (("--tables", "worse,good"), "no column"),
        (("--tables", "good,worse", "--split", "nested"), "needs one test split"),
    ],
)
def test_comparisons_that_make_no_sense_are_an_error_in_one_line(db, options, words):
    done = call("probes", "compare", db, *ILL, *options, *QUICK)
    assert (done.code, done.out) == (1, "")
    assert words in done.err
    assert done.err.count("\n") == 1


def test_tables_without_a_common_key_are_an_error(tmp_path):
    vectors, metadata = rows_of(30)
    make_table(tmp_path, vectors, metadata, "one")
    table(tmp_path, "two", vectors, [f"other {i}" for i in range(len(vectors))])
    done = call("probes", "compare", tmp_path, *ILL, "--tables", "one,two")
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "the tables share no key" in done.err


@pytest.mark.parametrize("kind", ["svm-rbf", "forest"])
def test_predictions_of_a_comparison_give_its_own_metrics(db, tmp_path, kind):
    found = compare(db, "--probe", kind, "--predictions", tmp_path / "p.parquet", tables="good,blind")
    rows = pq.read_table(tmp_path / "p.parquet").to_pydict()
    ill = [name == "1" for name in rows["true"]]
    for result in found["results"]:
        p = rows[f"{result['source']['table']} p(1)"]
        assert roc_auc_score(ill, p) == pytest.approx(result["test"]["metrics"]["auc_macro"]["value"])
    assert len(rows["key"]) == len(set(rows["key"])) > 50
    refused = call("probes", "compare", db, *ILL, "--tables", "good,blind", "--predictions", tmp_path / "p.txt")
    assert refused.code == 2


def test_tables_can_be_compared_by_the_agreement_of_grades(db):
    found = compare_grades(db, "--ordinal")
    assert found.code == 0, found.err
    first, second = (r["test"]["metrics"]["kappa_quadratic"]["value"] for r in found.json["results"])
    (difference,) = found.json["differences"]
    assert difference["delta"]["value"] == pytest.approx(first - second)
    assert difference["delta"]["low"] < difference["delta"]["value"] < difference["delta"]["high"]
    refused = compare_grades(db)
    assert (refused.code, "add --ordinal" in refused.err) == (2, True)


def compare_grades(db, *options):
    grades = ("--label", "grade", "--group", "patient", "--metric", "kappa_quadratic", "--tables", "good,blind")
    return call("probes", "compare", db, *grades, *options, *QUICK)
