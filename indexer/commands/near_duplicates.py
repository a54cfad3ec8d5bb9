"""`indexer near-duplicates`: finds near-duplicate images, also across patients and splits."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from indexer.duplicates.options import NearOptions
from indexer.options import emit, json_option, plain, say, table_option, where_option

FIRST = 10  # pairs listed on stdout


@click.command("near-duplicates", short_help="Pairs and clusters of near-duplicate images, across groups and splits.")
@click.argument("database", metavar="DB")
@click.option("--threshold", default=NearOptions.threshold, show_default=True, help="Lowest cosine of a pair.")
@click.option("--group", metavar="COLUMN", help="Rows that belong together, e.g. the patient: counts pairs across.")
@click.option("--split", metavar="COLUMN", help="Names training and test rows: counts rows that leak.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write every pair, with clusters: .parquet or .csv."
)
@click.option("--max-pairs", default=NearOptions.max_pairs, show_default=True, help="Stop with an error past so many.")
@click.option(
    "--memory",
    "memory_gib",
    default=NearOptions.memory_bytes / 2**30,
    show_default=True,
    help="GiB held; more goes to a temporary file.",
)
@where_option
@table_option
@json_option
def command(
    *,
    database: str,
    threshold: float,
    group: str | None,
    split: str | None,
    out: Path | None,
    max_pairs: int,
    memory_gib: float,
    where: str | None,
    table: str | None,
    as_json: bool,
) -> None:
    """Find every pair of images whose cosine reaches --threshold, exactly, and the clusters they form.

    A pair across patients may be one patient under two names; a pair across splits is a test image seen in training.
    Prints the counts and the first pairs; --out writes them all.
    """
    from indexer.duplicates.files import pairs_file, require_pairs_file
    from indexer.duplicates.find import stream_near_duplicates
    from indexer.progress.terminal import Terminal
    from indexer.store.table import EmbeddingStore

    options = NearOptions(threshold, where, group, split, max_pairs, int(memory_gib * 2**30))
    if out:
        require_pairs_file(out)
    store = EmbeddingStore.open(database, table)
    first: list[dict[str, Any]] = []
    with pairs_file(out) if out else nullcontext() as write:

        def take(block: Any) -> None:
            first.extend(block.slice(0, FIRST - len(first)).to_pylist())
            if write:
                write(block)

        report = stream_near_duplicates(store, options, take, progress=Terminal())
    if out:
        say(f"wrote {report.pairs} pairs to {out}", err=True)
    emit({**vars(report), "first_pairs": first}, as_json=as_json, text=_text)


def _text(facts: dict[str, Any]) -> str:
    counts = {name: value for name, value in facts.items() if name != "first_pairs"}
    shown = facts["first_pairs"]
    return plain(counts) + (f"\n\nfirst {len(shown)} pairs\n{plain(shown)}" if shown else "")
