"""D36: probes of a number, against scikit-learn, scipy and formulas in numpy."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler

from benchmarks.targets import DESIGNS, coverage, intervals, rows
from indexer.store.table import EmbeddingStore
from probes.cohort.splits import hash_split
from probes.evaluation.scoring import Resampling
from probes.evaluation.targets.agreement import number_evaluator, score_numbers
from tests.commands import call
from tests.probes.cohort import unit
from tests.tables import make_table

DIM = 12


def rows_of(patients: int = 120, seed: int = 0, dim: int = DIM):
    """Vectors that carry an age, of patients with one to four images, and their metadata."""
    rng = np.random.default_rng(seed)
    along = np.random.default_rng(5).standard_normal((2, dim))
    vectors, metadata = [], []
    for number in range(patients):
        age = float(np.round(20 + 60 * rng.random(), 1))
        own = 0.4 * rng.standard_normal(dim)
        for _ in range(int(rng.integers(1, 5))):
            vectors.append(along[0] + (age - 50) / 30 * along[1] + own + 0.4 * rng.standard_normal(dim))
            metadata.append({
                "patient": f"p{number:03d}", "age": age, "adc": age / 1e5, "sex": "FM"[number % 2],
                "late": None if number % 9 == 0 else age + rng.standard_normal(), "same": 4.0, "word": "x",
                "endless": math.inf if number == 3 else age,
            })  # fmt: skip
    return unit(np.array(vectors)), metadata


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("numbers") / "db"
    vectors, metadata = rows_of()
    make_table(folder, vectors, metadata)
    worse = vectors.astype(np.float64) + 0.3 * np.random.default_rng(1).standard_normal(vectors.shape)
    make_table(folder, unit(worse), metadata, "noisy")
    return str(folder)


def done(*words):
    found = call("probes", *words)
    assert found.code == 0, found.err
    return found


@pytest.fixture(scope="module")
def ridge(db, tmp_path_factory):
    """The result folder of a ridge regression."""
    out = tmp_path_factory.mktemp("ridge") / "out"
    done("linear", db, "--label", "age", "--numeric", "--group", "patient", "--table", "t", "--subgroup", "sex",
         "--few-shot", "--replicates", "200", "--out", out)  # fmt: skip
    return out


def split_of(db, name="t"):
    table = EmbeddingStore.open(str(db), name).vectors(None, ["key", "patient", "age"])
    x = table.vectors.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    columns = table.columns
    patients, groups = np.unique(columns.column("patient").to_numpy(zero_copy_only=False), return_inverse=True)
    split = hash_split(groups, patients.tolist(), "")
    return x, columns.column("age").to_numpy(), groups, split


def test_a_ridge_probe_equals_scikit_learn_at_its_alpha_and_chooses_the_alpha_of_the_least_inner_error(db, ridge):
    x, y, _, split = split_of(db)
    result = json.loads((ridge / "result.json").read_text())
    scaler = StandardScaler().fit(x[split.train])
    z, fitted = scaler.transform(x), np.concatenate([split.train, split.val])
    inner = {
        c["value"]: root_mean_squared_error(
            y[split.val], Ridge(alpha=c["value"]).fit(z[split.train], y[split.train]).predict(z[split.val])
        )
        for c in result["selection"]["candidates"]
    }
    for candidate in result["selection"]["candidates"]:
        assert candidate["error"] == pytest.approx(inner[candidate["value"]], rel=1e-6)
    alpha = result["selection"]["value"]
    assert alpha == max(a for a, error in inner.items() if error <= 1.001 * min(inner.values()))
    reference = Ridge(alpha=alpha).fit(z[fitted], y[fitted])
    written = pq.read_table(ridge / "predictions.parquet").to_pydict()
    assert written["predicted"] == pytest.approx(reference.predict(z[split.test]), abs=1e-6)
    assert written["true"] == y[split.test].tolist()


def test_without_a_val_split_five_grouped_folds_of_train_choose_alpha(tmp_path):
    """Fewer rows than numbers a vector: the other form of the solution."""
    vectors, metadata = rows_of(patients=30, dim=200)
    for row in metadata:
        row["side"] = "test" if row["patient"] > "p022" else "train"
    make_table(tmp_path / "db", vectors, metadata)
    found = done("linear", tmp_path / "db", "--label", "age", "--numeric", "--group", "patient", "--split", "side",
                 "--replicates", "20", "--json")  # fmt: skip
    result = json.loads(found.out)
    x, y, groups, _ = split_of(tmp_path / "db")
    train = np.flatnonzero([row["side"] == "train" for row in metadata])
    z = StandardScaler().fit(x[train]).transform(x)[train]
    y, groups = y[train], groups[train]
    fifth = np.searchsorted(np.quantile(y, (0.2, 0.4, 0.6, 0.8)), y)
    folds = list(StratifiedGroupKFold(5, shuffle=True, random_state=0).split(z, fifth, groups))
    for candidate in result["selection"]["candidates"][::7]:
        errors = [
            root_mean_squared_error(y[held], Ridge(alpha=candidate["value"]).fit(z[fit], y[fit]).predict(z[held]))
            for fit, held in folds
        ]
        assert candidate["error"] == pytest.approx(np.mean(errors), rel=1e-6)


def test_every_metric_equals_its_formula_and_its_interval_holds_it(ridge):
    result = json.loads((ridge / "result.json").read_text())
    written = pq.read_table(ridge / "predictions.parquet").to_pydict()
    p, y = np.array(written["predicted"]), np.array(written["true"])
    d = p - y
    expected = {
        "mae": mean_absolute_error(y, p), "rmse": root_mean_squared_error(y, p), "r2": r2_score(y, p),
        "spearman": spearmanr(p, y).statistic, "bias": d.mean(), "limit_low": d.mean() - 1.959964 * d.std(ddof=1),
        "limit_high": d.mean() + 1.959964 * d.std(ddof=1), "number_slope": np.polyfit(p, y, 1)[0],
    }  # fmt: skip
    metrics = result["test"]["metrics"]
    assert {name: each["value"] for name, each in metrics.items()} == pytest.approx(expected, abs=1e-9)
    assert all(each["low"] < each["value"] < each["high"] for each in metrics.values())
    assert result["baselines"]["mean"]["r2"] <= 0 < metrics["r2"]["low"]
    by_patient = {}
    for group, each, true in zip(written["group"], p, y, strict=True):
        by_patient.setdefault(group, []).append((each, true))
    means = np.array([np.mean(rows, axis=0) for rows in by_patient.values()])
    assert result["patients"]["metrics"]["mae"]["value"] == pytest.approx(np.abs(means[:, 0] - means[:, 1]).mean())


def test_a_group_drawn_twice_counts_twice_in_every_metric():
    rng = np.random.default_rng(0)
    p, groups = np.round(rng.standard_normal(60), 1), rng.integers(0, 9, 60)
    y = p + np.round(rng.standard_normal(60), 1)
    weights = rng.integers(0, 4, (4, 9))
    found = number_evaluator(p, y, groups)(weights)
    for b, own in enumerate(weights):
        rows = np.repeat(np.arange(60), own[groups])
        d = p[rows] - y[rows]
        assert found["spearman"][b] == pytest.approx(spearmanr(p[rows], y[rows]).statistic)
        assert found["r2"][b] == pytest.approx(r2_score(y[rows], p[rows]))
        assert found["limit_low"][b] == pytest.approx(d.mean() - 1.959964 * d.std(ddof=1))


def test_knn_predicts_the_weighted_mean_of_the_nearest_rows_of_other_groups(db, tmp_path):
    done("knn", db, "--label", "age", "--numeric", "--group", "patient", "--table", "t", "-k", "5",
         "--replicates", "20", "--out", tmp_path / "out")  # fmt: skip
    x, y, _, split = split_of(db)
    fitted = np.concatenate([split.train, split.val])
    cosine = x[split.test] @ x[fitted].T
    near = np.argsort(-cosine, axis=1)[:, :5]
    weights = np.exp(np.take_along_axis(cosine, near, 1) / 0.07)
    expected = (weights * y[fitted][near]).sum(1) / weights.sum(1)
    written = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pydict()
    assert written["predicted"] == pytest.approx(expected, abs=1e-3)
    again = json.loads(done("predict", tmp_path / "out", db, "--table", "t", "--json").out)
    by_key = {row["key"]: row["predicted"] for row in again["rows"]}
    assert [by_key[key] for key in written["key"]] == pytest.approx(written["predicted"], abs=1e-4)


def test_a_stored_probe_predicts_the_same_numbers_writes_them_and_runs_again_alike(db, ridge):
    written = pq.read_table(ridge / "predictions.parquet").to_pydict()
    found = json.loads(done("predict", ridge, db, "--table", "t", "--write", "age", "--json").out)
    by_key = {row["key"]: row["predicted"] for row in found["rows"]}
    assert [by_key[key] for key in written["key"]] == pytest.approx(written["predicted"], abs=1e-9)
    table = EmbeddingStore.open(db, "t").vectors(None, ["key", "pred_age"]).columns
    assert dict(zip(*(table.column(n).to_pylist() for n in ("key", "pred_age")), strict=True)) == pytest.approx(by_key)
    again = json.loads(done("rerun", ridge, "--json").out)
    assert again["reproduced"] is True, again
    assert call("probes", "predict", ridge, db, "--table", "t", "--threshold", "0.5").code == 2


def test_the_report_shows_agreement_subgroups_and_label_efficiency_and_the_card_answers(ridge):
    page = (ridge / "report.html").read_text()
    for shown in ("Bland-Altman plot", "lower limit of agreement", "sex = F", "patients in all", "mean absolute error"):
        assert shown in page, shown
    for absent in ("Confusion", "balanced accuracy", "inner AUC"):
        assert absent not in page, absent
    result = json.loads((ridge / "result.json").read_text())
    points = result["numbers"]["sizes"]
    assert [p["groups"] for p in points[:3]] == [2, 4, 8]
    assert points[-1]["mae_mean"] < points[0]["mae_mean"]
    items = {f"{i['checklist'][0]}{i['number']}": i["answer"] for i in json.loads(done("card", ridge, "--json").out)}
    assert "mean absolute error" in items["C37"]
    assert "age" in items["T15"]


def test_numbers_of_any_size_are_written_with_four_digits(db):
    text = done(
        "linear", db, "--label", "adc", "--numeric", "--group", "patient", "--table", "t", "--replicates", "20"
    ).out
    line = next(line for line in text.splitlines() if "mean absolute error" in line)
    value = float(line.split()[3])
    assert 0 < value < 0.001


def test_rows_without_a_number_are_left_out_and_counted(db):
    found = json.loads(done("linear", db, "--label", "late", "--numeric", "--group", "patient", "--table", "t",
                            "--replicates", "20", "--json").out)  # fmt: skip
    missing = sum(row["late"] is None for row in rows_of()[1])
    assert found["flow"]["unlabelled"] == missing > 0


def test_tables_are_compared_by_the_paired_difference_of_their_errors(db, tmp_path):
    words = (
        "compare",
        db,
        "--label",
        "age",
        "--numeric",
        "--group",
        "patient",
        "--tables",
        "t,noisy",
        "--replicates",
        "300",
    )
    found = json.loads(done(*words, "--out", tmp_path / "out", "--predictions", tmp_path / "p.parquet", "--json").out)
    columns = pq.read_table(tmp_path / "p.parquet").to_pydict()
    errors = [np.abs(np.array(columns[f"{name} predicted"]) - columns["true"]).mean() for name in ("t", "noisy")]
    (difference,) = found["differences"]
    assert found["metric"] == "mae"
    assert difference["delta"]["value"] == pytest.approx(errors[0] - errors[1])
    assert difference["delta"]["high"] < 0
    assert difference["p"] < 0.05
    assert "left of 0 the first is better" in (tmp_path / "out" / "comparison.html").read_text()
    assert "mean of the fitted rows" in done(*words).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--label", "same"), "one value only (4)"),
        (("--label", "word"), "--numeric takes numbers"),
        (("--label", "endless"), "infinite in"),
        (("--label", "age,adc"), "one column of numbers"),
        (("--label", "age", "--review", "--costs", "5"), "--costs is of classes"),
        (("--label", "age", "--coverage", "0.8"), "--coverage is of --review"),
        (("--label", "age", "--split", "nested", "--repeats", "2"), "need one test split"),
        (("--label", "age", "--split", "leave-out:same"), "two sites or more"),
        (("--label", "age", "--confounder", "sex,nix"), "no column 'nix'"),
        (("--label", "age", "--confounder", "age"), "both --confounder and --label"),
        (("--label", "age", "--ordinal"), "--ordinal is of classes"),
    ],
)
def test_what_is_no_number_or_not_of_numbers_is_refused_in_one_line(db, words, said):
    found = call("probes", "linear", db, "--numeric", "--group", "patient", "--table", "t", *words)
    assert found.code in (1, 2)
    assert said in found.err
    assert found.err.strip().splitlines()[-1].count("\n") == 0


def test_the_intervals_are_those_whose_coverage_the_protocol_quotes():
    predicted, true, groups = rows(DESIGNS["40 patients"], 3)
    simulated = intervals(number_evaluator(predicted, true, groups), 300, 3)
    found = score_numbers(predicted, true, groups, Resampling(300, 3)).metrics
    for name, methods in simulated.items():
        assert (found[name].low, found[name].high) == pytest.approx(methods["scale, t by moments, SD·√(g/(g-1))"])


@pytest.mark.slow
def test_the_intervals_hold_the_truth_in_nearly_95_per_cent_of_simulated_studies(record_property):
    held = coverage(DESIGNS["100 patients"], 300, 200)
    chosen = {name: methods["scale, t by moments, SD·√(g/(g-1))"] for name, methods in held.items()}
    record_property("measured", f"D36 coverage, 100 patients of 1 to 4 images, 300 sets: {chosen}")
    assert all(90 <= share <= 98.5 for share in chosen.values()), chosen  # three standard errors below 94
