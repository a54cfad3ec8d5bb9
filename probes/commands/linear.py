"""`probes linear`: logistic regression on the vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer.options import FiniteRange
from probes.options import (
    class_weight_option,
    fit_options,
    make_request,
    numeric_option,
    probe_options,
    review_options,
)


@click.command("linear", short_help="Logistic regression on the vectors, C chosen by inner validation.")
@probe_options
@numeric_option
@review_options
@fit_options
@class_weight_option
@click.option(
    "--penalty",
    "--c",
    type=FiniteRange(0, min_open=True),
    help="Fix C (of --numeric: alpha) instead of choosing it.",
)
@click.option(
    "--few-shot",
    is_flag=True,
    help="Also the label-efficiency curve: 1, 2, 4, … patients a class (of --numeric: in all).",
)
@click.option(
    "--link", type=click.Choice(["softmax", "cumulative"]), default="softmax", show_default=True,
    help="Of --ordinal grades: cumulative fits one direction with a cut between grades.",
)  # fmt: skip
@click.option("--preset", type=click.Choice(["clip"]), help="A published protocol: its scaling and search.")
def command(*, link: str, out: Path | None, replace: bool, as_json: bool, **options: Any) -> None:
    """Fit a linear probe on DB's vectors, and score it on groups that it was not fitted on.

    Metrics have 95 % intervals from resampling whole groups, and are compared with those of the majority class. With
    --numeric it is a ridge regression: errors, R², rank correlation and Bland-Altman limits of agreement.
    """
    from probes.outputs import answer

    if link == "cumulative" and not options["ordinal"]:
        raise click.UsageError("--link cumulative is of ordered grades: add --ordinal.")
    answer(
        make_request("linear" if link == "softmax" else "cumulative", options),
        out=out,
        replace=replace,
        as_json=as_json,
    )
