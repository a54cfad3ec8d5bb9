"""Option decorators shared by the probe commands. Imports click only."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from indexer.options import SEED, FiniteRange, json_option, table_option, where_option
from probes.presets import PRESETS, SCALING
from probes.request import ProbeRequest

Command = Callable[..., Any]


def default_of(field: str, probe: str = "") -> str:
    """The end of an option's help text: the default of the request, or that of one probe."""
    given = SCALING.get(probe) if field == "scaling" else None
    value = given or next(f.default for f in dataclasses.fields(ProbeRequest) if f.name == field)
    return f"Default: {value}."


# Defaults are defined in `ProbeRequest` only; an option that is not given is not passed on.
_TABLE = [click.argument("db"), table_option]
_LABEL = [
    click.option("--label", "label", required=True, metavar="COLUMN", help="Column of the classes."),
    click.option(
        "--multilabel", is_flag=True, help="--label is a comma-separated list of 0/1 columns; null is unknown."
    ),
    click.option("--ordinal", is_flag=True, help="The classes are ordered numbers: adds quadratic-weighted kappa."),
    click.option("--positive", metavar="CLASS", help="The class to detect, of two. Default: by its name."),
]
_TIMES = [
    click.option("--time", required=True, metavar="COLUMN", help="Column of the times to the event or last visit."),
    click.option("--event", required=True, metavar="COLUMN", help="Column of 1 (the event) and 0 (censored)."),
]
_ROWS = [
    click.option(
        "--group",
        required=True,
        metavar="COLUMN",
        help='Column of groups that a split keeps together, e.g. patient; "none" splits by image.',
    ),
    click.option(
        "--level",
        metavar="COLUMN",
        help=f"A case is all images with one value, e.g. series, pooled before the fit. {default_of('level')}",
    ),
    click.option("--pool", metavar="HOW", help=f"mean, max, mean+max or topK: of --level. {default_of('pool')}"),
    click.option(
        "--split",
        metavar="HOW",
        help="hash, stratified, nested, leave-out:COLUMN (each site in turn), or a column that names train, val, "
        f"test. {default_of('split')}",
    ),
    where_option,
]
_SPLIT = [
    click.option("--salt", help="Salt of the hash split: another salt gives another split."),
    click.option("--seed", type=SEED, help=f"Seed of splits, draws and fits. {default_of('seed')}"),
]
_CLASS_SCORE = [
    click.option(
        "--specificity", type=FiniteRange(0, 1), help=f"Target of the operating point. {default_of('specificity')}"
    ),
    click.option(
        "--prevalence", type=FiniteRange(0, 1, min_open=True, max_open=True), help="Also the PPV at this prevalence."
    ),
    click.option(
        "--pooling", type=click.Choice(["mean", "max"]), help=f"Pooling of a patient's rows. {default_of('pooling')}"
    ),
]
_TAU = click.option("--tau", type=FiniteRange(0.5, 1), help=f"Cosine of a near-duplicate. {default_of('tau')}")
_SUBGROUP = click.option("--subgroup", metavar="A,B", help="Columns whose values are reported as subgroups.")
_RESULT = [
    click.option("--replicates", type=click.IntRange(2), help=f"Bootstrap replicates. {default_of('replicates')}"),
    click.option("--out", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
                 help="Write result.json, report.html, predictions.parquet and the bundle there."),
    click.option("--replace", is_flag=True, help="With --out: also where the result of another probe lies."),
]  # fmt: skip
_LOOK = click.option(
    "--review", is_flag=True,
    help="Also decision curves, costs, conformal sets, selective prediction, and images to look at.",
)  # fmt: skip
_SETS = [
    click.option("--coverage", type=FiniteRange(0.5, 0.99),
                 help="With --review: share of new images whose set, or range of --numeric, holds the truth. "
                 f"{default_of('coverage')}"),
    click.option("--costs", metavar="R,R",
                 help="With --review: how many false alarms one missed positive is worth, else 1,5,20."),
]  # fmt: skip
_ELSEWHERE = [
    click.option("--confounder", "confounders", metavar="A,B",
                 help="Columns, e.g. site,scanner, that may be what is classified: the AUC without their help."),
    click.option("--test-db", metavar="DB", help="An external test: the frozen probe on another database."),
    click.option("--test-table", metavar="TABLE", help="The external test's table, there or in DB."),
    click.option("--test-where", metavar="FILTER",
                 help="The external test's rows; without the two above of this table, and then not fitted on."),
    click.option("--distinct-groups", is_flag=True,
                 help="With --test-db: equal group names there are other patients, not left out."),
    click.option("--repeats", type=click.IntRange(2, 100), help="Also the spread over so many further splits."),
    click.option("--multiverse", is_flag=True,
                 help="Also the headline metric by scaling, rule for the penalty, split and pooling: 18 fits."),
]  # fmt: skip
shuffle_option = click.option(
    "--shuffle-control", is_flag=True, help="Also fit on shuffled labels: the AUC must be near 0.5."
)
scaling_option = click.option(
    "--scaling", type=click.Choice(["l2", "zscore", "center_l2", "none", "raw"]), help=default_of("scaling")
)
_FIT = [scaling_option, shuffle_option]
numeric_option = click.option(
    "--numeric", is_flag=True, help="--label is a column of numbers: errors and agreement in place of classes."
)
CLASSES_ONLY = (  # options without a meaning for numbers
    "multilabel", "ordinal", "positive", "class_weight", "preset", "specificity", "prevalence", "pooling",
    "shuffle_control", "costs",
)  # fmt: skip
class_weight_option = click.option(
    "--class-weight", type=click.Choice(["balanced"]), help="Weight classes equally. Default: by row."
)


