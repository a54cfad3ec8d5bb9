"""`probes compare`: compares the same probe on several tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer.options import emit
from indexer.output_file import require_writable
from probes.options import (
    class_weight_option,
    comparison_options,
    fit_options,
    make_request,
    make_survival_request,
    numeric_option,
)
from probes.request import ProbeRequest

METRICS = {
    "classes": ("auc_macro", "balanced_accuracy", "ap_macro", "kappa_quadratic"),
    "numeric": ("mae", "rmse", "r2", "spearman"),
    "survival": ("uno", "harrell"),
}  # of differences; the first is the default
OF_TIMES = {
    "db",
    "time",
    "event",
    "group",
    "pool",
    "split",
    "where",
    "salt",
    "seed",
    "subgroup",
    "tau",
    "replicates",
    "scaling",
}  # of --probe survival


@click.command("compare", short_help="The same probe on several tables: paired differences.")
@comparison_options
@numeric_option
@fit_options
@class_weight_option
@click.option("--tables", default="", metavar="A,B,...", help="Tables of the same images; the first has the labels.")
@click.option(
    "--levels", default="", metavar="image,SERIES,...",
    help="In place of tables: levels of one, e.g. image,series,patient, on the cases of the coarsest.",
)  # fmt: skip
@click.option(
    "--probe",
    default="linear",
    show_default=True,
    type=click.Choice(["linear", "knn", "prototype", "svm", "svm-rbf", "mlp", "forest", "survival"]),
    help="Which probe to fit on each table.",
)
@click.option(
    "--metric",
    metavar="METRIC",
    type=click.Choice([name for names in METRICS.values() for name in names]),
    help="auc_macro, balanced_accuracy, ap_macro, kappa_quadratic; numbers: mae, rmse, r2, spearman; uno, harrell",
)
@click.option(
    "--predictions", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.parquet",
    help="Write the test rows' probabilities by each table.",
)  # fmt: skip
def command(
    *,
    tables: str,
    levels: str,
    probe: str,
    metric: str | None,
    predictions: Path | None,
    out: Path | None,
    replace: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit the same probe on each of --tables, or at each of --levels, with the same rows, splits and bootstrap draws.

    Prints the numbers of each, and every pair's difference with its interval and Holm-corrected p. Levels are fitted
    each as with --level (--pool), and scored on the cases of the coarsest: rows of a finer one are pooled by their
    probabilities (--pooling).
    """
    from probes.outputs import check_folder, write_comparison, write_predictions
    from probes.progress import Stages
    from probes.reporting.comparison import comparison_text
    from probes.runs.compare import compare
    from probes.runs.compare_levels import compare_levels

    names = [name.strip() for name in (tables or levels).split(",") if name.strip()]
    _check(tables, levels, metric, options, predictions)
    _check_target(probe, options, levels)
    request = _request(probe, options | ({"level": names[-1]} if levels and options["pool"] else {}))
    known = METRICS[request.target]
    if metric is not None and metric not in known:
        raise click.UsageError(f"--metric {metric} is of another target: choose one of {', '.join(known)}.")
    if predictions is not None and predictions.suffix != ".parquet":
        raise click.UsageError("--predictions writes a .parquet file.")
    if predictions is not None:
        require_writable(predictions, "--predictions")
    if out is not None:
        check_folder(out, request, replace=replace, tables=names)
    if levels:
        found, outcomes = compare_levels(request, names, metric or known[0], Stages())
    else:
        found, outcomes = compare(request, names, metric or known[0], Stages())
    if predictions is not None:
        write_predictions(outcomes, predictions)
    if out is not None:
        write_comparison(found, out)
    emit(found, as_json=as_json, text=comparison_text)


def _check_target(probe: str, options: dict[str, Any], levels: str) -> None:
    """Raise UsageError for a probe without the columns of its target."""
    times = bool(options["time"] or options["event"])
    wrong = (
        (options["numeric"] and probe not in ("linear", "knn"),
         f"--numeric is of --probe linear and knn: {probe} has another target."),
        (probe == "survival" and not (options["time"] and options["event"]),
         "a survival probe needs --time and --event."),
        (probe == "survival" and bool(options["label"] or levels),
         "--probe survival compares --tables by --time and --event: leave --label and --levels out."),
        (probe != "survival" and times, "--time and --event are of --probe survival."),
        (probe != "survival" and not options["label"], "name the column of the classes or numbers with --label."),
    )  # fmt: skip
    for holds, text in wrong:
        if holds:
            raise click.UsageError(text)


def _request(probe: str, options: dict[str, Any]) -> ProbeRequest:
    """The request of a table's probe. Raises UsageError for options without a meaning for times."""
    if probe != "survival":
        return make_request(probe, {name: value for name, value in options.items() if name not in ("time", "event")})
    given = {name: value for name, value in options.items() if value not in (None, False, "")}
    strange = sorted(given.keys() - OF_TIMES)
    if strange:
        raise click.UsageError(f"--{strange[0].replace('_', '-')} is not of --probe survival: leave it out.")
    return make_survival_request(given)


def _check(tables: str, levels: str, metric: str | None, options: dict[str, Any], predictions: Path | None) -> None:
    """Raise UsageError for options that contradict each other."""
    if bool(tables) == bool(levels):
        raise click.UsageError("name what is compared: --tables A,B or --levels image,series.")
    if tables and options["table"] is not None:
        raise click.UsageError("name the tables with --tables, not --table.")
    if metric == "kappa_quadratic" and not options["ordinal"]:
        raise click.UsageError("--metric kappa_quadratic is of grades in order: add --ordinal.")
    if levels and (options["level"] is not None or predictions is not None):
        raise click.UsageError("--levels goes without --level and --predictions: each level has rows of its own.")
    if levels and options["numeric"]:
        raise click.UsageError("--levels compares probes of classes: leave --numeric out.")
