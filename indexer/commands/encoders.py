"""`indexer encoders`: lists the encoders, and which weights are on this machine."""

from __future__ import annotations

import click

from indexer.options import emit, json_option


@click.command("encoders", short_help="List the encoders, and which weights are on this machine.")
@click.argument("pattern", default="")
@click.option("--all", "every", is_flag=True, help="Also every published model of open_clip, torchvision and timm.")
@json_option
def command(pattern: str, every: bool, as_json: bool) -> None:
    """List encoders whose short name, name or weights contain PATTERN.

    `here` says whether the weights are on this machine. Also understood by --encoder: hf-hub:ORG/MODEL,
    local-dir:PATH, and a library's own name with --weights FILE.
    """
    from indexer.encoders import catalogue

    rows = catalogue()
    if every:
        from indexer.encoders.families.listing import everything

        rows += everything()
    wanted = pattern.lower()
    emit([row for row in rows if wanted in f"{row.alias} {row.name} {row.weights}".lower()], as_json=as_json)
