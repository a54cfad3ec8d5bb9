"""`probes benchmark`: a whole experiment on a public data set, from its files to one table."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.options import emit, json_option
from probes.benchmark.recipes import ENCODERS, RECIPES


@click.command("benchmark", short_help="A whole experiment on a public data set, from its files to one table.")
@click.argument("recipe", required=False)
@click.option("--list", "listed", is_flag=True, help="List the recipes and the files that each needs.")
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR",
    help="Folder with the data set's files, named as published.",
)  # fmt: skip
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Database, results, benchmark.json and benchmark.html go there.",
)  # fmt: skip
@click.option("--encoder", "encoders", multiple=True, help=f"Repeatable. Default: {' and '.join(ENCODERS)}.")
@click.option("--device", default="auto", show_default=True, help="As for `indexer index`.")
@json_option
def command(
    *,
    recipe: str | None,
    listed: bool,
    data: Path | None,
    out: Path | None,
    encoders: tuple[str, ...],
    device: str,
    as_json: bool,
) -> None:
    """Index, label and probe the data set of RECIPE with each encoder, and print one table.

    After a stop, run the same command again: finished steps are kept. Nothing is downloaded: put the files into --data.
    """
    if listed:
        from probes.benchmark.page import listed_text

        emit([_listed(name) for name in RECIPES], as_json=as_json, text=listed_text)
        return
    if recipe is None or data is None or out is None:
        raise click.UsageError("name a RECIPE with --data and --out, or see --list.")
    from indexer.disk import replace_file
    from probes.benchmark.page import PAGE, benchmark_html, benchmark_text
    from probes.benchmark.run import run_benchmark

    found = run_benchmark(recipe, data.resolve(), out.resolve(), encoders or ENCODERS, ("--device", device))
    replace_file(out / PAGE, benchmark_html(found))
    emit(found, as_json=as_json, text=benchmark_text)


def _listed(name: str) -> dict[str, str]:
    recipe = RECIPES[name]
    figures = str(len(recipe.published)) if recipe.published else "none on record"
    return {
        "recipe": name, "modality": recipe.modality, "title": recipe.title, "published figures": figures,
        "files": ", ".join(recipe.files),
    }  # fmt: skip
