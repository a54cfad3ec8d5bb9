"""`indexer map`: places a table's images on a plane, and measures what the map is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from indexer.mapping.options import METHODS, MapOptions
from indexer.options import SEED, emit, json_option, plain, table_option

if TYPE_CHECKING:
    from indexer.mapping.files import MapFacts

SHOWN = ("table", "version", "method", "rows", "left_out", "laid_out", "explained", "seconds")


@click.command("map", short_help="A 2-D map of a table's images, with what it is worth.")
@click.argument("database", metavar="DB")
@click.option(
    "--method", type=click.Choice(METHODS), default=MapOptions.method, show_default=True, help="opentsne: extra `map`."
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=MapOptions.sample,
    show_default=True,
    help="Rows that opentsne lays out; each other row is placed by the nearest of these.",
)
@click.option("--seed", type=SEED, default=MapOptions.seed, show_default=True, help="Seed of the sampled rows.")
@table_option
@json_option
def command(*, database: str, method: str, sample: int, seed: int, table: str | None, as_json: bool) -> None:
    """Place every image on a plane, for the page Map of `indexer serve`.

    The coordinates are written beside the table (<table>.map.parquet: row_id, x, y), bound to its version. Printed is
    the share of each image's 10 nearest neighbours that are its nearest on the map too: distances on a map that keeps
    few of them mean little.
    """
    from indexer.mapping.make import make_map
    from indexer.progress.terminal import Terminal
    from indexer.store.table import EmbeddingStore

    facts = make_map(EmbeddingStore.open(database, table), MapOptions(method, sample, seed), progress=Terminal())
    emit(facts, as_json=as_json, text=_text)


def _text(facts: MapFacts) -> str:
    return f"{plain({name: getattr(facts, name) for name in SHOWN})}\n{facts.worth()}"
