"""`probes rerun`: runs a result again and compares."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.options import emit, json_option


@click.command("rerun", short_help="Run a result again and say whether it is reproduced.")
@click.argument("result", type=click.Path(exists=True, path_type=Path))
@click.option("--db", metavar="DB", help="Where the database is now. Default: where it was.")
@json_option
@click.pass_context
def command(ctx: click.Context, result: Path, db: str | None, as_json: bool) -> None:
    """Run the request in RESULT (a result.json, a comparison.json, or the folder of one) again on the same versions.

    Reproduced means: every number within 1e-9, weights within 1e-6 of the bundle beside it. Exit 1 where it is not.
    """
    from probes.progress import Stages
    from probes.runs.bundle import SPEC
    from probes.runs.rerun import rerun, rerun_comparison
    from probes.runs.result_files import is_comparison, read_comparison, read_result

    folder = result if result.is_dir() else result.parent
    if is_comparison(result):
        found = rerun_comparison(read_comparison(result), db=db, progress=Stages())
    else:
        bundle = folder if (folder / SPEC).exists() else None
        found = rerun(read_result(result), db=db, bundle=bundle, progress=Stages())
    emit(found, as_json=as_json)
    ctx.exit(0 if found.reproduced else 1)
