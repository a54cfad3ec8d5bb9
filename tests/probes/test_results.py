"""Results through the command line, recomputed with scikit-learn from the probabilities that the command wrote."""

from __future__ import annotations

import warnings
from html import escape

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from indexer.store.table import EmbeddingStore
from probes.cohort.splits import hash_split
from probes.fitting.few_shot import patient_order, shots
from tests.commands import call
from tests.probes.cohort import FINDINGS, make_cohort, make_rows, rows_of
from tests.probes.test_rows import ILL, probe

FINDING = ("--label", "finding", "--group", "patient")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"))


def written(folder, kind, db, *options):
    """The result and the test rows' predictions as columns."""
    found = probe(kind, db, *options, "--out", folder)
    return found, pq.read_table(folder / "predictions.parquet").to_pydict()


def values(scored):
    return {name: value["value"] for name, value in scored["metrics"].items()}


@pytest.mark.parametrize(
    "kind",
    [("linear",), ("knn",), ("prototype",), ("svm",), ("svm", "--kernel", "rbf"), ("mlp",), ("forest",)],
    ids=" ".join,
)
def test_every_probe_gives_the_metrics_of_its_own_predictions(cohort, tmp_path, kind):
    found, rows = written(tmp_path, kind[0], cohort, *FINDING, *kind[1:])
    p = np.stack([rows[f"p({name})"] for name in FINDINGS], axis=1)
    y = np.array([FINDINGS.index(name) for name in rows["true"]])
    measured = values(found["test"])
    assert p.sum(1) == pytest.approx(np.ones(len(p)))
    assert measured["auc_macro"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr"))
    assert measured["auc_weighted"] == pytest.approx(sk.roc_auc_score(y, p, multi_class="ovr", average="weighted"))
    assert measured["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(y, p.argmax(1)))
    assert measured["f1_macro"] == pytest.approx(sk.f1_score(y, p.argmax(1), average="macro"))
    assert measured["auc_macro"] > 0.85  # the vectors carry the finding
    assert len(set(rows["group"])) == found["split"]["parts"]["test"]["groups"]
    low, high = (found["test"]["metrics"]["auc_macro"][side] for side in ("low", "high"))
    assert low < measured["auc_macro"] < high


@pytest.mark.parametrize("options", [(), ("--split", "nested")], ids=["one split", "folds"])
@pytest.mark.parametrize("label", ["finding", "grade"])
def test_more_neighbours_than_there_are_rows_are_not_taken_in_silence(cohort, label, options):
    target = ("--numeric",) if label == "grade" else ()
    asked = ("--label", label, "--group", "patient", "--replicates", "20", *target, *options, "-k")
    found = probe("knn", cohort, *asked, "100000")
    (said,) = [text for text in found["warnings"] if "in place of 100,000" in text]
    if not options:
        fitted = sum(found["split"]["parts"][part]["rows"] for part in ("train", "val"))
        assert said.startswith(f"k = {fitted} ")
    assert not any("in place of" in text for text in probe("knn", cohort, *asked, "5")["warnings"])


@pytest.mark.parametrize("kind", ["forest", "mlp", "svm"])
def test_the_process_has_its_filters_of_warnings_after_a_fit_as_before(cohort, kind):
    before = list(warnings.filters)
    probe(kind, cohort, *FINDING, "--replicates", "20")
    assert warnings.filters == before


def test_the_linear_probe_is_scikit_learns_on_train_and_val(cohort, tmp_path):
    found, rows = written(tmp_path, "linear", cohort, *FINDING, "--scaling", "zscore")
    table = EmbeddingStore.open(cohort).vectors(None, ["key", "finding", "patient"])
    unit = table.vectors.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    names, groups = np.unique(table.columns.column("patient").to_pylist(), return_inverse=True)
    split = hash_split(groups, names.tolist(), "")
    fitted = np.concatenate([split.train, split.val])
    z = (unit - unit[split.train].mean(0)) / unit[split.train].std(0)
    y = np.array(table.columns.column("finding").to_pylist())
    exact = LogisticRegression(C=found["selection"]["value"], tol=1e-10, solver="newton-cholesky")
    reference = exact.fit(z[fitted], y[fitted])
    logits = reference.decision_function(z[split.test]) / found["temperature"]
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert rows["key"] == [table.columns.column("key")[int(i)].as_py() for i in split.test]
    assert np.stack([rows[f"p({name})"] for name in FINDINGS], 1) == pytest.approx(expected, abs=1e-5)


def test_ordinal_grades_get_a_quadratic_kappa(cohort, tmp_path):
    found, rows = written(tmp_path, "linear", cohort, "--label", "grade", "--ordinal", "--group", "patient")
    p = np.stack([rows[f"p({grade})"] for grade in range(4)], axis=1)
    expected = sk.cohen_kappa_score([int(g) for g in rows["true"]], p.argmax(1), weights="quadratic")
    assert values(found["test"])["kappa_quadratic"] == pytest.approx(expected)
    assert found["baselines"]["majority"]["kappa_quadratic"] == 0
    plain = probe("linear", cohort, "--label", "grade", "--group", "patient")
    assert "kappa_quadratic" not in plain["test"]["metrics"]


def test_masked_labels_count_in_no_metric_of_theirs(cohort, tmp_path):
    options = ("--label", "a,b,c", "--multilabel", "--group", "patient", "--split", "side")
    found, rows = written(tmp_path, "linear", cohort, *options)
    by_label = {}
    for name in "abc":
        known = [i for i, value in enumerate(rows[f"true({name})"]) if value is not None]
        y = [rows[f"true({name})"][i] for i in known]
        p = [rows[f"p({name})"][i] for i in known]
        by_label[name] = sk.roc_auc_score(y, p)
        own = next(c for c in found["test"]["classes"] if c["name"] == name)
        assert (own["rows"], own["positives"]) == (len(known), sum(y))
        assert own["rows"] < found["test"]["rows"]
        assert own["auc"]["value"] == pytest.approx(by_label[name])
        assert own["ap"]["value"] == pytest.approx(sk.average_precision_score(y, p))
    assert values(found["test"])["auc_macro"] == pytest.approx(np.mean(list(by_label.values())))
    assert "accuracy" not in found["test"]["metrics"]


def test_a_label_without_positives_in_test_is_dropped_by_name(tmp_path):
    vectors, metadata = rows_of(120)
    for row in metadata:
        row["b"] = 0 if row["side"] == "test" else row["b"]
    make_rows(tmp_path, vectors, metadata)
    options = ("--label", "a,b,c", "--multilabel", "--group", "patient", "--split", "side")
    found = probe("linear", str(tmp_path), *options)
    assert found["test"]["excluded"] == ["b"]
    assert "no test row of: b; metrics not defined" in found["warnings"]
    defined = [c["auc"]["value"] for c in found["test"]["classes"] if c["name"] != "b"]
    assert values(found["test"])["auc_macro"] == pytest.approx(np.mean(defined))
    assert "in no mean, as undefined: b" in call("probes", "linear", tmp_path, *options, "--replicates", "50").out


def test_baselines_stand_beside_every_metric(cohort):
    found = probe("linear", cohort, *FINDING)
    majority, random = (found["baselines"][name] for name in ("majority", "stratified random"))
    assert set(majority) == set(found["test"]["metrics"])
    assert (majority["auc_macro"], majority["balanced_accuracy"]) == (0.5, pytest.approx(1 / 3))
    test = found["split"]["parts"]["test"]["classes"]
    fitted = {n: sum(found["split"]["parts"][part]["classes"][n] for part in ("train", "val")) for n in test}
    share = {name: count / sum(fitted.values()) for name, count in fitted.items()}
    most = max(fitted, key=lambda name: fitted[name])
    assert majority["accuracy"] == pytest.approx(test[most] / sum(test.values()))
    expected = -sum(count * np.log(share[name]) for name, count in test.items()) / sum(test.values())
    assert majority["log_loss"] == pytest.approx(expected)
    assert 0.3 < random["auc_macro"] < 0.7


def test_patients_are_scored_once_by_the_mean_or_the_highest_of_their_rows(cohort, tmp_path):
    for pooling, pool in (("mean", np.mean), ("max", np.max)):
        found, rows = written(tmp_path / pooling, "linear", cohort, *ILL, "--pooling", pooling)
        p, group = np.array(rows["p(1)"]), np.array(rows["group"])
        names = np.unique(group)
        pooled = np.array([[pool(1 - p[group == n]), pool(p[group == n])] for n in names])
        pooled /= pooled.sum(1, keepdims=True)
        y = np.array([rows["true"][np.flatnonzero(group == n)[0]] == "1" for n in names])
        assert found["patients"]["rows"] == len(names)
        assert values(found["patients"])["auc_macro"] == pytest.approx(sk.roc_auc_score(y, pooled[:, 1]))
        low, high = found["patients"]["classes"][1]["delong"]  # one row a patient: DeLong holds
        assert low < values(found["patients"])["auc_macro"] < high
        assert all(c["delong"] is None for c in found["test"]["classes"])
        assert "no DeLong interval: groups have several rows, which are not independent" in found["test"]["notes"]


def test_the_operating_point_is_chosen_on_val_and_read_on_test(cohort, tmp_path):
    found, rows = written(tmp_path, "linear", cohort, *ILL, "--specificity", ".8", "--prevalence", ".05")
    (point,) = found["operating"]
    y, called = np.array(rows["true"]) == "1", np.array(rows["p(1)"]) >= point["threshold"]
    sens, spec = called[y].mean(), (~called[~y]).mean()
    rates = {name: value["value"] for name, value in point["rates"].items()}
    assert point["validation_specificity"] >= 0.8
    assert (rates["sensitivity"], rates["specificity"]) == pytest.approx((sens, spec))
    assert rates["ppv"] == pytest.approx(y[called].mean())
    assert rates["lr_negative"] == pytest.approx((1 - sens) / spec)
    at = point["ppv_at_prevalence"]
    assert at["value"] == pytest.approx(sens * 0.05 / (sens * 0.05 + (1 - spec) * 0.95))
    assert at["low"] < at["value"] < at["high"]


def test_subgroups_share_the_threshold_and_small_ones_have_no_number(tmp_path):
    db = make_cohort(tmp_path / "db", patients=240)
    found, rows = written(tmp_path / "out", "linear", db, *ILL, "--subgroup", "sex,site")
    named = {(s["column"], s["value"]): s for s in found["subgroups"]}
    assert set(named) == {("sex", "F"), ("sex", "M"), ("sex", "(missing)"), ("site", "A"), ("site", "B")}
    assert named["sex", "(missing)"]["note"] == "n too small"
    assert named["sex", "(missing)"]["auc"] is None
    store = EmbeddingStore.open(db).vectors(None, ["key", "site"]).columns.to_pydict()
    site = dict(zip(store["key"], store["site"], strict=True))
    own = np.array([site[key] == "A" for key in rows["key"]])
    y, p = np.array(rows["true"]) == "1", np.array(rows["p(1)"])
    called = p >= found["operating"][0]["threshold"]
    assert named["site", "A"]["auc"]["value"] == pytest.approx(sk.roc_auc_score(y[own], p[own]))
    assert named["site", "A"]["sensitivity"]["value"] == pytest.approx(called[own & y].mean())
    gap = next(g for g in found["gaps"] if (g["column"], g["metric"]) == ("site", "auc"))
    areas = {v: named["site", v]["auc"]["value"] for v in "AB"}
    assert gap["gap"] == pytest.approx(max(areas.values()) - min(areas.values()))
    assert gap["worst"] == min(areas, key=lambda v: areas[v])


def test_the_temperature_is_fitted_on_val_rows_alone(tmp_path):
    vectors, metadata = rows_of(100)
    make_rows(tmp_path / "one", vectors, metadata)
    for row in metadata:  # other truth in test: nothing that is chosen may change
        row["ill"] = 1 - row["ill"] if row["side"] == "test" else row["ill"]
    make_rows(tmp_path / "two", vectors, metadata)
    one, two = (probe("linear", str(tmp_path / n), *ILL, "--split", "side") for n in ("one", "two"))
    assert one["temperature"] == two["temperature"] != 1
    assert one["selection"] == two["selection"]
    assert one["operating"][0]["threshold"] == two["operating"][0]["threshold"]
    assert one["test"]["metrics"]["auc_macro"]["value"] == pytest.approx(
        1 - two["test"]["metrics"]["auc_macro"]["value"]
    )
    assert one["calibration"]["before"] != one["calibration"]["after"]


@pytest.mark.parametrize("kind", ["linear", "knn", "prototype"])
def test_a_probe_on_shuffled_labels_is_at_chance(tmp_path, kind):
    db = make_cohort(tmp_path, patients=200)
    found = probe(kind, db, *FINDING, "--shuffle-control")
    control = found["shuffled_auc"]
    assert 0.45 < control["value"] < 0.55
    assert control["low"] < 0.5 < control["high"]
    assert values(found["test"])["auc_macro"] > control["high"]
    folds = probe(kind, db, *FINDING, "--shuffle-control", "--split", "nested")
    assert 0.45 < folds["shuffled_auc"]["value"] < 0.65


def test_balanced_class_weights_raise_the_rare_class(tmp_path):
    vectors, metadata = rows_of(200, signal=0.5)
    keep = [i for i, row in enumerate(metadata) if not row["ill"] or int(row["patient"][-1]) < 3]
    make_rows(tmp_path, vectors[keep], [metadata[i] for i in keep])
    plain, even = (probe("linear", str(tmp_path), *ILL, *w) for w in ((), ("--class-weight", "balanced")))
    called = [np.array(found["confusion"])[:, 1].sum() for found in (plain, even)]
    assert called[0] < called[1]


def test_nested_folds_report_mean_and_sd_of_scores_that_are_never_pooled(cohort):
    found = probe("linear", cohort, *FINDING, "--split", "nested")
    areas = [fold["metrics"]["auc_macro"] for fold in found["folds"]]
    value = found["test"]["metrics"]["auc_macro"]
    assert len(areas) == 5
    assert value["value"] == pytest.approx(np.mean(areas))
    assert value["high"] - value["value"] == pytest.approx(np.std(areas, ddof=1))
    assert sum(fold["rows"] for fold in found["folds"]) == found["test"]["rows"] == 360
    assert sum(part["groups"] for part in found["split"]["parts"].values()) == 120
    assert found["patients"]["rows"] == 120
    text = call("probes", "linear", cohort, *FINDING, "--split", "nested").out
    assert f"{value['value']:.3f} ± {np.std(areas, ddof=1):.3f}" in text
    assert "95 % interval" not in text


def test_a_scanner_can_be_read_off_vectors_that_carry_it(cohort):
    """Metadata as labels: here sex is not in the vectors, the finding is."""
    sex = probe("linear", cohort, "--label", "sex", "--group", "patient", "--split", "nested")
    assert sex["flow"]["unlabelled"] == 33
    assert values(sex["test"])["auc_macro"] < 0.65 < values(probe("linear", cohort, *FINDING)["test"])["auc_macro"]


def test_few_shot_draws_are_nested_prefixes_of_patients():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    codes = np.repeat(rng.integers(0, 3, 40), 3)
    order = patient_order(codes, groups, 3, seed=4)
    drawn = [set(shots(codes, groups, order, n)) for n in (1, 2, 4, 8)]
    for n, smaller, larger in zip((1, 2, 4), drawn, drawn[1:], strict=False):
        assert smaller < larger
        for c in range(3):
            assert len({groups[i] for i in smaller if codes[i] == c}) == n
    again = shots(codes, groups, patient_order(codes, groups, 3, seed=4), 4)
    assert set(again) == drawn[2]
    assert set(shots(codes, groups, patient_order(codes, groups, 3, seed=5), 4)) != drawn[2]


def test_the_label_efficiency_curve_ends_at_all_of_train(cohort):
    found = probe("linear", cohort, *FINDING, "--few-shot")
    points = found["few_shot"]["points"]
    sizes = [p["patients_per_class"] for p in points]
    assert sizes[:-1] == [2**i for i in range(len(sizes) - 1)]
    assert sizes[-2] < sizes[-1] <= found["split"]["parts"]["train"]["groups"]
    assert all(p["draws"] == 5 and set(p["penalties"]) == {1.0} for p in points if p["patients_per_class"] < 16)
    assert points[-1]["auc_mean"] > points[0]["auc_mean"] + 0.1
    x, y = np.log2(sizes), [p["auc_mean"] for p in points]
    assert found["few_shot"]["area"] == pytest.approx(np.trapezoid(y, x) / (x[-1] - x[0]))
    assert "C = 1 (scaling l2) below 16 patients a class" in found["few_shot"]["penalty_rule"]
    assert len({c for p in points[-3:-1] for c in p["penalties"]}) > 1  # from 16 patients on C is chosen, draw by draw
    asked = probe("linear", cohort, *FINDING, "--few-shot", "--penalty", "0.1")
    assert {c for p in asked["few_shot"]["points"] for c in p["penalties"]} == {0.1}
    assert asked["few_shot"]["penalty_rule"] == "C = 0.1 (scaling l2), as asked"


@pytest.mark.parametrize(
    ("group", "named"), [("patient", "patients"), ("none", "images"), ("Slab_ID", "groups of Slab_ID")]
)
def test_what_a_label_efficiency_curve_counts_is_called_by_the_column_of_groups(tmp_path, group, named):
    vectors, metadata = rows_of(24)
    for row in metadata:
        row["Slab_ID"] = row["patient"]
    make_rows(tmp_path / "db", vectors, metadata)
    db, options = tmp_path / "db", ("--label", "ill", "--group", group, "--few-shot", "--penalty", "1")
    text = call("probes", "linear", db, *options, "--replicates", "20", "--out", tmp_path / "out").out
    assert f"{named} a class" in text
    assert f"mean AUC over log₂ {named}" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"Mean AUC over log₂ {escape(named)}" in page


def test_only_scores_a_subset_where_asked(cohort):
    found = probe("linear", cohort, *ILL, "--where", "site = 'A'")
    assert found["flow"]["matched"] == found["flow"]["labelled"] < found["flow"]["embedded"] == 360
