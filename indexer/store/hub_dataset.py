"""Writes a table as a data set folder in the layout of the Hugging Face hub: Parquet files and a card.

Vectors are float32, since not every reader of Parquet knows float16; each is exactly the stored one. Addresses of the
images on this machine are left out.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from indexer.errors import InputError
from indexer.store.table import EmbeddingStore

FILE_BYTES = 256 << 20  # of vectors in one file
OWN = ("key", "part", "content", "norm")  # columns of the table's own that are written
VECTOR = "embedding"


def write_dataset(view: EmbeddingStore, folder: Path, where: str | None = None) -> int:
    """Write the rows into a new or empty folder, completely or not at all; returns their number. Raises InputError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"--hf {folder}: something is there already. Name a new or empty folder.")
    if not folder.parent.is_dir():
        raise InputError(f"--hf {folder}: there is no folder {folder.parent}. Make it, or name another.")
    rows = view.count(where)
    if not rows:
        raise InputError(f"no row of table {view.name} to export. Choose others with --where.")
    part = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        (part / "data").mkdir(parents=True)
        _write_rows(view, part / "data", where, rows)
        (part / "README.md").write_text(_card(view, rows), encoding="utf-8")
        if folder.exists():
            folder.rmdir()
        part.rename(folder)
    except OSError as error:
        raise InputError(f"--hf {folder} cannot be written: {error.strerror or error}. Name another folder.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return rows


def _write_rows(view: EmbeddingStore, folder: Path, where: str | None, rows: int) -> None:
    per_file = max(1, FILE_BYTES // (4 * view.dim))
    files = -(-rows // per_file)
    names = [*OWN, *view.columns()]
    number, room = -1, 0
    writer: pq.ParquetWriter | None = None
    try:
        for batch in view.scan(names, where, vectors=True):
            table = pa.Table.from_batches([_readable(batch, names)])
            while table.num_rows:
                if not room:
                    if writer is not None:
                        writer.close()
                    number, room = number + 1, per_file
                    path = folder / f"train-{number:05d}-of-{files:05d}.parquet"
                    writer = pq.ParquetWriter(path, table.schema)
                assert writer is not None
                writer.write_table(table.slice(0, room))
                written = min(room, table.num_rows)
                table, room = table.slice(written), room - written
    finally:
        if writer is not None:
            writer.close()


def _readable(batch: pa.RecordBatch, names: list[str]) -> pa.RecordBatch:
    vectors = batch.column("vector")
    flat = vectors.flatten().cast(pa.float32())
    wide = pa.FixedSizeListArray.from_arrays(flat, vectors.type.list_size)
    return pa.record_batch([*(batch.column(name) for name in names), wide], names=[*names, VECTOR])


def _card(view: EmbeddingStore, rows: int) -> str:
    spec, pixels = view.spec, view.spec.pixels
    size = next((text for top, text in _SIZES if rows < top), _SIZES[-1][1])
    return f"""---
pretty_name: {json.dumps(f"Embeddings of {spec.name}")}
tags: [embeddings]
size_categories: [{size}]
configs:
- config_name: default
  data_files: data/*.parquet
---
# Embeddings of {rows:,} images by {spec.name}

One row for each image, or part of an image: `{VECTOR}` is a unit vector of {view.dim} numbers, to be compared by cosine
(the encoder's own vector is `{VECTOR}` times `norm`); `key` names the image, `content` is the SHA-256 of its bytes.

| | |
|---|---|
| encoder | {spec.name}, weights {spec.weights}, pooling {spec.pooling}, {spec.precision} |
| licence of the weights | {spec.licence} |
| fingerprint | {spec.fingerprint} |
| pixels | {pixels.size} × {pixels.size}, {pixels.interpolation}, {pixels.fit}, window {pixels.window} |
| table | {view.name}, version {view.version} |

```python
from datasets import load_dataset
rows = load_dataset("parquet", data_files="data/*.parquet", split="train").with_format("numpy")
```

Embeddings of patients are personal data: protect them like the images. Not for clinical use.
"""


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (1 << 60, "n>1M"))
