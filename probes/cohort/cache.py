"""One memory-mapped copy of a table version's vectors, so that the next probe reads them at memory speed.

It lies beside the table, as private as the table is, and is made for large reads only.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from indexer.store.table import EmbeddingStore, is_remote
from indexer.types import Float16, Int64

SMALLEST_BYTES = 64 * 2**20  # below this the table itself is quick enough
KEPT = 2  # newest copies kept


def cached_vectors(store: EmbeddingStore, where: str | None, row_ids: Int64) -> Float16:
    """Unit vectors (n, dim) of `row_ids` in that order, from the copy of this version and filter or from the table."""
    rows = store.count(where)
    if rows * store.dim * 2 < SMALLEST_BYTES or is_remote(store.uri):
        return _aligned(*_read(store, where), row_ids)
    folder = Path(store.uri) / f"{store.name}.probes"
    name = f"{store.version}-{_digest(store, where)}"
    vectors, ids = folder / f"{name}.npy", folder / f"{name}.ids.npy"
    if not (vectors.exists() and ids.exists()):
        read_ids, read = _read(store, where)
        try:
            folder.mkdir(exist_ok=True)
            _save(ids, read_ids)
            _save(vectors, read)  # last: its presence says that both are whole
        except OSError:  # a database that may only be read
            return _aligned(read_ids, read, row_ids)
        del read
        _trim(folder)
    kept = np.load(vectors, mmap_mode="r", allow_pickle=False)
    return _aligned(np.load(ids, allow_pickle=False), kept, row_ids)


def _read(store: EmbeddingStore, where: str | None) -> tuple[Int64, Float16]:
    rows = store.vectors(where)
    return rows.row_ids, rows.vectors


def _aligned(ids: Int64, vectors: Float16, wanted: Int64) -> Float16:
    if np.array_equal(ids, wanted):
        return vectors
    order = np.argsort(ids)
    out: Float16 = vectors[order[np.searchsorted(ids, wanted, sorter=order)]]
    return out


def _digest(store: EmbeddingStore, where: str | None) -> str:
    return hashlib.sha256(f"{store.spec.fingerprint}\n{where}".encode()).hexdigest()[:16]


def _save(path: Path, array: np.ndarray) -> None:
    """Whole or not at all, also with two probes at once."""
    half = path.with_name(f".{path.name}.{os.getpid()}.part")
    with half.open("wb") as file:
        np.save(file, array)
    half.replace(path)


def _trim(folder: Path) -> None:
    copies = sorted(folder.glob("*-*.ids.npy"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in copies[KEPT:]:
        old.with_name(old.name.replace(".ids.npy", ".npy")).unlink(missing_ok=True)
        old.unlink(missing_ok=True)
