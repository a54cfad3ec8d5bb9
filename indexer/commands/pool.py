"""`indexer pool`: pools the vectors of each series, slide, study or patient."""

from __future__ import annotations

import click

from indexer.options import emit, json_option, table_option


@click.command("pool", short_help="One vector for each series, slide, study or patient.")
@click.argument("database", metavar="DB")
@click.option("--by", required=True, metavar="COLUMN", help="Column whose values are the groups, e.g. series.")
@click.option("--method", default="mean", show_default=True, help="mean, max, mean+max, or topK as top5.")
@table_option
@json_option
def command(*, database: str, by: str, method: str, table: str | None, as_json: bool) -> None:
    """Pool the unit vectors of all rows with one value in COLUMN, for `indexer search --by COLUMN`.

    mean: of the rows' unit vectors; max: the largest value of each dimension; mean+max: both, one after the other;
    topK: the mean of the K largest of each dimension. Each pooled vector is stored as a unit vector with its length
    before that, and with the group's row ids, beside the table, of just this version of it. Run it again after the
    table changed: only groups that changed are pooled again. Rows without a value are in no group and are counted.
    The parts of one file (slices, frames) are a group --by content.
    """
    from indexer.groups.make import pool
    from indexer.progress.terminal import Terminal
    from indexer.store.table import EmbeddingStore

    emit(pool(EmbeddingStore.open(database, table), by, method, progress=Terminal()), as_json=as_json)
