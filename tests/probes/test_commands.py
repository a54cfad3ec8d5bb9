"""The command line of the probes: every option reaches the request, help reads well, wrong inputs end in one line."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from probes.cli import COMMANDS, group
from probes.presets import PRESETS
from probes.runs.result import FORMAT
from tests.commands import call
from tests.probes.cohort import make_cohort
from tests.probes.test_results import FINDING
from tests.probes.test_rows import ILL, QUICK, probe


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    return make_cohort(tmp_path_factory.mktemp("cohort"), patients=60)


def command(name):
    return group.get_command(click.Context(group), name)


def option_names(name):
    return {max(o.opts, key=len) for o in command(name).params if isinstance(o, click.Option)}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help_that_fits_a_line_or_two(name):
    page = call("probes", name, "-h")
    assert page.code == 0
    assert page.out.startswith("Usage: probes " + name)
    for option in command(name).params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert len(option.help) <= 120, option.name
    assert all(len(line) <= 80 for line in page.out.splitlines())


def test_the_group_lists_every_command_with_its_line():
    listed = call("probes", "-h").out
    for name, line in COMMANDS.items():
        assert f"{name} " in listed
        assert line.split()[0] in listed


def test_the_defaults_that_help_names_are_those_that_a_run_has(db):
    for kind in ("linear", "knn", "prototype"):
        request = probe(kind, db, *ILL)["request"]
        for option in command(kind).params:
            told = isinstance(option, click.Option) and "Default: " in (option.help or "")
            if told and option.name in request.keys() - {"table", "replicates", "positive", "class_weight"}:
                assert f"Default: {request[option.name]}." in option.help, (kind, option.name)


# option → what it is called with, and where its value stands in the request
REACHED = {
    "--label": ("ill", "labels", ["ill"]),
    "--group": ("patient", "group", "patient"),
    "--table": ("t", "table", "t"),
    "--positive": ("0", "positive", "0"),
    "--split": ("stratified", "split", "stratified"),
    "--where": ("site = 'A'", "where", "site = 'A'"),
    "--salt": ("pepper", "salt", "pepper"),
    "--seed": (4, "seed", 4),
    "--subgroup": ("sex,site", "subgroups", ["sex", "site"]),
    "--tau": (0.97, "tau", 0.97),
    "--specificity": (0.8, "specificity", 0.8),
    "--prevalence": (0.1, "prevalence", 0.1),
    "--pooling": ("max", "pooling", "max"),
    "--replicates": (60, "replicates", 60),
    "--scaling": ("zscore", "scaling", "zscore"),
    "--shuffle-control": (None, "shuffle_control", True),
    "--class-weight": ("balanced", "class_weight", "balanced"),
    "--penalty": (0.5, "penalty", 0.5),
    "--few-shot": (None, "few_shot", True),
    "--kernel": ("rbf", "probe", "svm-rbf"),
    "--k": (7, "k", 7),
    "--vote": ("uniform", "vote", "uniform"),
    "--temperature": (0.2, "temperature", 0.2),
}
ELSEWHERE = {  # tested where they act
    "--multilabel", "--ordinal", "--preset", "--out", "--replace", "--json", "--review", "--coverage", "--costs",
    "--confounder", "--test-db", "--test-table", "--test-where", "--distinct-groups",
    "--repeats", "--multiverse", "--link", "--level", "--pool", "--numeric",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["linear", "knn", "prototype", "svm", "mlp"])
def test_every_option_reaches_the_request(db, kind):
    asked = {"--label": ("ill",), "--group": ("patient",)}
    own = option_names(kind) - ELSEWHERE
    assert own <= REACHED.keys()
    for option in own - asked.keys():
        given, field, value = REACHED[option]
        arguments = [*ILL, *([option] if given is None else [option, given])]
        arguments += [] if option == "--replicates" else ["--replicates", 30]
        arguments += ["--penalty", 1] if kind in ("linear", "svm", "mlp") and option != "--penalty" else []
        done = call("probes", kind, db, *arguments, "--json")
        assert done.code == 0, (option, done.err)
        assert done.json["request"][field] == value, option
        assert done.json["request"]["probe"].startswith(kind)


@pytest.mark.parametrize(("name", "kind"), [("dino", "knn"), ("medmnist", "knn"), ("uni", "knn"), ("clip", "linear")])
def test_a_preset_is_the_published_protocol_and_says_so(db, name, kind):
    found = probe(kind, db, *FINDING, "--preset", name)
    for field, value in PRESETS[name].items():
        assert found["request"][field] == value, field
    assert found["request"]["preset"] == name
    if kind == "knn":
        assert found["selection"] == {
            "parameter": "k", "value": PRESETS[name]["k"], "inner": "fixed", "at_edge": False, "candidates": [],
        }  # fmt: skip
        assert {1, 5, 10, 20, 50, 100, 200} & {n["k"] for n in found["neighbours"]} >= {1, 5, 10, 20, 50, 100}


def test_the_clip_preset_searches_as_published(db):
    """Radford 2021, A.3: seven values two decades apart, then halved to eight steps a decade."""
    found = probe("linear", db, *FINDING, "--preset", "clip")
    import numpy as np

    exponents = [round(np.log10(c["value"]), 6) for c in found["selection"]["candidates"]]
    assert {-6, -4, -2, 0, 2, 4, 6} <= set(exponents)
    assert len(exponents) <= 15
    best = round(np.log10(found["selection"]["value"]), 6)
    assert {round(best - 0.125, 6), round(best + 0.125, 6)} & set(exponents)
    assert all(e * 8 == round(e * 8) for e in exponents)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("linear", "DB"), "Missing option '--label'"),
        (("linear", "DB", "--label", "ill"), "Missing option '--group'"),
        (("linear", "DB", *ILL, "--nonsense"), "No such option"),
        (("lineal", "DB"), "Did you mean linear"),
        (("linear", "DB", *ILL, "--tau", "2"), "--tau"),
        (("linear", "DB", *ILL, "--replicates", "0"), "--replicates"),
        (("linear", "DB", *ILL, "--penalty", "0"), "--penalty"),
        (("linear", "DB", "--label", "a,b", "--group", "patient"), "that takes --multilabel"),
        (("linear", "DB", "--label", "a,b", "--multilabel", "--ordinal", "--group", "patient"), "--ordinal takes one"),
        (("linear", "DB", *ILL, "--split", "stratified", "--salt", "x"), "--salt is of --split hash only"),
        (("knn", "DB", *ILL, "--preset", "dino", "-k", "5"), "--preset dino fixes --k"),
        (("linear", "DB", *ILL, "--preset", "clip", "--scaling", "l2"), "--preset clip fixes --scaling"),
        (("compare", "DB", *ILL, "--tables", "t,u", "--table", "t"), "not --table"),
        (("compare", "DB", *ILL, "--tables", "t,u", "--probe", "knn", "--class-weight", "balanced"), "knn has none"),
        (("predict", "nowhere", "DB"), "does not exist"),
        (("rerun", "nowhere"), "does not exist"),
    ],
)
def test_usage_errors_say_what_is_wrong(db, arguments, words):
    done = call("probes", *(db if a == "DB" else a for a in arguments))
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("linear", "nowhere", *ILL), "nowhere"),
        (("linear", "DB", *ILL, "--where", "ill ="), "where"),
        (("linear", "DB", *ILL, "--table", "other"), "other"),
        (("linear", "DB", *ILL, "--split", "nested", "--subgroup", "sex"), "--subgroup needs one test split"),
        (("linear", "DB", *ILL, "--split", "nested", "--few-shot"), "--few-shot needs one test split"),
        (("mlp", "DB", "--label", "a,b", "--multilabel", "--group", "patient"), "Use `probes linear`"),
        (("forest", "DB", "--label", "a,b", "--multilabel", "--group", "patient"), "Use `probes linear`"),
        (("prototype", "DB", "--label", "a,b", "--multilabel", "--group", "patient"), "Use `probes linear`"),
        (("report", "DIR"), "result.json"),
        (("card", "DIR"), "result.json"),
        (("rerun", "DIR"), "result.json"),
        (("linear", "DB", *ILL, "--out", "FULL"), "holds other files"),
    ],
)
def test_errors_of_ours_are_one_line_with_the_way_out(db, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    places = {"DB": db, "DIR": tmp_path / "empty", "FULL": tmp_path / "full"}
    done = call("probes", *(places.get(a, a) for a in arguments))
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1), done.err
    assert words in done.err
    assert [f.name for f in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_results_that_are_no_results_are_an_error(tmp_path):
    for text in ("[]", "{}", "no json", '{"format": 1}', '{"format": 1, "stranger": 2}'):
        (tmp_path / "result.json").write_text(text)
        done = call("probes", "report", tmp_path)
        assert (done.code, done.err.count("\n")) == (1, 1), text


def test_the_data_go_to_stdout_as_one_json_document_and_nothing_else(db):
    command = [sys.executable, "-m", "probes", "linear", db, *ILL, *QUICK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["format"] == FORMAT
    assert done.stderr == ""
