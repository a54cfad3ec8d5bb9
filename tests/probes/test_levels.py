"""`--level`: rows pooled to cases before the fit, against pandas; contradictions in a case are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student
from sklearn.metrics import roc_auc_score

from indexer.errors import ProbeError
from indexer.store.table import EmbeddingStore
from probes.cohort.load import load, open_store
from probes.evaluation.bootstrap import draw
from probes.request import ProbeRequest
from tests.commands import call
from tests.tables import make_table, unit

DIM, PATIENTS, SERIES, SLICES = 12, 30, 2, 5


def rows() -> list[dict[str, Any]]:
    return [
        {
            "patient": f"p{p}",
            "series": f"p{p}s{s}",
            "ill": p % 2,
            "lesion": (p + s) % 2,
            "side": "LR"[s],
            "place": ("test", "val", "train")[p % 3],
        }
        for p in range(PATIENTS)
        for s in range(SERIES)
        for _ in range(SLICES)
    ]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> EmbeddingStore:
    """The finding shows in one of each series' slices alone."""
    rng = np.random.default_rng(0)
    facts = rows()
    x = rng.standard_normal((len(facts), DIM))
    shown = np.arange(len(facts)) % SLICES == 2
    x[shown, 0] = np.where([f["lesion"] for f in facts], 6.0, -6.0)[shown]
    return make_table(
        tmp_path_factory.mktemp("levels") / "db",
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16),
        facts,
    )


def request(store: EmbeddingStore, **options: Any) -> ProbeRequest:
    given = {"labels": ("lesion",), "group": "patient", "level": "series", "replicates": 20}
    return ProbeRequest(db=store.uri, probe="linear", **(given | options))


@pytest.mark.parametrize("method", ["mean", "max", "mean+max", "top2"])
def test_a_case_is_the_pooled_vector_of_its_rows_as_pandas_pools_them(store, method) -> None:
    data = load(open_store(request(store)), request(store, pool=method))
    read = store.vectors(columns=["series"])
    frame = pd.DataFrame(unit(read.vectors))
    groups = frame.groupby(read.columns.column("series").to_pylist())
    wanted = {
        "mean": groups.mean(),
        "max": groups.max(),
        "mean+max": pd.concat([groups.mean(), groups.max()], axis=1),
        "top2": groups.agg(lambda column: column.nlargest(2).mean()),
    }[method]
    assert sorted(data.keys) == wanted.index.tolist()
    np.testing.assert_allclose(
        unit(data.vectors.unit), unit(wanted.loc[list(data.keys)].to_numpy().astype(np.float32)), atol=1e-3
    )
    assert [data.group_names[g] for g in data.groups] == [key.split("s")[0] for key in data.keys]
    assert [data.truth.classes[c] for c in data.truth.codes] == [
        str((int(key[1:].split("s")[0]) + int(key[-1])) % 2) for key in data.keys
    ]


def test_the_command_fits_and_scores_series_with_patients_kept_apart(store, tmp_path) -> None:
    words = ("--label", "lesion", "--group", "patient", "--replicates", "20", "--split", "stratified", "--json")
    by_series = call(
        "probes", "linear", store.uri, *words, "--level", "series", "--pool", "max", "--out", tmp_path / "r"
    )
    assert by_series.code == 0, by_series.err
    found = by_series.json
    assert found["flow"]["cases"] == PATIENTS * SERIES
    assert sum(part["rows"] for part in found["split"]["parts"].values()) == PATIENTS * SERIES
    assert "no patient is on two sides" in found["split"]["statement"]
    assert "each row is a series, its images pooled by max before the fit" in found["split"]["statement"]
    by_image = call("probes", "linear", store.uri, *words).json
    assert found["test"]["metrics"]["auc_macro"]["value"] > by_image["test"]["metrics"]["auc_macro"]["value"]
    again = call("probes", "rerun", tmp_path / "r", "--json")
    assert again.code == 0, again.err


def test_a_stored_probe_of_series_predicts_series(store, tmp_path) -> None:
    words = ("--label", "lesion", "--group", "patient", "--replicates", "20", "--split", "stratified")
    done = call(
        "probes", "linear", store.uri, *words, "--level", "series", "--pool", "mean+max", "--out", tmp_path / "r"
    )
    assert done.code == 0, done.err
    found = call("probes", "predict", tmp_path / "r", store.uri, "--where", "patient < 'p2'", "--json").json
    names = {f["series"] for f in rows() if f["patient"] < "p2"}
    assert {row["key"] for row in found["rows"]} == names
    none = call("probes", "predict", tmp_path / "r", store.uri, "--where", "patient = 'nix'", "--json")
    assert none.json["rows"] == []
    for wrong in (("--images", tmp_path / "r" / "probe.json"), ("--write", "x")):
        refused = call("probes", "predict", tmp_path / "r", store.uri, *wrong)
        assert refused.code == 1
        assert "of each series" in refused.err


