"""Creates a table under its lock. A table that a crash left incomplete is created again."""

from __future__ import annotations

from pathlib import Path

from indexer.disk import DiskSync, make_directory
from indexer.store.holding.commits import TableLock
from indexer.store.lance_errors import writing
from indexer.store.mend import exists, mend, newest_damage
from indexer.store.schema import table_schema
from indexer.types import EncoderSpec, KeyRule, TileRule


def ensure_table(uri: str, table: str, spec: EncoderSpec, keys: KeyRule, tiles: TileRule | None) -> None:
    """Create the table in this local database, or repair it, where it is not complete. Raises StoreLocked."""
    path = Path(uri) / f"{table}.lance"
    if exists(path) and newest_damage(path) is None:
        return
    with writing(f"database {uri}"):
        make_directory(Path(uri))
    with TableLock(uri, table):
        mend(path)
        if not exists(path):
            with writing(f"table {table} in {uri}"):
                make_table(uri, table, spec, keys, tiles)
                DiskSync().sync(path)


def make_table(uri: str, table: str, spec: EncoderSpec, keys: KeyRule, tiles: TileRule | None) -> None:
    import lancedb

    options = {"new_table_enable_stable_row_ids": "true"}
    lancedb.connect(uri, storage_options=options).create_table(table, schema=table_schema(spec, keys, tiles))
