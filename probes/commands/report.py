"""`probes report`: a result as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.options import emit, json_option


@click.command("report", short_help="Draw a result as one HTML page.")
@click.argument("result", type=click.Path(exists=True, path_type=Path))
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Where to. Default: beside the result.")
@json_option
def command(result: Path, html: Path | None, as_json: bool) -> None:
    """Draw RESULT (a result.json or its folder) as one self-contained HTML file: no network, plots inline."""
    from probes.answer import REPORT
    from probes.report import report_html
    from probes.results import read_result

    folder = result if result.is_dir() else result.parent
    target = html or folder / REPORT
    target.write_text(report_html(read_result(result)), encoding="utf-8")
    emit({"report": str(target)}, as_json=as_json)
