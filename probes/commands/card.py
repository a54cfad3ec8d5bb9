"""`probes card`: lists reporting items."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.options import emit, json_option, say


@click.command("card", short_help="A result as CLAIM and TRIPOD+AI items.")
@click.argument("result", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Also write a model card, a page."
)
@json_option
def command(result: Path, html: Path | None, as_json: bool) -> None:
    """List every item of CLAIM 2024 and TRIPOD+AI 2024 with the answer of RESULT; the others are named the authors'."""
    from probes.outputs import write_page
    from probes.reporting.checklist import items
    from probes.reporting.model_card import card_html
    from probes.runs.result_files import read_result

    found = read_result(result)
    if html:
        write_page(html, card_html(found))
        say(f"wrote {html}", err=True)
    emit(items(found), as_json=as_json)
