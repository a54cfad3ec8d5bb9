"""`indexer near-duplicates`: near-equal images, across patients and splits."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.options import emit, json_option, table_option, where_option


@click.command("near-duplicates", short_help="Pairs and clusters of near-equal images, across groups and splits.")
@click.argument("database", metavar="DB")
@click.option("--threshold", default=0.95, show_default=True, help="Lowest cosine of a pair.")
@click.option("--group", metavar="COLUMN", help="Rows that belong together, e.g. the patient: counts pairs across.")
@click.option("--split", metavar="COLUMN", help="Names training and test rows: counts rows that leak.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE.parquet", help="Write every pair, with clusters.")
@click.option("--max-pairs", default=20_000_000, show_default=True, help="Stop with an error past so many.")
@click.option("--memory", "memory_gib", default=4.0, show_default=True, help="GiB held; more goes to a temporary file.")
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
    """
    from rich.console import Console
    from rich.progress import Progress

    from indexer.duplicates.find import NearOptions, find_near_duplicates, write_pairs
    from indexer.store.table import EmbeddingStore

    store = EmbeddingStore.open(database, table)
    options = NearOptions(threshold, where, group, split, max_pairs, int(memory_gib * 2**30))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("comparing", total=None)
        report, pairs = find_near_duplicates(
            store, options, progress=lambda done, total: progress.update(task, completed=done, total=total)
        )
    if out:
        write_pairs(pairs, out)
        click.echo(f"wrote {len(pairs)} pairs to {out}", err=True)
    emit(report, as_json=as_json)
