"""D37's other answers, and D33 of numbers and times: subgroups, sizes, tests of the curves, comparisons, plans."""

from __future__ import annotations

import json

import numpy as np
import pytest
from statsmodels.duration.hazard_regression import PHReg
from statsmodels.duration.survfunc import survdiff

from probes.evaluation.certainty.plan import Study
from probes.evaluation.scoring import Resampling
from probes.evaluation.targets.agreement import score_numbers
from probes.evaluation.targets.concordance import score_risks
from probes.evaluation.targets.plan import plan_concordance, plan_limits, plan_mae
from probes.evaluation.targets.predictions import Predictions
from probes.evaluation.targets.proportional import log_rank, proportionality
from tests.commands import call
from tests.probes.cohort import unit
from tests.probes.targets.test_numbers import done
from tests.probes.targets.test_survival import by_all_pairs, rows_of
from tests.tables import make_table

TIMES = ("--time", "months", "--event", "died", "--group", "patient")
HOW = Resampling(200, 0)


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("times") / "db"
    vectors, metadata = rows_of()
    for row in metadata:
        row["no_val"] = None if row["side"] == "val" else row["side"]
    make_table(folder, vectors, metadata)
    worse = vectors.astype(np.float64) + 0.4 * np.random.default_rng(1).standard_normal(vectors.shape)
    make_table(folder, unit(worse), metadata, "noisy")
    return str(folder)


def test_residuals_against_time_are_those_of_statsmodels_and_show_a_fading_risk():
    rng = np.random.default_rng(0)
    risks, events = rng.standard_normal(150), rng.random(150) < 0.8
    steady = rng.exponential(np.exp(-risks))
    fitted = PHReg(steady, risks[:, None], status=events.astype(int)).fit()
    residuals, at = fitted.schoenfeld_residuals[:, 0], np.argsort(np.argsort(steady[events]))
    by_row = residuals[~np.isnan(residuals)] if np.isnan(residuals).any() else residuals[events]
    tested = Predictions(risks * fitted.params[0], steady, events, np.arange(150), 1.0)
    found = proportionality(tested, HOW)
    assert found.value == pytest.approx(np.corrcoef(by_row, at)[0, 1], abs=1e-6)
    assert found.low < 0 < found.high
    early = rng.exponential(size=150) * np.exp(-2 * risks)
    fading = np.where(early < 0.3, early, 0.3 + rng.exponential(size=150))  # from .3 on the risk means nothing
    slope = PHReg(fading, risks[:, None], status=np.ones(150)).fit().params[0]
    assert proportionality(Predictions(risks * slope, fading, np.ones(150, bool), np.arange(150), 1.0), HOW).high < 0
    none = Predictions(risks, steady, np.zeros(150, bool), np.arange(150), 1.0)
    assert proportionality(none, HOW) is None


def test_the_log_rank_p_is_statsmodels():
    rng = np.random.default_rng(0)
    for seed in range(3):
        part, events = rng.integers(0, 3, 90), rng.random(90) < 0.7
        months = np.ceil(6 * rng.exponential(np.exp(-0.4 * seed * part)))
        expected = survdiff(months, events.astype(int), part)[1]
        assert log_rank(part, months, events) == pytest.approx(expected)
    assert np.isnan(log_rank(np.zeros(90), months, events))
    assert np.isnan(log_rank(part, months, np.zeros(90, bool)))


def test_subgroups_and_sizes_of_times_are_reported_and_thirds_are_tested_where_patients_have_one_row(db, tmp_path):
    done("survival", db, "--table", "t", *TIMES, "--split", "side", "--subgroup", "site", "--few-shot", "--replicates",
         "20", "--out", tmp_path / "out")  # fmt: skip
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    found = result["survival"]
    whole = result["split"]["parts"]["test"]
    assert sum(s["rows"] for s in found["subgroups"]) == whole["rows"]
    assert sum(s["events"] for s in found["subgroups"]) == whole["classes"]["event"]
    assert [p["groups"] for p in found["sizes"][-3:]] == [32, 64, result["split"]["parts"]["train"]["groups"]]
    alone = done("survival", db, "--table", "t", *TIMES, "--split", "no_val", "--penalty", result["selection"]["value"],
                 "--replicates", "20", "--json").json  # fmt: skip
    assert found["sizes"][-1]["uno_mean"] == pytest.approx(alone["test"]["metrics"]["uno"]["value"])
    assert found["log_rank"] is None
    page = (tmp_path / "out" / "report.html").read_text()
    for shown in ("site = A", "patients in all", "Schoenfeld&#x27;s residuals", "groups have several"):
        assert shown in page, shown
    pooled = done("survival", db, "--table", "t", *TIMES, "--level", "patient", "--replicates", "20", "--json").json
    assert pooled["survival"]["log_rank"] < 0.05


