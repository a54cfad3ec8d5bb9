"""D37: survival probes, against statsmodels' proportional hazards and sums over all pairs."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.optimize import minimize
from sklearn.decomposition import PCA
from statsmodels.duration.hazard_regression import PHReg
from statsmodels.duration.survfunc import SurvfuncRight

from indexer.store.table import EmbeddingStore
from probes.evaluation.targets.concordance import concordance_evaluator, horizon_of
from probes.fitting.targets.cox import fit_cox, log_likelihood, risk_sets
from tests.commands import call
from tests.probes.cohort import unit
from tests.tables import make_table

DIM = 12


def rows_of(patients: int = 160, seed: int = 0):
    """Vectors that carry a hazard, of patients with one to three images and one time each, and their metadata."""
    rng = np.random.default_rng(seed)
    along = np.random.default_rng(5).standard_normal((2, DIM))
    vectors, metadata = [], []
    for number in range(patients):
        hazard = rng.standard_normal()
        event, censored = rng.exponential(np.exp(-1.5 * hazard)), rng.exponential(1.5)
        months = float(np.ceil(12 * min(event, censored)))  # in whole months, so that many are equal
        for _ in range(int(rng.integers(1, 4))):
            vectors.append(along[0] + hazard * along[1] + 0.5 * rng.standard_normal(DIM))
            metadata.append({
                "patient": f"p{number:03d}", "months": months, "died": int(event <= censored), "never": 0,
                "side": ("train", "train", "train", "val", "test")[number % 5], "site": "AB"[number % 2],
                "lost": None if number % 8 == 0 else months, "minus": -months, "name": "x", "grade": number % 3,
            })  # fmt: skip
    return unit(np.array(vectors)), metadata


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("survival") / "db"
    make_table(folder, *rows_of())
    return str(folder)


def done(*words):
    found = call("probes", *words)
    assert found.code == 0, found.err
    return found


@pytest.fixture(scope="module")
def out(db, tmp_path_factory):
    folder = tmp_path_factory.mktemp("result") / "out"
    done("survival", db, "--time", "months", "--event", "died", "--group", "patient", "--split", "side",
         "--replicates", "200", "--out", folder)  # fmt: skip
    return folder


def read(db):
    table = EmbeddingStore.open(db, "t").vectors(None, ["key", "months", "died", "side", "patient"])
    x = table.vectors.astype(np.float64)
    x *= np.sqrt(DIM) / np.linalg.norm(x, axis=1, keepdims=True)
    columns = {name: table.columns.column(name).to_numpy(zero_copy_only=False) for name in table.columns.column_names}
    return x, columns


def penalised(x, times, events, penalty):
    """The maximum of statsmodels' partial likelihood less the penalty."""
    model = PHReg(times, x, status=events.astype(int), ties="efron")
    found = minimize(
        lambda b: penalty * b @ b / 2 - model.loglike(b), np.zeros(x.shape[1]),
        jac=lambda b: penalty * b - model.score(b), method="BFGS", options={"gtol": 1e-7},
    )  # fmt: skip
    return found.x, model


def test_the_fit_is_statsmodels_efron_likelihood_with_a_ridge_penalty():
    rng = np.random.default_rng(0)
    x, events = rng.standard_normal((90, 4)), rng.random(90) < 0.7
    times = np.ceil(8 * rng.exponential(np.exp(-x[:, 0])))
    sets = risk_sets(times, events)
    for penalty in (0.5, 20.0):
        reference, model = penalised(x, times, events, penalty)
        found = fit_cox(x, sets, penalty)
        assert found.converged
        assert found.beta == pytest.approx(reference, abs=1e-5)
        assert log_likelihood(sets, x @ found.beta) == pytest.approx(model.loglike(found.beta), abs=1e-9)
    plain = PHReg(times, x, status=events.astype(int), ties="efron").fit().params
    assert fit_cox(x, sets, 1e-12).beta == pytest.approx(plain, abs=1e-8)


