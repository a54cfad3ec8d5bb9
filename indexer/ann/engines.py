"""Index engines: FAISS's flat codes, inverted lists and HNSW. They propose candidates, which are re-ranked outside."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import faiss
import numpy as np

from indexer.ann.exact import ROUNDING, threads_for, unit_floats
from indexer.ann.manifest import WAY_OUT
from indexer.ann.vectors import Rows
from indexer.errors import IndexFileError
from indexer.types import Bool, Float32, Float64, Int64, UInt8

# Measured on 200,000 rows of either data kind of benchmarks/vectors: twice the iterations on a quarter more points took
# three times as long and changed recall at equal nprobe by less than its standard error.
KMEANS_ROUNDS = 5
POINTS_PER_CENTROID = 32
K = 10  # neighbours for which settings are chosen
DEPTHS = (40, 80, 160, 320)  # candidates re-ranked for a result of 10; a search fetches at least 36
GRAPH_WIDTH = 512

FloatBlock = tuple[Int64, Float32]  # row ids (m,), unit vectors (m, dim)


@dataclass(frozen=True)
class Trained:
    """Results of training, used for measuring the candidates and for the build."""

    centroids: Float32  # (nlist, dim)
    ranges: Float32  # (m, dim) points that set the ranges of 8-bit codes


@dataclass(frozen=True)
class Neighbours:
    """Queries and the vectors of their true nearest rows."""

    queries: Float64  # (q, dim) unit rows
    vectors: Float32  # (q, K, dim) unit rows, nearest first
    known: Bool  # (q, K); False where a query has fewer neighbours


class IndexEngine(Protocol):
    """A method that proposes rows near a query. Its candidates are re-ranked by the stored vectors."""

    @property
    def name(self) -> str: ...

    @property
    def routed(self) -> bool:
        """Whether `build` needs trained centroids. Engines that do not build far slower, unless they are exact."""
        ...

    @property
    def removes(self) -> bool:
        """Whether `remove` works; if not, a refresh leaves entries without a row, which re-ranking drops."""
        ...

    @property
    def error(self) -> float | None:
        """Upper bound on the difference of its scores from the cosine; None where it may miss rows of any score."""
        ...

    @property
    def depths(self) -> tuple[int, ...]:
        """Numbers of candidates for a result of 10 that tuning tries, ascending."""
        ...

    def factory(self, nlist: int) -> str:
        """The FAISS factory string, for other programs."""
        ...

    def bytes_per_vector(self, dim: int) -> float: ...

    def build(self, dim: int, trained: Trained | None) -> Any:
        """An empty index."""
        ...

    def widths(self, index: Any, neighbours: Neighbours, target: float) -> list[int]:
        """Widths that tuning tries, ascending: each searches more of the index than the one before."""
        ...

    def candidates(
        self, index: Any, queries: Float64, k: int, width: int, bitmap: UInt8 | None = None
    ) -> tuple[Float32, Int64]:
        """The engine's scores (q, k) and row ids (q, k), best first, -1 where fewer were found.

        `bitmap` has bit `row id` set for each row that is allowed.
        """
        ...

    def add(self, index: Any, blocks: Iterable[FloatBlock]) -> None: ...

    def remove(self, index: Any, row_ids: Int64) -> None: ...

    def save(self, index: Any, path: Path) -> None: ...

    def load(self, path: Path, *, writable: bool = False) -> Any:
        """Memory-mapped unless `writable`. Raises IndexFileError. The caller must check the file's hash first, since
        FAISS loads many damaged files.
        """
        ...


@dataclass(frozen=True)
class _Faiss:
    """Code shared by all engines. An index stores row ids, so that other programs find rows of the table with it."""

    name: str
    code: str  # FAISS factory string of the vector code
    code_bytes: float  # per dimension
    overhead_bytes: int  # per entry beside the code: id, links
    removes: bool

    def bytes_per_vector(self, dim: int) -> float:
        return dim * self.code_bytes + self.overhead_bytes

    def add(self, index: Any, blocks: Iterable[FloatBlock]) -> None:
        for row_ids, vectors in blocks:
            index.add_with_ids(vectors, row_ids)

    def remove(self, index: Any, row_ids: Int64) -> None:
        if len(row_ids):
            index.remove_ids(row_ids)

    def save(self, index: Any, path: Path) -> None:
        # Through a Python file: FAISS's own writer ignores a failed write of the last block (a full disk).
        with path.open("wb") as file:
            try:
                faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
            except RuntimeError as error:
                raise IndexFileError(f"{path} cannot be written ({error}). Fix the cause, build it again.") from error

    def load(self, path: Path, *, writable: bool = False) -> Any:
        try:
            return faiss.read_index(str(path), 0 if writable else faiss.IO_FLAG_MMAP_IFC)
        except (RuntimeError, MemoryError) as error:
            cause = str(error).rpartition("Error: ")[2].splitlines()[0][:120] if str(error) else "too little memory"
            raise IndexFileError(f"{path} cannot be loaded ({cause}). {WAY_OUT}") from error

    def _new(self, dim: int, factory: str) -> Any:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)

    def _search(self, index: Any, queries: Float64, k: int, parameters: Any) -> tuple[Float32, Int64]:
        with threads_for(len(queries)):
            scores, ids = index.search(queries.astype(np.float32), k, params=parameters)
        return scores, ids


@dataclass(frozen=True)
class Flat(_Faiss):
    """Exact: all rows as float16, scanned completely."""

    routed: ClassVar[bool] = False
    error: ClassVar[float | None] = ROUNDING
    depths: ClassVar[tuple[int, ...]] = (K,)

    def factory(self, nlist: int) -> str:  # noqa: ARG002 - no lists here
        return f"IDMap2,{self.code}"

    def build(self, dim: int, trained: Trained | None) -> Any:  # noqa: ARG002 - nothing to train
        return self._new(dim, self.factory(0))

    def widths(self, index: Any, neighbours: Neighbours, target: float) -> list[int]:  # noqa: ARG002 - one width only
        return [0]

    def candidates(
        self,
        index: Any,
        queries: Float64,
        k: int,
        width: int,  # noqa: ARG002 - always scans all rows
        bitmap: UInt8 | None = None,
    ) -> tuple[Float32, Int64]:
        return self._search(index, queries, k, faiss.SearchParameters(**_selector(bitmap)))


@dataclass(frozen=True)
class Lists(_Faiss):
    """Inverted lists by k-means centroid (IVF): a query searches the lists of the `width` nearest centroids."""

    routed: ClassVar[bool] = True
    error: ClassVar[float | None] = None
    depths: ClassVar[tuple[int, ...]] = DEPTHS

    def factory(self, nlist: int) -> str:
        return f"IVF{nlist},{self.code}"

    def build(self, dim: int, trained: Trained | None) -> Any:
        if trained is None:
            raise ValueError(f"{self.name} needs centroids")
        index = self._new(dim, self.factory(len(trained.centroids)))
        index.quantizer.add(trained.centroids)  # FAISS treats a filled quantizer as trained
        if self.code == "SQfp16":
            index.by_residual = False  # the code is then the float16 row itself, and needs no addition to score
        index.train(trained.ranges)
        return index

    def widths(self, index: Any, neighbours: Neighbours, target: float) -> list[int]:
        """From the smallest nprobe whose lists hold the target share of the true neighbours, which bounds recall."""
        needed = lists_needed(index, neighbours)
        enough = (p for p in _ladder(1, index.nlist) if sure((needed <= p).mean(1)) >= target)
        return _ladder(next(enough, index.nlist), index.nlist)

    def candidates(
        self, index: Any, queries: Float64, k: int, width: int, bitmap: UInt8 | None = None
    ) -> tuple[Float32, Int64]:
        return self._search(index, queries, k, faiss.SearchParametersIVF(nprobe=width, **_selector(bitmap)))


@dataclass(frozen=True)
class Graph(_Faiss):
    """HNSW (Malkov and Yashunin 2018): a graph of near rows, searched with a queue of `width` (efSearch)."""

    routed: ClassVar[bool] = False
    error: ClassVar[float | None] = None
    depths: ClassVar[tuple[int, ...]] = (2 * K,)  # efSearch is at least the number fetched: more candidates add nothing

    def factory(self, nlist: int) -> str:  # noqa: ARG002 - no lists here
        return f"IDMap2,{self.code}"

    def build(self, dim: int, trained: Trained | None) -> Any:  # noqa: ARG002 - nothing to train
        return self._new(dim, self.factory(0))

    def widths(self, index: Any, neighbours: Neighbours, target: float) -> list[int]:  # noqa: ARG002 - independent of the neighbours
        return _ladder(1, GRAPH_WIDTH)

    def candidates(
        self, index: Any, queries: Float64, k: int, width: int, bitmap: UInt8 | None = None
    ) -> tuple[Float32, Int64]:
        return self._search(index, queries, k, faiss.SearchParametersHNSW(efSearch=max(width, k), **_selector(bitmap)))


EXACT: IndexEngine = Flat("exact", "SQfp16", 2, 8, removes=True)
# FastScan packs 32 entries to a block. Adding after a removal ORs new bits over those of the removed entry (FAISS
# 1.15), so nothing is removed: entries without a row are dropped in re-ranking and counted as stale.
CANDIDATES: tuple[IndexEngine, ...] = (
    Lists("ivf-fp16", "SQfp16", 2, 8, removes=True),
    Lists("ivf-sq8", "SQ8", 1, 8, removes=True),
    Lists("ivf-rabitq", "RaBitQfs", 1 / 8, 28, removes=False),
    Graph("hnsw-fp16", "HNSW32,SQfp16", 2, 280, removes=False),
)
ENGINES = {engine.name: engine for engine in (EXACT, *CANDIDATES)}


def lists_of(index: Any) -> int:
    """The number of inverted lists of a loaded index; 0 where it has none."""
    found = faiss.downcast_index(index)
    return int(found.nlist) if isinstance(found, faiss.IndexIVF) else 0


def lists_for(rows: int) -> int:
    """The number of inverted lists: √rows.

    Twice as many halve the rows scanned at equal recall, but double the time of assigning every row to a list, which
    is most of a build.
    """
    return max(1, round(math.sqrt(rows)))


def train_centroids(points: Float32, nlist: int, seed: int = 0) -> Float32:
    """Centroids (nlist, dim) of spherical k-means over points (n, dim), on a GPU where FAISS has one."""
    gpu = bool(faiss.get_num_gpus())
    kmeans = faiss.Kmeans(
        points.shape[1],
        nlist,
        niter=KMEANS_ROUNDS,
        spherical=True,
        seed=seed + 1,  # 0 makes FAISS seed from the clock
        gpu=gpu,
        min_points_per_centroid=1,
        max_points_per_centroid=POINTS_PER_CENTROID,
    )
    kmeans.train(points)
    centroids: Float32 = kmeans.centroids
    return centroids


def lists_needed(index: Any, neighbours: Neighbours) -> Int64:
    """The smallest nprobe (q, K) at which each neighbour's list is searched; 0 where there is no neighbour."""
    quantizer, nlist = index.quantizer, index.nlist
    q, k, dim = neighbours.vectors.shape
    lists = quantizer.assign(neighbours.vectors.reshape(q * k, dim), 1).reshape(q, k)
    order = quantizer.search(neighbours.queries.astype(np.float32), nlist)[1]
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(nlist), order.shape), 1)
    needed: Int64 = np.where(neighbours.known, np.take_along_axis(ranks, lists, 1) + 1, 0)
    return needed


def float_blocks(rows: Rows, block_rows: int) -> Iterator[FloatBlock]:
    """All rows as unit float32 vectors in blocks; a row without direction is zero and ranks last."""
    for start in range(0, len(rows), block_rows):
        part = slice(start, start + block_rows)
        yield rows.row_ids[part], unit_floats(rows.vectors[part], 0.0)


def sure(each: Float64) -> float:
    """Mean minus two standard errors: a lower confidence bound of the recall of other queries."""
    return float(each.mean() - 2 * each.std() / np.sqrt(len(each)))


def version() -> str:
    """Of FAISS."""
    return str(faiss.__version__)


def _selector(bitmap: UInt8 | None) -> dict[str, Any]:
    return {} if bitmap is None else {"sel": faiss.IDSelectorBitmap(bitmap)}


def _ladder(bottom: int, top: int) -> list[int]:
    """Integers from bottom to top in steps of about a fifth."""
    steps = [bottom]
    while steps[-1] < top:
        steps.append(min(max(steps[-1] + 1, round(steps[-1] * 1.2)), top))
    return steps
