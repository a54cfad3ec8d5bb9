"""`probes svm`: support vector machines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer.options import FiniteRange
from probes.options import class_weight_option, fit_options, make_request, probe_options, review_options


@click.command("svm", short_help="Support vector machine, linear or with a Gaussian kernel.")
@probe_options
@review_options
@fit_options
@class_weight_option
@click.option(
    "--kernel",
    default="linear",
    show_default=True,
    type=click.Choice(["linear", "rbf"]),
    help="Linear, or Gaussian (at most 20,000 rows).",
)
@click.option("--penalty", "--c", type=FiniteRange(0, min_open=True), help="Fix C instead of choosing it.")
def command(*, kernel: str, out: Path | None, replace: bool, as_json: bool, **options: Any) -> None:
    """Fit one support vector machine for each class, with C chosen by inner validation.

    Decision values become probabilities by a softmax at a temperature that is fitted on held-out rows.
    """
    from probes.outputs import answer

    answer(make_request("svm" if kernel == "linear" else "svm-rbf", options), out=out, replace=replace, as_json=as_json)
