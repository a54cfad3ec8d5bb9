"""A memory-mapped copy of one table version's vectors beside the table, from which the next probe reads.

It is made for large reads only. Its name is a hash of `TableState` and the filter, so that a copy is never used for
another table or version, also where a version number was reused. A file whose header or length differs from what would
be written for these rows is written anew.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np

from indexer.addresses import is_remote
from indexer.disk import fsync
from indexer.store.table import EmbeddingStore
from indexer.types import Float16, Int64

SMALLEST_BYTES = 64 * 2**20  # smaller reads are fast enough from the table
KEPT = 2  # newest copies kept


def cached_vectors(store: EmbeddingStore, where: str | None, row_ids: Int64) -> Float16:
    """Unit vectors (n, dim) of `row_ids`, in that order, from the copy of this version and filter or from the table."""
    view = store.at(store.version)
    rows = view.count(where)
    if rows * view.dim * 2 < SMALLEST_BYTES or is_remote(view.uri):
        return _aligned(*_read(view, where), row_ids)
    folder = Path(view.uri) / f"{view.name}.probes"
    name = _name(view, where)
    vectors, ids = folder / f"{name}.npy", folder / f"{name}.ids.npy"
    kept_ids, kept = _mapped(ids, np.int64, (rows,)), _mapped(vectors, np.float16, (rows, view.dim))
    if kept_ids is None or kept is None or not _holds(kept_ids, row_ids):
        read_ids, read = _read(view, where)
        try:
            folder.mkdir(exist_ok=True)
            _save(ids, read_ids)
            _save(vectors, read)  # last: its presence shows that both are complete
        except OSError:  # a read-only database
            return _aligned(read_ids, read, row_ids)
        _trim(folder)
        kept_ids, kept = read_ids, _mapped(vectors, np.float16, (rows, view.dim))
        kept = read if kept is None else kept  # None: another probe removed the copy meanwhile
    return _aligned(kept_ids, kept, row_ids)


def _read(view: EmbeddingStore, where: str | None) -> tuple[Int64, Float16]:
    rows = view.vectors(where)
    return rows.row_ids, rows.vectors


def _holds(ids: Int64, wanted: Int64) -> bool:
    return np.array_equal(ids, wanted) or bool(np.isin(wanted, ids).all())


def _aligned(ids: Int64, vectors: Float16, wanted: Int64) -> Float16:
    if np.array_equal(ids, wanted):
        return vectors
    order = np.argsort(ids)
    out: Float16 = vectors[order[np.searchsorted(ids, wanted, sorter=order)]]
    return out


def _name(view: EmbeddingStore, where: str | None) -> str:
    facts = json.dumps([asdict(view.state), where], sort_keys=True)
    return f"v{view.version}-{hashlib.sha256(facts.encode()).hexdigest()[:32]}"


def _header(kind: type, shape: tuple[int, ...]) -> bytes:
    """The header of a .npy file of such an array."""
    out = io.BytesIO()
    facts = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(out, facts)
    return out.getvalue()


def _mapped(path: Path, kind: type, shape: tuple[int, ...]) -> np.ndarray | None:
    """The array in this .npy file, mapped read-only; None unless it has this type and shape and is complete."""
    header = _header(kind, shape)
    nbytes = int(np.prod(shape)) * np.dtype(kind).itemsize
    try:
        if not path.is_file() or path.stat().st_size != len(header) + nbytes:
            return None
        with path.open("rb") as file:
            if file.read(len(header)) != header:
                return None
            return np.memmap(file, kind, "r", offset=len(header), shape=shape)
    except OSError:
        return None


def _save(path: Path, array: np.ndarray) -> None:
    """Write the array atomically and durably, also with two probes at once."""
    half = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with half.open("wb") as file:
            file.write(_header(array.dtype.type, array.shape))
            file.write(np.ascontiguousarray(array).data)
        fsync(half)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)


def _trim(folder: Path) -> None:
    copies = sorted(folder.glob("*-*.ids.npy"), key=lambda p: p.stat().st_mtime, reverse=True)
    for old in copies[KEPT:]:
        old.with_name(old.name.replace(".ids.npy", ".npy")).unlink(missing_ok=True)
        old.unlink(missing_ok=True)
