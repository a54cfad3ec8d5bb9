"""What is asked: the vectors of a query, the rows it is made of, and the rows it must not find."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from indexer.errors import InputError, RowNotFound
from indexer.search.blend import direction, embedded_examples
from indexer.search.exclude import Excluded, rows_by_content, rows_of_values, same_value_rows
from indexer.search.images import QueryImage, image_vectors, unit
from indexer.search.options import SearchOptions
from indexer.search.queries import Query
from indexer.search.snapshot import Snapshot
from indexer.store.rows import vector_block
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64

if TYPE_CHECKING:
    from indexer.search.searcher import Searcher

NO_ROWS = np.empty(0, np.int64)


def check(query: Query, options: SearchOptions, searcher: Searcher) -> None:
    if query.vectors is not None and (query.vectors.ndim != 2 or query.vectors.shape[1] != searcher.dim):
        raise InputError(f"queries have shape {query.vectors.shape}, table {searcher.table} needs (q, {searcher.dim}).")
    if query.groups and options.by is None:
        raise InputError("a query of groups needs the column that they are values of (`by`).")
    if options.exclude_same is not None and query.vectors is not None and query.own is None:
        raise InputError(
            "--exclude-same needs queries that are rows of the table (--key, or an image that was indexed). "
            "For others say it with --where."
        )
    if options.exclude_same is not None and (query.texts or any(not blend.keys for blend in query.blends)):
        raise InputError("--exclude-same needs queries that are rows of the table; a text has no such column.")


def embedded_examples_of(searcher: Searcher, query: Query) -> list[Float64]:
    """Unit vectors (e, dim) of what is not a row of the table, for each query; none where it is one."""
    if query.blends:
        return [embedded_examples(blend, lambda: searcher.encoder) for blend in query.blends]
    if query.vectors is not None:
        return [*unit(query.vectors, query.labels)[:, None]]
    if query.images:
        return [*image_vectors(query.images, searcher.encoder)[:, None]]
    if query.texts:
        return [*unit(searcher.encoder.embed_text(list(query.texts)), [repr(text) for text in query.texts])[:, None]]
    return []


def stored_examples(query: Query) -> list[tuple[str, ...]]:
    """The keys that each query names."""
    return [(key,) for key in query.keys] or [blend.keys for blend in query.blends]


def vectors_of(view: EmbeddingStore, query: Query, own: Sequence[Int64], embedded: Sequence[Float64]) -> Float64:
    """The unit vectors (q, dim) to search with."""
    if not (query.keys or query.blends):
        return embedded[0] if len(embedded) == 1 else np.concatenate([np.empty((0, view.dim)), *embedded])
    keys = [key for names in stored_examples(query) for key in names]
    _, rows = view.take(np.concatenate([NO_ROWS, *own]), [], vectors=True)
    none = np.empty((0, view.dim), np.float16)
    stored = unit(np.concatenate([none, *(vector_block(batch) for batch in rows.to_batches())]), keys)
    if query.keys:
        return stored
    parts = np.split(stored, np.cumsum([len(rows) for rows in own])[:-1])
    return np.concatenate([direction(*each) for each in zip(query.blends, parts, embedded, strict=True)])


def excluded_rows(snapshot: Snapshot, query: Query, options: SearchOptions, own: Sequence[Int64]) -> list[Excluded]:
    """The rows that each query must not find."""
    column, view = options.exclude_same, snapshot.view
    if query.keys or query.blends:
        return [*own] if column is None else same_value_rows(view, column, own)
    if column is None:
        return [NO_ROWS] * len(query.labels)
    if query.own is not None:
        return rows_of_values(view, column, query.own)
    return same_value_rows(view, column, _rows_of_images(view, query.images, column))


def _rows_of_images(view: EmbeddingStore, images: Sequence[QueryImage], column: str) -> list[Int64]:
    rows = rows_by_content(view, [image.content for image in images])
    for image, own in zip(images, rows, strict=True):
        if not len(own):
            raise InputError(
                f"--exclude-same: {image.name} is not in table {view.name}, so its "
                f"{column} is unknown. For a DICOM file of a known patient name the secret with which the table was "
                "packed (--secret); else say what to leave out with --where."
            )
    return rows


def columns_of(snapshot: Snapshot, row_ids: Int64, names: Sequence[str]) -> list[dict[str, Any]]:
    """These columns of rows found in the snapshot, in order."""
    if not names:
        return [{} for _ in range(len(row_ids))]  # quicker than over the array
    mask, table = snapshot.view.take(row_ids, names)
    if not mask.all():
        raise RowNotFound(f"a row found in version {snapshot.version} cannot be read: the table was damaged.")
    rows: list[dict[str, Any]] = table.drop_columns(["_rowid"]).to_pylist()
    return rows
