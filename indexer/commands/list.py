"""`indexer list`: writes what an archive holds into a Parquet file, which is a source of `indexer index`."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.options import emit, json_option, say


@click.command("list", short_help="List an archive into a manifest, a source for index.")
@click.argument("sources", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The manifest, a .parquet file.")
@json_option
def command(sources: tuple[str, ...], out: Path, as_json: bool) -> None:
    """List the shards and images of SOURCES: prefixes and patterns of object stores (s3://, gs://, az://), folders,
    files and URLs. Memory does not grow with their number.

    `indexer index MANIFEST DB` reads what the manifest names, without listing again.
    """
    from indexer.archive.remote.manifest import write_manifest
    from indexer.output_file import require_writable

    if out.suffix != ".parquet":
        raise click.BadParameter(f"{out} must end in .parquet.", param_hint="--out")
    require_writable(out, "--out")
    counts, left_out = write_manifest(sources, out)
    for words in left_out:
        say(f"note: not listed: {words}", err=True)
    found = {"shards": counts["shard"], "images": counts["image"], "json_files": counts["json"], "out": str(out)}
    emit(found, as_json=as_json)
