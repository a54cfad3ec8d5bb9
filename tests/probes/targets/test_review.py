"""D25 to D40 where the target is a number or a time, against scikit-learn, scipy, statsmodels and sums over pairs."""

from __future__ import annotations

import csv
import html
import json
import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.preprocessing import StandardScaler
from statsmodels.duration.hazard_regression import PHReg
from statsmodels.duration.survfunc import SurvfuncRight

from probes.evaluation.certainty.ranges import conformal_ranges
from probes.evaluation.scoring import Resampling
from probes.evaluation.targets.kept import selective_errors
from probes.evaluation.targets.predictions import Predictions
from probes.evaluation.targets.residuals import deviance_residuals, far_out
from probes.evaluation.targets.within import within_strata
from probes.fitting.targets.hazard import baseline_of
from tests.commands import call
from tests.probes.targets.test_numbers import done, rows_of, split_of
from tests.probes.targets.test_survival import by_all_pairs
from tests.probes.targets.test_survival import rows_of as times_of
from tests.tables import make_table

HOW = Resampling(100, 0)


def elsewhere(made):
    """Rows of other patients."""
    vectors, metadata = made
    return vectors, [row | {"patient": f"other {row['patient']}"} for row in metadata]


@pytest.fixture(scope="module")
def dbs(tmp_path_factory):
    """Databases of numbers and of times, each with another site's."""
    root = tmp_path_factory.mktemp("review")
    vectors, metadata = rows_of()
    for row in metadata:
        row["site"] = "ABC"[int(row["patient"][1:]) % 3]
    make_table(root / "numbers", vectors, metadata)
    make_table(root / "other numbers", *elsewhere(rows_of(40, 9)))
    vectors, metadata = times_of()
    for row in metadata:
        row["only_b"] = "test" if row["site"] == "B" else "train"
    make_table(root / "times", vectors, metadata)
    make_table(root / "other times", *elsewhere(times_of(60, 4)))
    return root


@pytest.fixture(scope="module")
def numbers(dbs):
    out = dbs / "out of numbers"
    done("linear", dbs / "numbers", "--label", "age", "--numeric", "--group", "patient", "--test-db",
         dbs / "other numbers", "--confounder", "sex,site", "--review", "--coverage", "0.8", "--repeats", "2",
         "--multiverse", "--replicates", "50", "--out", out)  # fmt: skip
    return out


@pytest.fixture(scope="module")
def times(dbs):
    out = dbs / "out of times"
    done("survival", dbs / "times", "--time", "months", "--event", "died", "--group", "patient", "--split", "side",
         "--test-db", dbs / "other times", "--confounder", "site,grade", "--review", "--replicates", "50",
         "--out", out)  # fmt: skip
    return out


def result_in(folder):
    return json.loads((folder / "result.json").read_text())


def written_in(folder):
    columns = pq.read_table(folder / "predictions.parquet").to_pydict()
    return {name: np.array(column) for name, column in columns.items()}


def test_the_external_errors_are_those_of_the_stored_probe_applied_there(dbs, numbers):
    external = result_in(numbers)["review"]["external"]
    rows = call("probes", "predict", numbers, dbs / "other numbers", "--json").json["rows"]
    true = np.array([row["age"] for row in rows_of(40, 9)[1]])
    predicted = np.array([row["predicted"] for row in rows])
    metrics = {name: each["value"] for name, each in external["test"]["metrics"].items()}
    assert metrics["mae"] == pytest.approx(mean_absolute_error(true, predicted))
    assert metrics["r2"] == pytest.approx(r2_score(true, predicted))
    assert metrics["number_slope"] == pytest.approx(np.polyfit(predicted, true, 1)[0])
    written = written_in(numbers)
    here = mean_absolute_error(written["true"], written["predicted"])
    assert external["drops"]["mae"]["value"] == pytest.approx(here - metrics["mae"])
    assert external["drops"]["mae"]["low"] < external["drops"]["mae"]["value"] < external["drops"]["mae"]["high"]
    factor = next(r for r in external["ranges"] if not r["adaptive"])["factor"]
    owners = np.array([row["patient"] for row in rows_of(40, 9)[1]])
    held = [(np.abs(true - predicted) <= factor)[owners == name].mean() for name in np.unique(owners)]
    assert external["ranges"][0]["coverage"]["value"] == pytest.approx(np.mean(held))
    assert call("probes", "rerun", numbers, "--json").json["reproduced"]


