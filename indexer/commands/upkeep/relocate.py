"""`indexer relocate`: an archive that was moved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from indexer.options import SEED, counted, emit, json_option, table_option

if TYPE_CHECKING:
    from indexer.upkeep.relocate import RelocateReport


@click.command("relocate", short_help="Give an archive that was moved its new address; nothing is embedded.")
@click.argument("database", metavar="DB")
@click.argument("old")
@click.argument("new")
@click.option("--sample", default=100, show_default=True, metavar="N", help="Images read back at NEW before; >= 20.")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the sample.")
@table_option
@json_option
def command(*, database: str, old: str, new: str, sample: int, seed: int, table: str | None, as_json: bool) -> None:
    """Rewrite the addresses of DB's shards that lie at or below OLD to the same below NEW.

    OLD and NEW are folders, files or URLs; OLD need not exist any more. First a sample of the images is read back at
    NEW: where one has other bytes than those indexed, nothing is changed. `indexer index NEW DB` then skips what is
    done. After a crash run the same command again.
    """
    from indexer.store.table import EmbeddingStore
    from indexer.upkeep.relocate import relocate

    emit(
        relocate(EmbeddingStore.open(database, table), old, new, sample=sample, seed=seed), as_json=as_json, text=_text
    )


def _text(report: RelocateReport) -> str:
    if not report.shards:
        return f"nothing to do: {counted(report.already_there, 'shard')} of table {report.table} lie there already"
    lines = [
        f"{counted(report.shards, 'shard')} and {counted(report.rows, 'row')} of table {report.table} have their new "
        f"address; {counted(report.images_checked, 'image')} read back there, each with the bytes that were indexed"
    ]
    if report.changed:
        lines.append(
            f"{counted(len(report.changed), 'shard')} changed since they were indexed, first {report.changed[0]}: "
            "`indexer index NEW DB --changed replace` takes the new content"
        )
    return "\n".join(lines)
