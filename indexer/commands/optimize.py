"""`indexer optimize`: compacts a table and drops unused versions."""

from __future__ import annotations

from dataclasses import dataclass

import click

from indexer.options import emit, json_option, table_option


@dataclass(frozen=True)
class OptimizeReport:
    """Counts of a table before and after."""

    table: str
    rows: int
    fragments_before: int
    fragments: int
    versions_before: int
    versions: int
    index: str
    renamed: dict[str, str]  # columns with names that Lance reserves: old name → new


@click.command("optimize", short_help="Compact the table and clean up old versions.")
@click.argument("database", metavar="DB")
@table_option
@json_option
def command(*, database: str, table: str | None, as_json: bool) -> None:
    """Merge small fragments and drop versions older than a day that no index uses.

    Rows keep their ids, so an index stays valid. A table of an older format is migrated.
    """
    from indexer.store.table import EmbeddingStore
    from indexer.store.writer import StoreWriter

    store = EmbeddingStore.open(database, table)
    before = store.fragments(), store.versions()
    with StoreWriter(store) as writer:
        renamed = writer.renamed
        writer.optimize()
    store.refresh()
    bound = [tag for tag in store.tags() if tag.startswith("faiss-")]
    report = OptimizeReport(
        store.name, store.count(), before[0], store.fragments(), before[1], store.versions(),
        f"bound to version {store.tags()[bound[0]]}" if bound else "none", renamed,
    )  # fmt: skip
    emit(report, as_json=as_json)
