"""`probes zero-shot`: scores stored images by stored class texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from probes.options import make_request, probe_options, review_options


@click.command("zero-shot", short_help="Score images against stored class-text vectors, without training.")
@probe_options
@review_options
@click.option("--task", required=True, metavar="NAME", help="The set of class texts, as `indexer text` stored it.")
def command(*, out: Path | None, replace: bool, as_json: bool, **options: Any) -> None:
    """Score the test rows with the class-text vectors of `indexer text`; the model itself is not needed.

    Nothing is trained. Held-out rows are used for the temperature and the operating points only.
    """
    from probes.outputs import answer

    answer(make_request("zero-shot", options), out=out, replace=replace, as_json=as_json)