def probe_options(command: Command) -> Command:
    """The options of all probes, and --json."""
    score = [_SUBGROUP, _TAU, *_CLASS_SCORE, *_RESULT]
    return _all([*_TABLE, *_LABEL, *_ROWS, *_SPLIT, *score, json_option], command)


def survival_options(command: Command) -> Command:
    """The options of a probe of times with events, and --json."""
    look = click.option("--review", is_flag=True, help="Also the most wrong images beside their nearest fitted ones.")
    score = [_SUBGROUP, _TAU, look, *_ELSEWHERE, *_RESULT]
    return _all([*_TABLE, *_TIMES, *_ROWS, *_SPLIT, *score, json_option], command)


def comparison_options(command: Command) -> Command:
    """Those of all probes, of which --label may give way to --time and --event."""
    label = click.option("--label", "label", default="", metavar="COLUMN", help="Column of the classes, or numbers.")
    times = [
        click.option(f"--{name}", default="", metavar="COLUMN", help=f"Of --probe survival: column of the {name}s.")
        for name in ("time", "event")
    ]
    score = [_SUBGROUP, _TAU, *_CLASS_SCORE, *_RESULT]
    return _all([*_TABLE, label, *times, *_LABEL[1:], *_ROWS, *_SPLIT, *score, json_option], command)


def review_options(command: Command) -> Command:
    """The options of a probe whose result answers what reviewers ask next."""
    return _all([_LOOK, *_SETS, *_ELSEWHERE], command)


def fit_options(command: Command) -> Command:
    return _all(_FIT, command)


def _all(decorators: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    return functools.reduce(lambda made, decorate: decorate(made), reversed(decorators), command)


def make_request(probe: str, options: dict[str, Any]) -> ProbeRequest:
    """A request from click's values; options not given keep the record's defaults.

    Raises UsageError for options that exclude each other, TypeError for an unknown name.
    """
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    label = given.pop("label")
    if "numeric" in given:
        _check_numeric(label, given)
        probe = "ridge" if probe == "linear" else probe
    _check_together(probe, label, given)
    fixed = PRESETS[given["preset"]] if "preset" in given else {}
    for name in fixed:
        if name in given:
            raise click.UsageError(f"--preset {given['preset']} fixes --{name}: leave one of the two out.")
    labels = _names("label", label)
    given["subgroups"] = _names("subgroup", given.pop("subgroup", None))
    given["confounders"] = _names("confounder", given.pop("confounders", None))
    given["costs"] = _ratios(given.pop("costs")) if "costs" in given else ()
    if probe in SCALING:
        given.setdefault("scaling", SCALING[probe])
    return ProbeRequest(probe=probe, labels=labels, **(given | fixed))


def _names(option: str, text: str | None) -> tuple[str, ...]:
    """The columns between commas. Raises UsageError where none is named."""
    names = tuple(name.strip() for name in (text or "").split(",") if name.strip())
    if text is not None and not names:
        raise click.UsageError(f"--{option} {text!r} names no column.")
    return names


def _ratios(text: str) -> tuple[float, ...]:
    """Positive numbers between commas. Raises UsageError."""
    try:
        found = tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = (math.nan,)
    if not found or not all(0 < ratio < math.inf for ratio in found):
        raise click.UsageError(f"--costs {text}: give positive numbers, e.g. --costs 1,5,20.")
    return found


def _check_numeric(label: str, given: dict[str, Any]) -> None:
    """Raise UsageError for options and splits that are of classes."""
    if "," in label:
        raise click.UsageError("--numeric takes one column of numbers: run the probe once for each.")
    for name in CLASSES_ONLY:
        if given.get(name) not in (None, ()):
            raise click.UsageError(f"--{name.replace('_', '-')} is of classes: leave it out, or leave --numeric out.")


def make_survival_request(options: dict[str, Any]) -> ProbeRequest:
    """The request of a probe of times with events. Raises UsageError as `make_request`."""
    given = {name: value for name, value in options.items() if value is not None and value is not False}
    labels = given.pop("time"), given.pop("event")
    if labels[0] == labels[1]:
        raise click.UsageError("--time and --event name one column: name the column of 0 and 1 with --event.")
    _check_together("survival", labels[0].replace(",", " "), given)
    given["subgroups"] = _names("subgroup", given.pop("subgroup", None))
    given["confounders"] = _names("confounder", given.pop("confounders", None))
    return ProbeRequest(probe="survival", labels=labels, **given)


def _check_together(probe: str, label: str, given: dict[str, Any]) -> None:
    multilabel = "multilabel" in given
    wrong = (
        ("," in label and not multilabel, "--label names several columns: that takes --multilabel."),
        (multilabel and "ordinal" in given, "--ordinal takes one column of grades: leave --multilabel out."),
        (multilabel and "positive" in given, "--positive is of one column with two classes: leave --multilabel out."),
        ("ordinal" in given and "positive" in given, "of ordered grades the higher is positive: leave --positive out."),
        *(
            (name in given and "review" not in given, f"--{name} is of --review: add it, or leave --{name} out.")
            for name in ("costs", "coverage")
        ),
        ("pool" in given and "level" not in given, "--pool is of --level: name the column of the cases."),
        (
            "level" in given and ("review" in given or "multiverse" in given),
            "--review and --multiverse are of images: leave --level out.",
        ),
        ("salt" in given and given.get("split", "hash") != "hash", "--salt is of --split hash only."),
        (
            "class_weight" in given and probe in ("knn", "prototype"),
            f"--class-weight is of fitted losses: {probe} has none.",
        ),
    )
    for holds, text in wrong:
        if holds:
            raise click.UsageError(text)
