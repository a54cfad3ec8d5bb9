"""`probes forest`: a random forest on the vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from probes.options import class_weight_option, fit_options, make_request, probe_options, review_options


@click.command("forest", short_help="A random forest on the vectors.")
@probe_options
@review_options
@fit_options
@class_weight_option
@click.option("--penalty", "--leaf", type=click.IntRange(1), help="Fix the least rows of a leaf; else 1, 4 or 16.")
def command(*, out: Path | None, replace: bool, as_json: bool, **options: Any) -> None:
    """Fit 100 trees (Breiman 2001); the least number of rows in a leaf is chosen by inner validation."""
    from probes.outputs import answer

    answer(make_request("forest", options), out=out, replace=replace, as_json=as_json)