def test_a_stored_probe_of_patients_whose_group_is_the_case_predicts_patients(store, tmp_path) -> None:
    words = (
        "--label",
        "ill",
        "--group",
        "patient",
        "--level",
        "patient",
        "--split",
        "stratified",
        "--replicates",
        "20",
    )
    assert call("probes", "linear", store.uri, *words, "--out", tmp_path / "r").code == 0
    found = call("probes", "predict", tmp_path / "r", store.uri, "--json")
    assert found.code == 0, found.err
    assert {row["key"] for row in found.json["rows"]} == {f"p{p}" for p in range(PATIENTS)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ("ill",), "level": "side"}, "side has rows of several classes of ill"),
        (
            {"labels": ("lesion", "ill"), "multilabel": True, "level": "patient", "group": "none"},
            "both values of a label",
        ),
        ({"level": "lesion", "group": "patient"}, "lesion has rows of several values of patient"),
        ({"labels": ("ill",), "level": "patient", "subgroups": ("side",)}, "Leave side out of --subgroup"),
        ({"scaling": "raw"}, "--scaling raw"),
        ({"pool": "median"}, "no such pooling"),
        ({"level": "nix"}, "no column 'nix'"),
    ],
)
def test_contradictions_within_a_case_and_wrong_options_are_named_with_the_way_out(store, change, words) -> None:
    from indexer.errors import IndexerError

    with pytest.raises(IndexerError, match=words):
        load(open_store(request(store)), request(store, **change))


def test_rows_without_a_case_are_named(tmp_path) -> None:
    facts = rows()
    del facts[7]["series"]
    store = make_table(tmp_path / "db", np.eye(DIM)[np.arange(len(facts)) % DIM].astype(np.float16), facts)
    with pytest.raises(ProbeError, match=r"1 labelled rows have no series .e.g. k7"):
        load(open_store(request(store)), request(store))


def probabilities_of(folder: Any) -> pd.DataFrame:
    """Of each test row, by the probe of one level alone."""
    return pd.read_parquet(folder / "predictions.parquet").set_index("key")


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_levels_are_compared_on_the_cases_of_the_coarsest_by_the_same_draws(store, tmp_path, pooling) -> None:
    words = ("--label", "ill", "--group", "patient", "--split", "place", "--replicates", "40", "--pooling", pooling)
    options = {"image": (), "series": ("--level", "series"), "patient": ("--level", "patient")}
    alone = {}
    for level, own in options.items():
        done = call("probes", "linear", store.uri, *words, *own, "--out", tmp_path / level)
        assert done.code == 0, done.err
        alone[level] = probabilities_of(tmp_path / level)
    compared = ("--levels", "image,series,patient", "--out", tmp_path / "c")
    done = call("probes", "compare", store.uri, *words, *compared, "--json")
    assert done.code == 0, done.err
    found = done.json
    truth = alone["patient"]["true"].astype(int)
    pooled = {}
    for level, rows in alone.items():
        cases = rows[["p(0)", "p(1)"]].groupby(rows["group"]).agg(pooling)
        pooled[level] = cases.div(cases.sum(axis=1), axis=0)["p(1)"].loc[truth.index]
    assert (found["rows"], found["cases"], found["unmatched"]) == (len(truth), "patient", dict.fromkeys(options, 0))
    area = {level: roc_auc_score(truth, scores) for level, scores in pooled.items()}
    for level, scored in zip(options, found["of_cases"], strict=True):
        assert scored["metrics"]["auc_macro"]["value"] == pytest.approx(area[level], abs=1e-6)
    y, everyone = truth.to_numpy(), np.arange(len(truth))
    for difference in found["differences"]:
        sides = [pooled[difference[side]].to_numpy() for side in ("first", "second")]

        def between(rows: Any, times: Any, sides: Any = sides) -> float:
            first, second = (roc_auc_score(y[rows], own[rows], sample_weight=times) for own in sides)
            return first - second

        point = area[difference["first"]] - area[difference["second"]]
        drawn = [own for block in draw(len(y), 40, 0) for own in block if 0 < own[y == 1].sum() < own.sum()]
        d = np.array([between(everyone != n, None) for n in everyone])
        d -= d.mean()
        freedom = min(len(d) - 1, 3 * (d**2).sum() ** 2 / (d**4).sum()) if d.any() else len(d) - 1
        half = student.ppf(0.975, freedom) * np.std([between(everyone, own) for own in drawn])
        shown = difference["delta"]["value"], difference["delta"]["low"], difference["delta"]["high"]
        assert shown == pytest.approx((point, point - half, point + half), abs=1e-5)
    assert "every level scored on the same" in call("probes", "compare", store.uri, *words, *compared).out
    assert "(patient)" in (tmp_path / "c" / "comparison.html").read_text()
    again = call("probes", "rerun", tmp_path / "c")
    assert again.code == 0, again.out + again.err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--levels", "image"), "two levels or more"),
        (("--levels", "image,patient", "--split", "stratified"), "one test split"),
        (("--levels", "image,series", "--tables", "t"), "name what is compared"),
        (("--levels", "image,series", "--level", "series"), "without --level"),
        (("--levels", "side,patient"), "side"),
    ],
)
def test_levels_that_cannot_be_compared_are_refused_in_one_line(store, options, words) -> None:
    done = call("probes", "compare", store.uri, "--label", "ill", "--group", "patient", *options)
    assert done.code in (1, 2)
    assert words in done.err