def test_the_probe_is_that_fit_on_the_principal_components_and_lambda_is_of_the_best_inner_likelihood(db, out):
    x, columns = read(db)
    result = json.loads((out / "result.json").read_text())
    parts = {name: np.flatnonzero(columns["side"] == name) for name in ("train", "val", "test")}
    times, events = columns["months"], columns["died"] == 1

    def solved(rows, penalty):
        pca = PCA(svd_solver="full").fit(x[rows])
        z = pca.transform(x) / (pca.singular_values_[0] / np.sqrt(len(rows)))
        return z, penalised(z[rows], times[rows], events[rows], penalty)[0]

    both = np.concatenate([parts["train"], parts["val"]])
    for candidate in result["selection"]["candidates"][2::5]:
        z, beta = solved(parts["train"], candidate["value"])
        likelihood = [
            PHReg(times[rows], z[rows], status=events[rows].astype(int), ties="efron").loglike(beta)
            for rows in (both, parts["train"])
        ]
        loss = (likelihood[1] - likelihood[0]) / events[parts["val"]].sum()
        assert candidate["error"] == pytest.approx(loss, abs=1e-5)
    errors = {c["value"]: c["error"] for c in result["selection"]["candidates"]}
    best = max(value for value, error in errors.items() if error <= 1.001 * min(errors.values()))
    assert result["selection"]["value"] == best
    z, beta = solved(both, best)
    written = pq.read_table(out / "predictions.parquet").to_pydict()
    assert written["key"] == columns["key"][parts["test"]].tolist()
    assert written["predicted"] == pytest.approx(z[parts["test"]] @ beta, abs=1e-4)


def by_all_pairs(risks, times, events, weights, horizon):
    """Uno's and Harrell's C by the definition."""

    def seen(time):
        share = 1.0
        for at in np.unique(times[~events]):
            at_risk = weights[(times > at) | ((times == at) & ~events)].sum()
            if at < time and at_risk:
                share *= 1 - weights[(times == at) & ~events].sum() / at_risk
        return share

    sums = np.zeros((2, 2))
    for i in np.flatnonzero(events & (weights > 0)):
        outlives = weights * ((times > times[i]) | ((times == times[i]) & ~events))
        wins = (outlives * ((risks < risks[i]) + 0.5 * (risks == risks[i]))).sum()
        of_uno = weights[i] / seen(times[i]) ** 2 if times[i] <= horizon else 0.0
        sums += np.outer([of_uno, weights[i]], [wins, outlives.sum()])
    return sums[:, 0] / sums[:, 1]


def test_both_concordances_are_the_sums_over_all_pairs_for_any_weights():
    rng = np.random.default_rng(1)
    for rows in (12, 40, 65):
        risks, times = rng.integers(0, 9, rows).astype(float), rng.integers(1, 15, rows).astype(float)
        events, groups = rng.random(rows) < 0.6, np.arange(rows) // 2
        horizon = horizon_of(times)
        weights = rng.integers(0, 4, (3, groups.max() + 1))
        found = concordance_evaluator(risks, times, events, groups, horizon)(weights)
        for b, own in enumerate(weights):
            expected = by_all_pairs(risks, times, events, own[groups].astype(float), horizon)
            assert [found["uno"][b], found["harrell"][b]] == pytest.approx(expected)


def test_the_golden_of_the_protocol():
    found = concordance_evaluator(
        np.array([3.0, 2, 1, 2]), np.array([1.0, 2, 3, 4]), np.array([True, False, True, True]), np.arange(4), 4.0
    ).point()
    assert found == pytest.approx({"harrell": 3 / 4, "uno": 3 / (3 + 9 / 4)})


