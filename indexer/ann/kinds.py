"""The kinds of index we build, and how each is made, filled and searched."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from indexer.ann.exact import Found, threads_for, to_float32
from indexer.ann.vectors import Rows
from indexer.errors import IndexFileError
from indexer.types import Float32, Int64, UInt8

# Twice the rounds on a quarter more points took three times as long and moved recall at equal lists looked into by
# less than its standard error: 200,000 rows of either data kind of benchmarks/vectors.
KMEANS_ROUNDS = 5
POINTS_PER_CENTROID = 32


@dataclass(frozen=True)
class Kind:
    """One way to lay vectors out. Every kind is re-ranked from the stored vectors, so codes may be coarse."""

    name: str
    code: str  # FAISS factory string after the part that routes to lists
    family: str  # exact | ivf | graph
    removes: bool  # whether entries can be taken out and others put in again
    overhead_bytes: int  # per entry beside the code: id, links
    code_bytes: float  # per dimension
    note: str

    def factory(self, nlist: int) -> str:
        return f"IVF{nlist},{self.code}" if self.family == "ivf" else f"IDMap2,{self.code}"

    def bytes_per_vector(self, dim: int) -> float:
        return dim * self.code_bytes + self.overhead_bytes


EXACT = Kind("exact", "SQfp16", "exact", True, 8, 2, "every row, float16")
# FastScan packs 32 entries to a block. Adding after a removal ORs new bits over the removed entry's (FAISS 1.15), so
# we never remove from it: entries without a row are dropped in re-ranking and counted as stale.
CANDIDATES = (
    Kind("ivf-fp16", "SQfp16", "ivf", True, 8, 2, "lists of float16"),
    Kind("ivf-sq8", "SQ8", "ivf", True, 8, 1, "lists of 8-bit codes, re-ranked"),
    Kind("ivf-rabitq", "RaBitQfs", "ivf", False, 28, 1 / 8, "lists of 1-bit codes, re-ranked"),
    Kind("hnsw-fp16", "HNSW32,SQfp16", "graph", False, 280, 2, "graph over float16"),
)
KINDS = {kind.name: kind for kind in (EXACT, *CANDIDATES)}


def lists_for(rows: int) -> int:
    """How many inverted lists: √rows.

    Twice as many halve the rows scanned at equal recall, but double the time that routing every row takes, which is
    most of a build.
    """
    return max(1, round(math.sqrt(rows)))


def train_centroids(points: Float32, nlist: int, seed: int = 0) -> Float32:
    """Spherical k-means (nlist, dim) over points (n, dim), on a GPU where this FAISS has one."""
    gpu = bool(faiss.get_num_gpus())
    kmeans = faiss.Kmeans(
        points.shape[1],
        nlist,
        niter=KMEANS_ROUNDS,
        spherical=True,
        seed=seed + 1,  # FAISS takes 0 for "from the clock"
        gpu=gpu,
        min_points_per_centroid=1,
        max_points_per_centroid=POINTS_PER_CENTROID,
    )
    kmeans.train(points)
    centroids: Float32 = kmeans.centroids
    return centroids


def empty_index(kind: Kind, dim: int, centroids: Float32 | None, training: Float32) -> Any:
    """A trained index without rows. `training` (n, dim) sets the ranges of 8-bit codes."""
    nlist = 0 if centroids is None else len(centroids)
    index = faiss.index_factory(dim, kind.factory(nlist), faiss.METRIC_INNER_PRODUCT)
    if kind.family == "ivf":
        index.quantizer.add(centroids)  # a full quantizer is taken as trained
        if kind.code == "SQfp16":
            index.by_residual = False  # the code is then the stored float16 itself, and needs no addition to score
    index.train(training)
    return index


def add_rows(index: Any, blocks: Iterable[tuple[Int64, Float32]]) -> None:
    for row_ids, vectors in blocks:
        index.add_with_ids(vectors, row_ids)


def float_blocks(rows: Rows, block_rows: int, positions: Int64 | None = None) -> Iterator[tuple[Int64, Float32]]:
    """(row ids, float32 vectors) in blocks, of all rows or of those at `positions`."""
    n = len(rows) if positions is None else len(positions)
    for start in range(0, n, block_rows):
        part: Any = slice(start, start + block_rows) if positions is None else positions[start : start + block_rows]
        yield rows.row_ids[part], to_float32(rows.vectors[part])


def nearest(index: Any, kind: Kind, queries: Float32, k: int, nprobe: int, bitmap: UInt8 | None = None) -> Found:
    """The index's own k best: approximate scores (q, k) and row ids (q, k), -1 where fewer were found.

    `bitmap` has bit `row id` set for each row that may be found.
    """
    selector = {} if bitmap is None else {"sel": faiss.IDSelectorBitmap(bitmap)}
    parameters: Any
    if kind.family == "ivf":
        parameters = faiss.SearchParametersIVF(nprobe=nprobe, **selector)
    elif kind.family == "graph":
        parameters = faiss.SearchParametersHNSW(efSearch=max(nprobe, k), **selector)
    else:
        parameters = faiss.SearchParameters(**selector)
    with threads_for(len(queries)):
        scores, ids = index.search(queries, k, params=parameters)
    return scores, ids


def bitmap_of(row_ids: Int64) -> UInt8:
    """Bits 0 … max(row_ids), packed little end first, as FAISS reads them."""
    flags = np.zeros(int(row_ids.max()) + 1 if len(row_ids) else 1, bool)
    flags[row_ids] = True
    packed: UInt8 = np.packbits(flags, bitorder="little")
    return packed


def read_index(path: Path) -> Any:
    """Memory-mapped and read-only. The caller has checked the file's hash: FAISS itself loads damaged files."""
    return faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)


def read_writable(path: Path) -> Any:
    return faiss.read_index(str(path))


def write_index(index: Any, path: Path) -> None:
    """Through Python's file: FAISS's own does not hear of a disk that is full at the last block."""
    with path.open("wb") as file:
        try:
            faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
        except RuntimeError as error:
            raise IndexFileError(f"{path} cannot be written ({error}). Mend the cause and build it again.") from error


def remove_rows(index: Any, row_ids: Int64) -> int:
    return int(index.remove_ids(row_ids)) if len(row_ids) else 0


def version() -> str:
    return str(faiss.__version__)
