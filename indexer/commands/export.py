"""`indexer export`: writes the vectors as .npy, Parquet or a Hugging Face data set, for other programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from indexer.errors import InputError
from indexer.malloc import release_freed_memory
from indexer.options import emit, json_option, table_option, where_option

if TYPE_CHECKING:
    import pyarrow as pa

    from indexer.store.table import EmbeddingStore

GROUP_BYTES = 8 << 20  # of a Parquet file's row groups
EXPORTED_ROWS = 2048  # of a batch that is read
RELEASED = 8  # batches after which the memory that was freed goes back: 15 MB less of 3.2 million rows


@click.command("export", short_help="Write the vectors as .npy, Parquet or a Hugging Face data set.")
@click.argument("db")
@click.argument("dest", required=False, type=click.Path(path_type=Path))
@click.option(
    "--hf", "folder", type=click.Path(path_type=Path), metavar="DIR",
    help="Write a Hugging Face data set into a new folder instead.",
)  # fmt: skip
@table_option
@where_option
@json_option
def command(
    db: str, dest: Path | None, folder: Path | None, table: str | None, where: str | None, as_json: bool
) -> None:
    """Write the rows of DB to DEST: `x.parquet` holds keys, columns and vectors; `x.npy` the unit vectors
    (n, dim) float16, with their keys in `x.keys.txt`, row by row. Files are written completely or not at all.

    --hf DIR: Parquet files (`embedding`: float32) that `datasets`, pandas, DuckDB and Polars read, and a card that
    names the encoder; without the addresses of the images. Embedding Atlas: `embedding-atlas DIR/data/*.parquet
    --vector embedding`. FiftyOne: `compute_visualization(samples, embeddings=x)`, where x is
    `numpy.stack(pandas.read_parquet("DIR/data")["embedding"])`, one row for each sample in the order of `key`.
    """
    from indexer.output_file import require_writable
    from indexer.store.table import EmbeddingStore

    if (dest is None) == (folder is None):
        raise click.UsageError("name either DEST (.npy or .parquet) or --hf DIR.")
    writers = {".npy": _npy, ".parquet": _parquet, ".pq": _parquet}
    at = folder or dest
    assert at is not None
    write = _folder if folder else writers.get(at.suffix)
    if write is None:
        raise InputError(f"{at}: name a .npy or a .parquet file, or a folder with --hf.")
    if folder is None:
        require_writable(at)
    store = EmbeddingStore.open(db, table)
    view = store.at(store.version)
    rows = write(view, at, where)
    emit({"file": str(at), "rows": rows, "dim": view.dim, "version": view.version}, as_json=as_json)


def _folder(view: EmbeddingStore, dest: Path, where: str | None) -> int:
    from indexer.store.hub_dataset import write_dataset

    return write_dataset(view, dest, where)


def _npy(view: EmbeddingStore, dest: Path, where: str | None) -> int:
    """Write the .npy header, then the rows as they are read; returns their number."""
    import numpy as np

    from indexer.output_file import written_whole
    from indexer.store.rows import vector_block

    rows = view.count(where)
    header = {"descr": "<f2", "fortran_order": False, "shape": (rows, view.dim)}
    keys = dest.with_suffix(".keys.txt")
    with (
        written_whole(keys) as keys_partial,
        written_whole(dest) as partial,
        keys_partial.open("w", encoding="utf-8", newline="\n") as keys_out,
        partial.open("wb") as out,
    ):
        np.lib.format.write_array_header_1_0(out, header)
        for number, batch in enumerate(view.scan(["key"], where, vectors=True, batch_rows=EXPORTED_ROWS, once=True)):
            keys_out.writelines(f"{_one_line(key)}\n" for key in batch.column("key").to_pylist())
            out.write(np.ascontiguousarray(vector_block(batch), "<f2").data)
            if number % RELEASED == 0:
                release_freed_memory()
    return rows


def _one_line(key: str) -> str:
    if len(f"{key}.".splitlines()) > 1:
        raise InputError(f"key {key!r} holds a line break, and a list of keys has one a line. Export to .parquet.")
    return key


def _row_groups(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The batches put together to about GROUP_BYTES: the footer, which is held until the end, describes each group."""
    import pyarrow as pa

    held: list[pa.RecordBatch] = []
    nbytes = 0
    for batch in batches:
        held.append(batch)
        nbytes += batch.nbytes
        if nbytes >= GROUP_BYTES:
            yield pa.Table.from_batches(held)
            held, nbytes = [], 0
    if held:
        yield pa.Table.from_batches(held)


def _parquet(view: EmbeddingStore, dest: Path, where: str | None) -> int:
    import pyarrow.parquet as pq

    from indexer.output_file import written_whole
    from indexer.store.schema import SYSTEM_COLUMNS

    rows = view.count(where)
    if not rows:
        raise InputError(f"no row of table {view.name} to export" + (f" for --where {where!r}." if where else "."))
    names = [*SYSTEM_COLUMNS, *view.columns()]
    with written_whole(dest) as partial:
        writer: pq.ParquetWriter | None = None
        try:
            scanned = view.scan(names, where, vectors=True, batch_rows=EXPORTED_ROWS, once=True)
            for block in _row_groups(batch.select(names) for batch in scanned):
                writer = writer or pq.ParquetWriter(partial, block.schema)
                writer.write_table(block, row_group_size=block.num_rows)
                release_freed_memory()  # it is fragmented: beside the next blocks it grew by 20 MB
        finally:
            if writer is not None:
                writer.close()
    return rows
