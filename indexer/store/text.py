"""Stores and reads class-text vectors beside a table, for zero-shot probes."""

from __future__ import annotations

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from indexer.addresses import is_remote, join
from indexer.disk import DiskSync
from indexer.errors import InputError, StoreError
from indexer.store.filters import quoted
from indexer.store.formats.format import facts_of
from indexer.store.formats.migrate import migrate
from indexer.store.holding.commits import committing
from indexer.store.lance_calls import open_or_create
from indexer.store.lance_errors import reading, writing
from indexer.store.mend import exists, mend
from indexer.store.rows import TextVectors
from indexer.store.schema import completed, side_schema
from indexer.store.table import EmbeddingStore


def write_text(store: EmbeddingStore, task: str, text: TextVectors) -> None:
    """Store class-text vectors beside the table; earlier ones of this task are replaced. Raises StoreLocked."""
    if text.vectors.shape != (len(text.classes), store.dim):
        raise InputError(
            f"text vectors have shape {text.vectors.shape}, table {store.name} needs "
            f"({len(text.classes)}, {store.dim})."
        )
    n = len(text.classes)
    flat = pa.array(np.ascontiguousarray(text.vectors, np.float32).reshape(-1))
    rows = pa.table(
        {
            "task": [task] * n,
            "class": list(text.classes),
            "vector": pa.FixedSizeListArray.from_arrays(flat, store.dim),
            "logit_scale": pa.array([text.logit_scale] * n, pa.float64()),
            "logit_bias": pa.array([text.logit_bias] * n, pa.float64()),
            "fingerprint": [store.spec.fingerprint] * n,
        }
    )
    path = join(store.uri, f"{store.name}.text.lance")
    with store.lock():
        migrate(store.uri, store.name)
        store.refresh()
        local = None if is_remote(path) else Path(path)
        if local is not None:
            mend(local)
        with writing(f"the text vectors of table {store.name}"):
            schema = side_schema(rows.schema, store.state.identity)
            dataset = open_or_create(path, schema)
            facts_of(dataset.schema.metadata, f"{store.name}.text")  # raises for a newer format
            old = completed(dataset.to_table(filter=f"task <> {quoted(task)}"), rows.schema).select(schema.names)
            kept = pa.concat_tables([old.cast(rows.schema), rows]).cast(schema)
            with committing(dataset):
                lance.write_dataset(kept, dataset, mode="overwrite")
            if local is not None:
                DiskSync().sync(local)


def read_text(store: EmbeddingStore, task: str) -> TextVectors:
    """Class-text vectors stored by `indexer text`. Raises StoreError where there are none of task and encoder."""
    path = join(store.uri, f"{store.name}.text.lance")
    missing = f"no text vectors for task {task!r} beside table {store.name}. Store them with `indexer text`."
    if not is_remote(path) and not exists(Path(path)):
        raise StoreError(missing)
    with reading(None, f"{store.name}.text"):
        try:
            side = store._side("text")
        except StoreError as error:
            if "was not found" not in str(error):
                raise
            raise StoreError(missing) from error
        rows = side.to_table(filter=f"task = {quoted(task)}")
    if not rows.num_rows:
        raise StoreError(missing)
    if set(rows.column("fingerprint").to_pylist()) != {store.spec.fingerprint}:
        raise StoreError(
            f"the text vectors for task {task!r} are of another checkpoint than table {store.name}. "
            "Store them again with `indexer text`."
        )
    kept = np.stack(rows.column("vector").to_numpy(zero_copy_only=False)).astype(np.float32)
    bias = rows.column("logit_bias")[0].as_py()
    return TextVectors(
        tuple(rows.column("class").to_pylist()), kept, float(rows.column("logit_scale")[0].as_py()), bias
    )
