"""D25: the frozen probe on other patients, and each site left out in turn."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import roc_auc_score

from probes.evaluation.bootstrap import Interval
from probes.evaluation.external.drop import drop
from probes.evaluation.external.recalibration import recalibration
from tests.commands import call
from tests.probes.cohort import make_cohort, make_rows, rows_of
from tests.probes.test_results import FINDING
from tests.probes.test_rows import ILL, probe, refusal


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("there"), patients=60, seed=5)


@pytest.mark.parametrize("case", ["golden", "no interval", "perfect"])
def test_a_drop_takes_the_distances_that_point_its_way(case):
    if case == "golden":
        found = drop(Interval(0.9, 0.8, 0.95), Interval(0.7, 0.6, 0.85))
        assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.019722436, 0.311803399))
    else:
        first = Interval(0.9, np.nan, np.nan) if case == "no interval" else Interval(0.9, 0.9, 0.9)
        found = drop(first, Interval(0.7, 0.6, 0.85))
        assert found.value == pytest.approx(0.2)
        assert np.isnan(found.low)
        assert not found.reliable


def test_recalibration_and_its_errors_by_patients_are_those_of_statsmodels():
    import statsmodels.api as sm

    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), rng.integers(1, 5, 60))
    score = rng.standard_normal(60)[groups] + rng.standard_normal(len(groups))
    y = rng.random(len(groups)) < 1 / (1 + np.exp(-(0.6 * score + 0.3)))
    p = 1 / (1 + np.exp(-score))
    found = recalibration("ill", y, p, groups)
    family = sm.families.Binomial()
    how = {"cov_type": "cluster", "cov_kwds": {"groups": groups, "use_correction": True}}
    slope = sm.GLM(y.astype(float), sm.add_constant(score), family=family).fit(**how)
    large = sm.GLM(y.astype(float), np.ones((len(y), 1)), family=family, offset=score).fit(**how)
    from scipy.stats import t

    for own, fitted, at in ((found.slope, slope, 1), (found.intercept, large, 0)):
        assert own.value == pytest.approx(fitted.params[at], abs=1e-6)
        # statsmodels' factor for GLM is g/(g-1) · (n-1)/(n-k): ours is the first alone
        k = len(fitted.params)
        error = fitted.bse[at] / np.sqrt((len(y) - 1) / (len(y) - k))
        sides = min(len(np.unique(groups[y])), len(np.unique(groups[~y])))
        assert own.high - own.value == pytest.approx(t.ppf(0.975, sides - 1) * error, rel=1e-2)


def test_recalibration_of_separated_rows_or_one_class_is_undefined():
    p = np.array([0.1, 0.2, 0.8, 0.9])
    assert np.isnan(recalibration("x", p > 0.5, p, np.arange(4)).slope.value)
    assert np.isnan(recalibration("x", p > 2, p, np.arange(4)).intercept.value)
    y = np.array([0, 1, 0, 0, 1, 0, 1, 1], bool)
    golden = recalibration("x", y, np.array([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9]), np.arange(8))
    assert (golden.intercept.value, golden.slope.value) == pytest.approx((0, 0.804889), abs=1e-6)


def test_the_external_numbers_are_those_of_the_stored_probe_applied_there(here, there, tmp_path):
    found = probe("linear", here, *ILL, "--test-db", there, "--distinct-groups", "--out", tmp_path / "out")
    rows = call("probes", "predict", tmp_path / "out", there, "--json").json["rows"]
    truth = {f"k{i}": row["ill"] for i, row in enumerate(rows_of(60, seed=5)[1])}
    y = np.array([truth[row["key"]] for row in rows])
    p = np.array([row["probabilities"]["1"] for row in rows])
    external = found["review"]["external"]
    assert external["test"]["metrics"]["auc_macro"]["value"] == pytest.approx(roc_auc_score(y, p), abs=1e-6)
    point = external["operating"][0]
    assert point["threshold"] == found["operating"][0]["threshold"]  # frozen
    called = p >= point["threshold"]
    assert point["rates"]["sensitivity"]["value"] == pytest.approx(called[y == 1].mean())
    assert point["rates"]["specificity"]["value"] == pytest.approx(1 - called[y == 0].mean())
    own = found["test"]["metrics"]["auc_macro"]["value"]
    assert external["drops"]["auc_macro"]["value"] == pytest.approx(own - roc_auc_score(y, p), abs=1e-6)
    assert external["flow"]["labelled"] == len(y) == external["test"]["rows"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "External test" in page
    assert "no external data" not in page.lower()
    assert call("probes", "rerun", tmp_path / "out", "--json").json["reproduced"]


def test_equal_names_in_another_database_are_left_out_unless_said_otherwise(here, there):
    assert "--distinct-groups" in refusal("linear", here, *ILL, "--test-db", there)
    assert (
        "equal names are the same patient"
        in call("probes", "linear", here, *ILL, "--test-where", "site = 'B'", "--distinct-groups").err
    )


def test_rows_that_are_kept_for_the_external_test_are_in_no_part_of_the_split(here, tmp_path):
    found = probe("linear", here, *ILL, "--test-where", "site = 'B'", "--out", tmp_path)
    sites = [row["site"] for row in rows_of(120)[1]]
    external = found["review"]["external"]
    assert external["test"]["rows"] == sites.count("B")
    assert sum(part["rows"] for part in found["split"]["parts"].values()) == sites.count("A")
    keys = pq.read_table(tmp_path / "predictions.parquet").column("key").to_pylist()
    assert {sites[int(key[1:])] for key in keys} == {"A"}


def test_a_filter_of_both_kinds_of_rows_and_one_of_the_external_ones_go_together(here):
    """As the refusal of filters that exclude each other says it."""
    alone, both = (
        probe("linear", here, *ILL, "--replicates", 50, "--test-where", "site = 'B'", *where)["review"]["external"]
        for where in ((), ("--where", "(site = 'A') OR (site = 'B')"))
    )
    assert {**alone, "flow": 0} == {**both, "flow": 0}


def test_a_class_without_external_rows_is_named_since_the_macro_drop_compares_other_means(here):
    kept = "site = 'B'", "site = 'B' AND finding <> 'mass'"
    whole, without = (probe("prototype", here, *FINDING, "--test-where", where) for where in kept)
    assert not any("different classes" in line for line in whole["warnings"])
    line = next(line for line in without["warnings"] if "different classes" in line)
    assert "mass can be scored in one of the two alone" in line


def test_a_site_left_out_is_scored_by_a_probe_of_the_others(tmp_path):
    vectors, metadata = rows_of(120)
    for row in metadata:
        row["half"] = "test" if row["site"] == "B" else "train"
    make_rows(tmp_path, vectors, metadata)
    left = probe("prototype", str(tmp_path), *ILL, "--split", "leave-out:site")
    alone = probe("prototype", str(tmp_path), *ILL, "--split", "half")
    by_site = {fold["site"]: fold for fold in left["folds"]}
    assert by_site.keys() == {"A", "B"}
    own, other = by_site["B"]["auc"], alone["test"]["metrics"]["auc_macro"]
    assert (own["value"], own["low"], own["high"]) == pytest.approx((other["value"], other["low"], other["high"]))
    assert left["split"]["parts"]["B"]["rows"] == by_site["B"]["rows"] == alone["test"]["rows"]
    text = call("probes", "prototype", tmp_path, *ILL, "--split", "leave-out:site", "--replicates", 50).out
    assert "each of 2 site left out" in text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--test-where", "site = 'nix'"), "no rows"),
        (
            ("--where", "site = 'A'", "--test-where", "site = 'B'"),
            "--where \"(site = 'A') OR (site = 'B')\"",
        ),
        (("--test-table", "nix"), "nix"),
        (("--split", "nested", "--review"), "one test split"),
        (("--split", "leave-out:site", "--confounder", "site"), "one test split"),
        (("--split", "leave-out:nix"), "nix"),
        (("--split", "side", "--repeats", "3"), "--repeats"),
        (("--confounder", "patient"), "both --confounder and --group"),
        (("--confounder", "ill"), "both --confounder and --label"),
        (("--test-table", "t"), "--test-table names the table itself"),
        (("--test-where", "site = "), "--test-where 'site = '"),
    ],
)
def test_what_cannot_be_answered_is_one_line(here, options, words):
    assert words in refusal("linear", here, *ILL, *options)