def test_external_times_are_scored_at_the_earlier_horizon_and_their_predicted_events_are_compared(dbs, times):
    result = result_in(times)
    external = result["review"]["external"]
    found = call("probes", "predict", times, dbs / "other times", "--json").json
    risks = np.array([row["predicted"] for row in found["rows"]])
    metadata = times_of(60, 4)[1]
    months, died = (np.array([row[name] for row in metadata]) for name in ("months", "died"))
    ones = np.ones(len(months))
    expected = by_all_pairs(risks, months, died == 1, ones, external["horizon"])
    there = external["test"]["metrics"]
    assert [there["uno"]["value"], there["harrell"]["value"]] == pytest.approx(expected)
    own = np.sort(months)[::-1][int(np.ceil(0.1 * len(months))) - 1]
    assert external["horizon"] == min(result["survival"]["horizon"], own)
    written = written_in(times)
    here = by_all_pairs(written["predicted"], written["time"], written["event"], np.ones(len(written["time"])),
                        external["horizon"])  # fmt: skip
    assert external["drops"]["uno"]["value"] == pytest.approx(here[0] - expected[0])
    at = external["at_horizon"]
    assert at["time"] == min(found["horizon"], external["horizon"])
    curve = SurvfuncRight(months, died)
    observed = 1 - curve.surv_prob[np.searchsorted(curve.surv_times, at["time"], "right") - 1]
    assert at["observed"]["value"] == pytest.approx(observed)
    assert at["difference"]["value"] == pytest.approx(observed - at["expected"])
    if at["time"] == found["horizon"]:
        assert at["expected"] == pytest.approx(1 - np.mean([row["survival"] for row in found["rows"]]))
    assert call("probes", "rerun", times, "--json").json["reproduced"]


def test_the_baseline_hazard_is_breslows_and_turns_risks_into_survival():
    golden = baseline_of(np.array([0, 0, 0, np.log(2)]), np.array([1.0, 2, 3, 4]), np.array([True, False, True, True]))
    assert golden.hazard == pytest.approx([1 / 5, 8 / 15, 31 / 30])
    assert golden.survival(np.zeros(1), 3.5) == pytest.approx(0.586646, abs=1e-6)
    rng = np.random.default_rng(0)
    x, events = rng.standard_normal((80, 2)), rng.random(80) < 0.6
    months = rng.exponential(np.exp(-x[:, 0])).round(2) + 0.01
    model = PHReg(months, x, status=events.astype(int), ties="breslow")
    params = np.array([0.8, -0.2])
    at, before, _ = model.baseline_cumulative_hazard(params)[0]
    own = baseline_of(x @ params, months, events)
    assert own.at(np.nextafter(at, 0)) == pytest.approx(before)  # statsmodels gives the hazard before each time
    best = model.fit().params
    hazard = baseline_of(x @ best, months, events).at(months) * np.exp(x @ best)
    martingale = events - hazard
    assert martingale.sum() == pytest.approx(0, abs=1e-6)  # as at every maximum of Breslow's likelihood
    expected = [
        np.sign(m) * np.sqrt(-2 * (m + (np.log(1 - m) if event else 0)))
        for m, event in zip(martingale, events, strict=True)
    ]
    assert deviance_residuals(events, hazard) == pytest.approx(expected)


