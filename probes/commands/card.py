"""`probes card`: lists reporting items."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.options import emit, json_option


@click.command("card", short_help="A result as CLAIM and TRIPOD+AI items.")
@click.argument("result", type=click.Path(exists=True, path_type=Path))
@json_option
def command(result: Path, as_json: bool) -> None:
    """List the CLAIM and TRIPOD+AI items that RESULT answers by itself; the others say "not provided"."""
    from probes.reporting.checklist import items
    from probes.runs.result_files import read_result

    emit(items(read_result(result)), as_json=as_json)
