"""`probes survival`: Cox regression on the vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer.options import FiniteRange
from probes.options import make_survival_request, scaling_option, survival_options


@click.command("survival", short_help="Cox regression on the vectors, for times with events.")
@survival_options
@scaling_option
@click.option("--penalty", type=FiniteRange(0, min_open=True), help="Fix lambda instead of choosing it.")
@click.option("--few-shot", is_flag=True, help="Also C with 2, 4, 8, … fitted patients.")
def command(*, out: Path | None, replace: bool, as_json: bool, **options: Any) -> None:
    """Fit a survival probe on DB's vectors, and score it on groups that it was not fitted on.

    Cox's model on principal components of the vectors, with a ridge penalty: Uno's and Harrell's C with 95 % intervals
    from resampling whole groups, Kaplan-Meier curves by third of the risk, and predicted against observed events.
    """
    from probes.outputs import answer

    answer(make_survival_request(options), out=out, replace=replace, as_json=as_json)
