"""`probes prototype`: nearest class mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from probes.options import default_of, make_request, probe_options, review_options, shuffle_option


@click.command("prototype", short_help="Nearest class mean.")
@probe_options
@review_options
@click.option(
    "--scaling", type=click.Choice(["center_l2", "zscore", "l2", "none"]), help=default_of("scaling", "prototype")
)
@shuffle_option
@click.option("--few-shot", is_flag=True, help="Also the label-efficiency curve: 1, 2, 4, … patients a class.")
def command(*, out: Path | None, replace: bool, as_json: bool, **options: Any) -> None:
    """Classify each test row by the nearest mean of the fitted classes, on centred unit rows."""
    from probes.outputs import answer

    answer(make_request("prototype", options), out=out, replace=replace, as_json=as_json)