def test_the_result_has_intervals_thirds_and_curves_as_statsmodels_draws_them(out):
    result = json.loads((out / "result.json").read_text())
    written = {
        name: np.array(column) for name, column in pq.read_table(out / "predictions.parquet").to_pydict().items()
    }
    found, metrics = result["survival"], result["test"]["metrics"]
    expected = by_all_pairs(
        written["predicted"], written["time"], written["event"], np.ones(len(written["time"])), found["horizon"]
    )
    assert [metrics["uno"]["value"], metrics["harrell"]["value"]] == pytest.approx(expected)
    assert all(0.5 < each["low"] < each["value"] < each["high"] < 1 for each in metrics.values())
    third = np.searchsorted(found["bounds"], written["predicted"], "right")
    for i, own in enumerate(found["thirds"]):
        rows = third == i
        curve = SurvfuncRight(written["time"][rows], written["event"][rows].astype(int))
        assert own["rows"] == rows.sum()
        assert own["times"][1:] == curve.surv_times.tolist()
        assert own["survivals"][1:] == pytest.approx(curve.surv_prob)
        assert own["observed"][2] == (written["time"][rows] >= found["ticks"][2]).sum()
    assert found["thirds"][0]["survival"]["value"] > found["thirds"][2]["survival"]["value"]


def test_a_stored_probe_gives_the_same_risks_and_runs_again_alike(db, out):
    written = pq.read_table(out / "predictions.parquet").to_pydict()
    found = json.loads(done("predict", out, db, "--json").out)
    by_key = {row["key"]: row["predicted"] for row in found["rows"]}
    assert [by_key[key] for key in written["key"]] == pytest.approx(written["predicted"], abs=1e-9)
    again = json.loads(done("rerun", out, "--json").out)
    assert again["reproduced"] is True, again


def test_the_report_and_the_card_speak_of_survival(out):
    page = (out / "report.html").read_text()
    for shown in ("Kaplan-Meier curves", "Uno&#x27;s C", "Rows still observed", "--level patient pools them"):
        assert shown in page, shown
    for absent in ("Confusion", "baselines", "inner AUC"):
        assert absent not in page, absent
    items = {f"{i['checklist'][0]}{i['number']}": i["answer"] for i in json.loads(done("card", out, "--json").out)}
    assert "Uno's C" in items["C37"]
    assert items["T15"].startswith("a log hazard ratio")


def test_patients_pooled_to_one_row_are_fitted_and_drawn_once_each(db):
    found = json.loads(done("survival", db, "--time", "months", "--event", "died", "--group", "patient", "--level",
                            "patient", "--split", "stratified", "--replicates", "20", "--json").out)  # fmt: skip
    assert found["flow"]["cases"] == 160
    assert found["patients"] is None
    parts = found["split"]["parts"]
    shares = [parts[name]["classes"]["event"] / parts[name]["rows"] for name in ("train", "test")]
    assert shares[0] == pytest.approx(shares[1], abs=0.05)


def test_rows_without_a_time_are_left_out_and_counted(db):
    found = json.loads(done("survival", db, "--time", "lost", "--event", "died", "--group", "patient", "--split",
                            "side", "--replicates", "10", "--json").out)  # fmt: skip
    assert found["flow"]["unlabelled"] == sum(row["lost"] is None for row in rows_of()[1]) > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--time", "minus", "--event", "died"), "a time cannot be negative"),
        (("--time", "name", "--event", "died"), "--time takes numbers"),
        (("--time", "months", "--event", "never"), "holds no event"),
        (("--time", "months", "--event", "grade"), "holds 2: --event takes 1"),
        (("--time", "months", "--event", "months"), "name one column"),
        (
            ("--time", "months", "--event", "died", "--split", "side", "--where", "patient < 'p005'"),
            "events, a survival probe takes 10",
        ),
        (("--time", "months", "--event", "died", "--split", "leave-out:never"), "two sites or more"),
    ],
)
def test_what_has_no_times_or_events_is_refused_in_one_line(db, words, said):
    found = call("probes", "survival", db, "--group", "patient", *words)
    assert found.code in (1, 2)
    assert said in found.err, found.err