def test_tables_are_compared_by_the_paired_difference_of_their_concordance(db, tmp_path):
    words = ("compare", db, "--probe", "survival", *TIMES, "--tables", "t,noisy", "--split", "side")
    found = done(*words, "--replicates", "100", "--predictions", tmp_path / "p.parquet", "--out", tmp_path / "out",
                 "--json").json  # fmt: skip
    import pyarrow.parquet as pq

    columns = {name: np.array(own) for name, own in pq.read_table(tmp_path / "p.parquet").to_pydict().items()}
    horizon = found["results"][0]["survival"]["horizon"]
    ones = np.ones(len(columns["time"]))
    uno = [
        by_all_pairs(columns[f"{name} predicted"], columns["time"], columns["event"], ones, horizon)[0]
        for name in ("t", "noisy")
    ]
    (difference,) = found["differences"]
    assert found["metric"] == "uno"
    assert difference["delta"]["value"] == pytest.approx(uno[0] - uno[1])
    assert "chance" in done(*words, "--replicates", "20", "--metric", "harrell").out
    for wrong, said in (
        (("--label", "died"), "leave --label"), (("--positive", "1"), "--positive is not of"),
        (("--metric", "mae"), "another target"),
    ):  # fmt: skip
        refused = call("probes", *words, *wrong)
        assert refused.code == 2
        assert said in refused.err
    assert "--time and --event" in call("probes", "compare", db, "--group", "patient", "--tables", "t,noisy",
                                        "--probe", "survival").err  # fmt: skip


def test_planned_studies_of_numbers_and_times_have_about_the_wished_width():
    study = Study(images=3, likeness=0.5)
    by_mae, by_limits, by_c = plan_mae(4, 1.2, study), plan_limits(5, 2.4, study), plan_concordance(0.7, 0.14, 0.4)
    widths = {"mae": [], "limits": [], "harrell": []}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        for name, plan, sd in (("mae", by_mae, 4 * np.sqrt(np.pi / 2)), ("limits", by_limits, 5.0)):
            owner = np.repeat(np.arange(plan.patients), 3)
            own = rng.standard_normal(plan.patients)[owner] + rng.standard_normal(len(owner))
            errors = sd * np.sqrt(0.5) * own
            true = 10 * rng.standard_normal(len(owner))
            found = score_numbers(true + errors, true, owner, HOW).metrics[{"limits": "limit_high"}.get(name, name)]
            widths[name].append(found.high - found.low)
        count = by_c.patients
        risks = 0.844 * rng.standard_normal(count)  # of which C is .7
        times, limits = rng.exponential(np.exp(-risks)), 0.63 * rng.exponential(size=count)
        found = score_risks(risks, np.minimum(times, limits), times < limits, (np.arange(count), HOW), np.inf)
        widths["harrell"].append(found.metrics["harrell"].high - found.metrics["harrell"].low)
    assert {name: np.mean(own) for name, own in widths.items()} == pytest.approx(
        {"mae": 1.2, "limits": 2.4, "harrell": 0.14}, rel=0.12
    )
    assert by_c.positive == round(0.4 * by_c.patients)


def test_the_plan_of_the_command_says_what_it_needs():
    found = call("probes", "plan", "--mae", 4, "--limits", 5, "--width", 2, "--json").json
    assert [(p["metric"], p["patients"], p["positive"]) for p in found] == [("mae", 39, None), ("limits", 284, None)]
    both = call("probes", "plan", "--concordance", 0.7, "--events", 0.4, "--auc", 0.8, "--prevalence", 0.3, "--json")
    assert [p["metric"] for p in both.json] == ["auc", "harrell"]
    for words, said in (
        (("--mae", 4), "need --width"), (("--auc", 0.8), "need --prevalence"),
        (("--concordance", 0.7), "go together"), (("--auc", 0.8, "--prevalence", 0.3, "--width", 3), "below 1"),
        (("--mae", 4, "--width", 1, "--auc", 0.8, "--prevalence", 0.3), "a call of their own"),
        (("--mae", 4, "--width", 1, "--prevalence", 0.3), "--prevalence is of"),
    ):  # fmt: skip
        refused = call("probes", "plan", *words)
        assert refused.code == 2
        assert said in refused.err, refused.err
