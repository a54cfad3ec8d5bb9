"""`probes knn`: k nearest neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from indexer.options import FiniteRange
from probes.options import (
    default_of,
    make_request,
    numeric_option,
    probe_options,
    review_options,
    shuffle_option,
)


@click.command("knn", short_help="k nearest neighbours, every k from one exact search.")
@probe_options
@numeric_option
@review_options
@click.option("-k", "--k", type=click.IntRange(1), help="Fix k instead of choosing it; every k is reported.")
@click.option("--scaling", type=click.Choice(["center_l2", "zscore", "none"]), help=default_of("scaling", "knn"))
@click.option("--vote", type=click.Choice(["softmax", "uniform"]), help=default_of("vote"))
@click.option(
    "--temperature",
    type=FiniteRange(0, min_open=True),
    help=f"Temperature of the softmax vote. {default_of('temperature')}",
)
@shuffle_option
@click.option(
    "--preset", type=click.Choice(["dino", "medmnist", "uni"]), help="A published protocol; fixes scaling, vote and k."
)
def command(*, out: Path | None, replace: bool, as_json: bool, **options: Any) -> None:
    """Classify each test row by its nearest fitted rows; neighbours of its own group do not vote.

    Every k of 1, 5, 10, 20, 50, 100, 200 comes from one exact search; validation rows choose among them. With --numeric
    the prediction is the weighted mean of the neighbours' numbers.
    """
    from probes.outputs import answer

    answer(make_request("knn", options), out=out, replace=replace, as_json=as_json)
