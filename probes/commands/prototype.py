"""`probes prototype`: nearest class mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from probes.options import make_request, probe_options


@click.command("prototype", short_help="Nearest class mean.")
@probe_options
@click.option("--scaling", type=click.Choice(["center_l2", "zscore", "l2", "none"]), help="Default: center_l2.")
@click.option("--shuffle-control", is_flag=True, help="Also fit on shuffled labels: the AUC must be near 0.5.")
@click.option("--few-shot", is_flag=True, help="Also the label-efficiency curve: 1, 2, 4, … patients a class.")
def command(*, out: Path | None, as_json: bool, **options: Any) -> None:
    """Classify each test row by the nearest mean of the fitted classes, on centred unit rows."""
    from probes.answer import answer

    options["scaling"] = options["scaling"] or "center_l2"
    answer(make_request("prototype", options), out=out, as_json=as_json)
