"""`indexer export`: the vectors as .npy or Parquet, for other programs."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.errors import InputError
from indexer.options import emit, json_option, table_option, where_option


@click.command("export", short_help="Write the vectors as .npy or Parquet.")
@click.argument("db")
@click.argument("dest", type=click.Path(path_type=Path))
@table_option
@where_option
@json_option
def command(db: str, dest: Path, table: str | None, where: str | None, as_json: bool) -> None:
    """Write the rows of DB to DEST: `x.parquet` holds keys, columns and vectors; `x.npy` the unit vectors
    (n, dim) float16, with their keys in `x.keys.txt`, row by row.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from indexer.store.schema import SYSTEM_COLUMNS
    from indexer.store.table import EmbeddingStore

    store = EmbeddingStore.open(db, table)
    if not dest.parent.is_dir():
        raise InputError(f"no folder {dest.parent} to write into.")
    if dest.suffix == ".npy":
        rows = store.vectors(where, ["key"])
        np.save(dest, rows.vectors)
        keys = rows.columns.column("key").to_pylist()
        dest.with_suffix(".keys.txt").write_text("".join(f"{key}\n" for key in keys), encoding="utf-8")
        n = len(keys)
    elif dest.suffix in (".parquet", ".pq"):
        names = [*SYSTEM_COLUMNS, *store.columns()]
        n = 0
        writer: pq.ParquetWriter | None = None
        for batch in store.scan(names, where, vectors=True):
            flat = pa.Table.from_batches([batch.select(names)])
            writer = writer or pq.ParquetWriter(dest, flat.schema)
            writer.write_table(flat)
            n += batch.num_rows
        if writer is None:
            raise InputError(f"no row of table {store.name} to export" + (f" for --where {where!r}." if where else "."))
        writer.close()
    else:
        raise InputError(f"{dest}: name a .npy or a .parquet file.")
    emit({"file": str(dest), "rows": n, "dim": store.dim, "version": store.version}, as_json=as_json)