def test_each_left_out_site_is_scored_by_a_ridge_regression_of_the_others(dbs, tmp_path):
    done("linear", dbs / "numbers", "--label", "age", "--numeric", "--group", "patient", "--split", "leave-out:site",
         "--replicates", "20", "--out", tmp_path / "out")  # fmt: skip
    result = result_in(tmp_path / "out")
    x, y, groups, _ = split_of(dbs / "numbers")
    sites = np.array([row["site"] for row in metadata_in_order(dbs)])
    for fold in result["folds"]:
        held = sites == fold["site"]
        scaler = StandardScaler().fit(x[~held])
        fitted = Ridge(alpha=fold["penalty"]).fit(scaler.transform(x[~held]), y[~held])
        found = fitted.predict(scaler.transform(x[held]))
        mae = fold["of_site"]["mae"]
        assert mae["value"] == pytest.approx(mean_absolute_error(y[held], found))
        assert mae["low"] < mae["value"] < mae["high"]
        assert fold["groups"] == len(np.unique(groups[held]))
    values = [fold["of_site"]["mae"]["value"] for fold in result["folds"]]
    whole = result["test"]["metrics"]["mae"]
    assert (whole["value"], whole["value"] - whole["low"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Each site left out" in page
    items = {f"{i['checklist'][0]}{i['number']}": i["answer"]
             for i in call("probes", "card", tmp_path / "out", "--json").json}  # fmt: skip
    assert "mean absolute error" in items["C33"]


def metadata_in_order(dbs):
    """Of the rows of the numbers' table, in its order."""
    from indexer.store.table import EmbeddingStore

    return EmbeddingStore.open(str(dbs / "numbers"), "t").vectors(None, ["key", "site"]).columns.to_pylist()


def test_each_left_out_site_of_times_has_both_concordances_of_its_own_rows(dbs, tmp_path):
    found = done("survival", dbs / "times", "--time", "months", "--event", "died", "--group", "patient", "--split",
                 "leave-out:site", "--replicates", "20", "--json").json  # fmt: skip
    assert [fold["site"] for fold in found["folds"]] == ["A", "B"]
    fold = found["folds"][1]
    own = done("survival", dbs / "times", "--time", "months", "--event", "died", "--group", "patient", "--split",
               "only_b", "--penalty", fold["penalty"], "--replicates", "20", "--json").json  # fmt: skip
    assert fold["of_site"] == own["test"]["metrics"]
    assert 0.5 < fold["metrics"]["harrell"] == fold["of_site"]["harrell"]["value"]


def test_what_a_column_explains_alone_and_within_its_values_is_scikit_learns_and_scipys(dbs, numbers):
    found = result_in(numbers)["review"]["confounders"]
    _, y, _, split = split_of(dbs / "numbers")
    written = written_in(numbers)
    sites = np.array([row["site"] for row in metadata_in_order(dbs)])
    own = next(c for c in found["columns"] if c["column"] == "site")
    fitted = np.concatenate([split.train, split.val])
    coded = (sites[:, None] == np.array(["A", "B", "C"])).astype(float)
    alone = Ridge(alpha=1.0).fit(coded[fitted], y[fitted]).predict(coded[split.test])
    assert own["alone"]["value"] == pytest.approx(r2_score(y[split.test], alone))
    ranks, counts = [], []
    for site in "ABC":
        rows = sites[split.test] == site
        ranks.append(spearmanr(written["predicted"][rows], written["true"][rows]).statistic)
        counts.append(rows.sum())
    assert own["within"]["within"]["value"] == pytest.approx(np.average(ranks, weights=counts))
    assert own["within"]["plain"]["value"] == pytest.approx(spearmanr(written["predicted"], written["true"]).statistic)
    assert found["metric"] == "r2"
    together = r2_score(written["true"], written["predicted"]) - found["together"]["value"]
    assert found["gain"]["value"] == pytest.approx(together)


def test_pairs_within_values_are_counted_as_by_brute_force_and_a_planted_column_is_found():
    rng = np.random.default_rng(0)
    site = np.repeat([0, 1], 60)
    groups = np.arange(120) // 2
    of_site = 2.0 * site + 0.01 * rng.standard_normal(120)
    number = 2.0 * site + 0.5 * rng.standard_normal(120)
    for predicted, left in ((of_site, False), (number + 0.3 * rng.standard_normal(120), True)):
        assert within_strata(Predictions(predicted, number, None, groups), site, HOW).left is left
        assert within_strata(Predictions(predicted, number, None, groups), site, HOW).plain.low > 0.5
    months, events = rng.exponential(np.exp(-number)), rng.random(120) < 0.7
    tested = Predictions(number, months, events, groups, float(months.max()))
    found = within_strata(tested, site, HOW)
    wins = pairs = 0
    for i in np.flatnonzero(events):
        for j in np.flatnonzero((site == site[i]) & (months > months[i])):
            wins, pairs = wins + (number[i] > number[j]), pairs + 1
    assert found.within.value == pytest.approx(wins / pairs)
    assert found.left
    only_site = within_strata(Predictions(of_site, months, events, groups, float(months.max())), site, HOW)
    assert only_site.plain.low > 0.5
    assert not only_site.left


def test_ranges_are_the_golden_and_hold_new_patients_as_often_as_asked():
    groups = np.arange(18)
    errors = np.zeros(18)
    from probes.evaluation.certainty.conformal import calibrating

    errors[calibrating(np.zeros(18, np.int64), groups, 0)] = np.arange(1, 10)
    for wanted, factor in ((0.9, 9), (0.8, 8)):
        assert conformal_ranges(errors, np.ones(18), groups, wanted, HOW, adaptive=False).factor == factor
    assert "too few" in conformal_ranges(errors, np.ones(18), groups, 0.95, HOW, adaptive=False).refused
    held, few = [], Resampling(2, 0)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        owner = np.repeat(np.arange(40), rng.integers(1, 5, 40))
        drawn = rng.standard_normal(40)[owner] + rng.standard_normal(len(owner))
        found = conformal_ranges(drawn, np.ones(len(owner)), owner, 0.8, few, adaptive=False)
        held.append(found.coverage.value)
    assert 0.79 < np.mean(held) < 0.86  # at least 80 %, and less than 1 / (20 + 1) more; standard error .006


def test_the_error_of_the_kept_rows_is_that_of_the_rows_of_least_doubt():
    rng = np.random.default_rng(0)
    doubt, groups = rng.random(50).round(1) + 0.1, np.arange(50) // 2
    errors = doubt * rng.standard_normal(50)
    found = selective_errors(errors, doubt, groups, HOW)
    for kept in found.kept:
        own = doubt <= -kept.least
        assert kept.rows == own.sum()
        assert kept.risk.value == pytest.approx(np.abs(errors[own]).mean())
        assert kept.risk.low < kept.risk.value < kept.risk.high
    by_count = [np.abs(errors[doubt <= np.sort(doubt)[n]]).mean() for n in range(50)]
    assert found.area == pytest.approx(np.mean(by_count))
    assert found.area_best < found.area < found.area_random == pytest.approx(np.abs(errors).mean())
    assert far_out(np.array([1.0] * 10 + [2.0] * 10 + [5.1])).tolist() == [False] * 20 + [True]


def test_the_most_wrong_are_listed_beside_their_nearest_fitted_images_and_their_numbers(dbs, numbers):
    x, y, groups, split = split_of(dbs / "numbers")
    written, examples = written_in(numbers), result_in(numbers)["review"]["examples"]
    wrong = [e for e in examples["shown"] if e["kind"] == "error"]
    order = np.argsort(-np.abs(written["true"] - written["predicted"]), kind="stable")
    assert [e["key"] for e in wrong] == written["key"][order][:100].tolist()
    fitted = np.concatenate([split.train, split.val])
    first = split.test[order[0]]
    near = fitted[np.argsort(-(x[fitted] @ x[first]))[:5]]
    assert [float(n["label"]) for n in wrong[0]["neighbours"]] == y[near].tolist()
    scaler = StandardScaler().fit(x[split.train])
    z, alpha = scaler.transform(x)[fitted], result_in(numbers)["selection"]["value"]
    fifth = np.searchsorted(np.quantile(y[fitted], (0.2, 0.4, 0.6, 0.8)), y[fitted])
    held = np.empty(len(fitted))
    for fit, out in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(z, fifth, groups[fitted]):
        held[out] = Ridge(alpha=alpha).fit(z[fit], y[fitted][fit]).predict(z[out])
    near = np.argsort(-(x[split.test] @ x[fitted].T), axis=1)[:, :10]
    doubt = np.abs(y[fitted] - held)[near].mean(1)
    doubtful = [e for e in examples["shown"] if e["kind"] == "doubtful"]
    assert doubtful[0]["score"] == pytest.approx(doubt.max(), rel=1e-3)
    with (numbers / "examples.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert lines[0]["key"] == wrong[0]["key"]
    assert float(lines[0]["label"]) == written["true"][order[0]]


def test_early_events_of_low_risk_and_the_reverse_are_the_most_wrong_of_times(times):
    examples = [e for e in result_in(times)["review"]["examples"]["shown"] if e["kind"] == "error"]
    written = written_in(times)
    at = {key: i for i, key in enumerate(written["key"])}
    early = next(e for e in examples if e["score"] > 0)
    late = next(e for e in examples if e["score"] < 0)
    assert early["label"].startswith("event at")
    assert written["predicted"][at[early["key"]]] < np.median(written["predicted"])
    assert written["predicted"][at[late["key"]]] > np.median(written["predicted"])
    assert all(n["label"].split()[0] in ("event", "censored") for n in early["neighbours"])


def test_repeats_are_further_salts_and_the_multiverse_holds_the_result_itself(dbs, numbers):
    result = result_in(numbers)
    review = result["review"]
    again = done("linear", dbs / "numbers", "--label", "age", "--numeric", "--group", "patient", "--salt", "#2",
                 "--replicates", "10", "--json").json  # fmt: skip
    mae = next(s for s in review["repeats"] if s["metric"] == "mae")
    assert mae["values"][1] == pytest.approx(again["test"]["metrics"]["mae"]["value"])
    own = next(
        c for c in review["multiverse"]
        if (c["scaling"], c["penalty"], c["seed"], c["pooling"]) == ("zscore", "inner validation", "salt ''", "rows")
    )  # fmt: skip
    assert own["value"] == pytest.approx(result["test"]["metrics"]["mae"]["value"])
    assert len(review["multiverse"]) == 3 * 3 * 2 * 2


def test_the_reports_and_the_terminal_show_every_answer(dbs, numbers, times):
    page = (numbers / "report.html").read_text()
    for shown in ("External test", "Confounders", "Certainty", "Images to look at", "Sensitivity to the protocol",
                  "Conformal ranges", "Prototypes of each fifth"):  # fmt: skip
        assert shown in page, shown
    for absent in ("AUC, macro", "suspect label", "decision curve"):
        assert absent not in page, absent
    page = (times / "report.html").read_text()
    for shown in ("observed minus predicted", "scored up to months", "Prototypes of each third of the risk"):
        assert shown in page, shown
    text = done("survival", dbs / "times", "--time", "months", "--event", "died", "--group", "patient", "--split",
                "nested", "--penalty", "10", "--replicates", "10").out  # fmt: skip
    assert "outer fold" in text


@pytest.mark.parametrize(
    ("of", "name", "words"), [("numbers", "mae", "mean absolute error"), ("times", "uno", "Uno's C")]
)
def test_the_report_in_short_answers_each_question_that_has_a_section(request, of, name, words):
    folder = request.getfixturevalue(of)
    page, result = (folder / "report.html").read_text(), result_in(folder)
    short = re.search("<section id='short'>(.*?)</section>", page, re.DOTALL)[1]
    asked = re.findall(r"<dt><a href='#([\w-]+)'>", short)
    own = "agreement" if of == "numbers" else "survival"
    answered = ["results", "audit", own, "external", "confounders", "certainty", "examples", "sensitivity"]
    assert asked == [name for name in answered if f"<section id='{name}'>" in page]
    assert len(asked) >= 6
    said = html.unescape(re.sub("<[^>]+>", " ", short))
    value = float(re.search(rf"{words} ([\d.]+)", said)[1])
    assert value == pytest.approx(result["test"]["metrics"][name]["value"], rel=0.01)
    tested = result["test"]
    assert f"on {tested['rows']} test rows of {tested['groups']} groups." in said
    if of == "numbers":
        low = result["test"]["metrics"]["limit_low"]["value"]
        assert float(re.search(r"limits of agreement (-?[\d.]+) to", said)[1]) == pytest.approx(low, rel=0.01)
