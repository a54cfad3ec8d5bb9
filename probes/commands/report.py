"""`probes report`: writes a result as one HTML page."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.options import emit, json_option


@click.command("report", short_help="Draw a result as one HTML page.")
@click.argument("result", type=click.Path(exists=True, path_type=Path))
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Where to. Default: beside the result.")
@json_option
def command(result: Path, html: Path | None, as_json: bool) -> None:
    """Draw RESULT (a result.json, a comparison.json, or the folder of one) as one self-contained HTML file.

    The page loads nothing from a network; plots are inline.
    """
    from probes.outputs import REPORT, write_page
    from probes.reporting.comparison import PAGE, comparison_html
    from probes.reporting.html import report_html
    from probes.runs.result_files import is_comparison, read_comparison, read_result

    folder = result if result.is_dir() else result.parent
    if is_comparison(result):
        name, page = PAGE, comparison_html(read_comparison(result))
    else:
        name, page = REPORT, report_html(read_result(result))
    target = html or folder / name
    write_page(target, page)
    emit({"report": str(target)}, as_json=as_json)
