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
@click.option("--purge", is_flag=True, help="Keep no old version and no deleted row; the index is refreshed.")
@table_option
@json_option
def command(*, database: str, purge: bool, table: str | None, as_json: bool) -> None:
    """Merge small fragments and drop versions older than a day that no index uses.

    Rows keep their ids, so an index stays valid. A table of an older format is migrated.

    With --purge nothing is left of deleted rows: every fragment that has some is rewritten, the index is brought to the
    newest version, and all other versions are dropped at once. Run no search or probe meanwhile.
    """
    from indexer.store.table import EmbeddingStore
    from indexer.store.writer import StoreWriter

    store = EmbeddingStore.open(database, table)
    with StoreWriter(store) as writer:
        before = store.fragments(), store.versions()  # damaged ones are dropped as the writer begins
        renamed = writer.renamed
        writer.optimize()
    if purge:
        from indexer.upkeep.purge import purge_versions

        purge_versions(store)
    store.refresh()
    bound = [tag for tag in store.tags() if tag.startswith("faiss-")]
    report = OptimizeReport(
        store.name, store.count(), before[0], store.fragments(), before[1], store.versions(),
        f"bound to version {store.tags()[bound[0]]}" if bound else "none", renamed,
    )  # fmt: skip
    emit(report, as_json=as_json)
