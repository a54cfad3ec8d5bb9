"""`probes mlp`: a small neural network on the vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer.options import FiniteRange
from probes.options import class_weight_option, fit_options, make_request, probe_options, review_options


@click.command("mlp", short_help="A small neural network on the vectors.")
@probe_options
@review_options
@fit_options
@class_weight_option
@click.option("--penalty", type=FiniteRange(0, min_open=True), help="Fix alpha instead of choosing it.")
def command(*, out: Path | None, replace: bool, as_json: bool, **options: Any) -> None:
    """Fit one hidden layer of 256 rectified units; its L2 penalty alpha is chosen by inner validation."""
    from probes.outputs import answer

    answer(make_request("mlp", options), out=out, replace=replace, as_json=as_json)
