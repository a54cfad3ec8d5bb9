"""`indexer merge`: joins tables of one encoder from several databases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from indexer.options import counted, emit, json_option, table_option

if TYPE_CHECKING:
    from indexer.upkeep.merge import MergeReport


@click.command("merge", short_help="Add other databases' rows, each shard once; no image is read.")
@click.argument("database", metavar="DB")
@click.argument("others", nargs=-1, required=True, metavar="OTHER...")
@click.option(
    "--differing",
    type=click.Choice(["error", "keep"]),
    default="error",
    show_default=True,
    help="For a shard that both have with other images: keep this table's, or stop before anything is written.",
)
@table_option
@json_option
def command(*, database: str, others: tuple[str, ...], differing: str, table: str | None, as_json: bool) -> None:
    """Add to DB what the same table of each OTHER has: rows with their vectors, columns and labels, and failures.

    For sites that may exchange vectors, but not images. All tables must be of one encoder (fingerprint). A shard that
    both have counts once. Run it again after a stop.
    """
    from indexer.progress.terminal import Terminal
    from indexer.store.table import EmbeddingStore
    from indexer.store.writer import StoreWriter
    from indexer.upkeep.merge import merge

    store = EmbeddingStore.open(database, table)
    sources = [EmbeddingStore.open(other, store.name) for other in others]
    with StoreWriter(store) as writer:
        report = merge(writer, sources, Terminal(), keep=differing == "keep")
        writer.tidy()
    emit(report, as_json=as_json, text=merge_text)


def merge_text(report: MergeReport) -> str:
    """The report as text."""
    lines = [
        f"merged into table {report.table}: {counted(report.shards, 'shard')}, {counted(report.rows, 'row')}, "
        f"{counted(report.failed, 'failure')}",
        f"{counted(report.same, 'shard')} with the same images were there already",
    ]
    if report.adopted:
        lines.append(f"{counted(report.adopted, 'image')} adopted: the table has them under another shard")
    if report.labelled:
        lines.append(f"{counted(report.labelled, 'row')} brought labels along")
    if report.columns:
        lines.append(f"new columns: {', '.join(report.columns)}")
    lines += [f"failed: {n} x {reason}" for reason, n in report.reasons.items()]
    lines += [f"kept as it was: {name}" for name in report.kept]
    lines += [f"note: {words}" for words in report.notes]
    return "\n".join(lines)
