"""Writes pairs and cluster members block by block to a Parquet or CSV file, by its suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pv
import pyarrow.parquet as pq

from indexer.errors import InputError
from indexer.output_file import require_writable, written_whole

ENDINGS = (".parquet", ".pq", ".csv")


def require_pairs_file(path: Path, option: str) -> None:
    """Raise InputError where pairs cannot be written to `path`. To be called before the search."""
    if path.suffix.lower() not in ENDINGS:
        raise InputError(
            f"{option} {path}: only Parquet and CSV are written. Give a name that ends in .parquet or .csv."
        )
    require_writable(path, option)


@contextmanager
def pairs_file(path: Path) -> Iterator[Callable[[pa.Table], None]]:
    """Yields a function that appends a block of pairs. The file appears once it is complete. Raises InputError."""
    with written_whole(path) as partial:
        writer: pq.ParquetWriter | pv.CSVWriter | None = None

        def write(block: pa.Table) -> None:
            nonlocal writer
            if writer is None:
                kind = pv.CSVWriter if path.suffix.lower() == ".csv" else pq.ParquetWriter
                writer = kind(str(partial), block.schema)
            writer.write_table(block)

        try:
            yield write
        finally:
            if writer is not None:
                writer.close()
