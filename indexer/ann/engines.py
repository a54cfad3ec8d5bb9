"""The index engines: FAISS's flat codes, inverted lists and graph. An engine names candidates; ranking is ours."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import faiss
import numpy as np

from indexer.ann.exact import ROUNDING, threads_for, unit_floats
from indexer.ann.vectors import Rows
from indexer.errors import IndexFileError
from indexer.types import Bool, Float32, Float64, Int64, UInt8

# Twice the rounds on a quarter more points took three times as long and moved recall at equal lists looked into by
# less than its standard error: 200,000 rows of either data kind of benchmarks/vectors.
KMEANS_ROUNDS = 5
POINTS_PER_CENTROID = 32
K = 10  # settings are chosen for so many neighbours
DEPTHS = (40, 80, 160, 320)  # candidates re-ranked for a result of 10; a search fetches 36 at least
GRAPH_WIDTH = 512

FloatBlock = tuple[Int64, Float32]  # row ids (m,), unit vectors (m, dim)


@dataclass(frozen=True)
class Trained:
    """What the training points gave, for the candidates and for the build."""

    centroids: Float32  # (nlist, dim)
    ranges: Float32  # (m, dim) points that set the ranges of 8-bit codes


@dataclass(frozen=True)
class Neighbours:
    """Queries whose true nearest rows are known."""

    queries: Float64  # (q, dim) unit rows
    vectors: Float32  # (q, K, dim) unit rows, nearest first
    known: Bool  # (q, K); False where a query has fewer neighbours


class Engine(Protocol):
    """One way to find rows that may be near a query. What it finds is ranked by the stored vectors."""

    @property
    def name(self) -> str: ...

    @property
    def routed(self) -> bool:
        """Whether `build` needs trained centroids. What does not takes far longer to build, unless it is exact."""
        ...

    @property
    def removes(self) -> bool:
        """Whether `remove` works; if not, a refresh leaves entries without a row, which ranking drops."""
        ...

    @property
    def error(self) -> float | None:
        """The most its scores differ from the cosine; None where rows may be missed whatever their score."""
        ...

    @property
    def depths(self) -> tuple[int, ...]:
        """How many candidates tuning tries to rank for a result of 10, ascending."""
        ...

    def factory(self, nlist: int) -> str:
        """The FAISS factory string, for other programs."""
        ...

    def bytes_per_vector(self, dim: int) -> float: ...

    def build(self, dim: int, trained: Trained | None) -> Any:
        """An index without rows."""
        ...

    def widths(self, index: Any, neighbours: Neighbours, target: float) -> list[int]:
        """The ladder of widths that tuning climbs: each searches more of the index than the one before."""
        ...

    def candidates(
        self, index: Any, queries: Float64, k: int, width: int, bitmap: UInt8 | None = None
    ) -> tuple[Float32, Int64]:
        """The engine's own scores (q, k) and row ids (q, k), best first, -1 where fewer were found.

        `bitmap` has bit `row id` set for each row that may be found.
        """
        ...

    def add(self, index: Any, blocks: Iterable[FloatBlock]) -> None: ...

    def remove(self, index: Any, row_ids: Int64) -> None: ...

    def save(self, index: Any, path: Path) -> None: ...

    def load(self, path: Path, *, writable: bool = False) -> Any:
        """Memory-mapped unless `writable`. The caller has checked the file's hash: FAISS loads damaged files too."""
        ...


@dataclass(frozen=True)
class _Faiss:
    """What all engines share. An index keeps row ids, so that another program finds rows of the table with it."""

    name: str
    code: str  # FAISS factory string of the code that one vector becomes
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
        # Written through a Python file: FAISS's own writer ignores a failed write of the last block (a full disk).
        with path.open("wb") as file:
            try:
                faiss.write_index(index, faiss.PyCallbackIOWriter(file.write))
            except RuntimeError as error:
                raise IndexFileError(f"{path} cannot be written ({error}). Mend the cause, build it again.") from error

    def load(self, path: Path, *, writable: bool = False) -> Any:
        return faiss.read_index(str(path), 0 if writable else faiss.IO_FLAG_MMAP_IFC)

    def _new(self, dim: int, factory: str) -> Any:
        return faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)

    def _search(self, index: Any, queries: Float64, k: int, parameters: Any) -> tuple[Float32, Int64]:
        with threads_for(len(queries)):
            scores, ids = index.search(queries.astype(np.float32), k, params=parameters)
        return scores, ids


@dataclass(frozen=True)
class Flat(_Faiss):
    """Every row as float16, all of them scanned."""

    routed: ClassVar[bool] = False
    error: ClassVar[float | None] = ROUNDING
    depths: ClassVar[tuple[int, ...]] = (K,)

    def factory(self, nlist: int) -> str:  # noqa: ARG002 - no lists here
        return f"IDMap2,{self.code}"

    def build(self, dim: int, trained: Trained | None) -> Any:  # noqa: ARG002 - nothing to train
        return self._new(dim, self.factory(0))

    def widths(self, index: Any, neighbours: Neighbours, target: float) -> list[int]:  # noqa: ARG002 - one way only
        return [0]

    def candidates(
        self,
        index: Any,
        queries: Float64,
        k: int,
        width: int,  # noqa: ARG002 - it always looks at all rows
        bitmap: UInt8 | None = None,
    ) -> tuple[Float32, Int64]:
        return self._search(index, queries, k, faiss.SearchParameters(**_selector(bitmap)))


@dataclass(frozen=True)
class Lists(_Faiss):
    """Inverted lists about k-means centroids: a query looks into the `width` nearest."""

    routed: ClassVar[bool] = True
    error: ClassVar[float | None] = None
    depths: ClassVar[tuple[int, ...]] = DEPTHS

    def factory(self, nlist: int) -> str:
        return f"IVF{nlist},{self.code}"

    def build(self, dim: int, trained: Trained | None) -> Any:
        if trained is None:
            raise ValueError(f"{self.name} needs centroids")
        index = self._new(dim, self.factory(len(trained.centroids)))
        index.quantizer.add(trained.centroids)  # a full quantizer is taken as trained
        if self.code == "SQfp16":
            index.by_residual = False  # the code is then the float16 row itself, and needs no addition to score
        index.train(trained.ranges)
        return index

    def widths(self, index: Any, neighbours: Neighbours, target: float) -> list[int]:
        """From the fewest lists that hold enough of the true neighbours: recall is at most their share."""
        needed = lists_needed(index, neighbours)
        enough = (p for p in _ladder(1, index.nlist) if sure((needed <= p).mean(1)) >= target)
        return _ladder(next(enough, index.nlist), index.nlist)

    def candidates(
        self, index: Any, queries: Float64, k: int, width: int, bitmap: UInt8 | None = None
    ) -> tuple[Float32, Int64]:
        return self._search(index, queries, k, faiss.SearchParametersIVF(nprobe=width, **_selector(bitmap)))


@dataclass(frozen=True)
class Graph(_Faiss):
    """HNSW: links between near rows, searched with a queue of `width`."""

    routed: ClassVar[bool] = False
    error: ClassVar[float | None] = None
    depths: ClassVar[tuple[int, ...]] = (2 * K,)  # its width is at least what is fetched: no deeper search tells more

    def factory(self, nlist: int) -> str:  # noqa: ARG002 - no lists here
        return f"IDMap2,{self.code}"

    def build(self, dim: int, trained: Trained | None) -> Any:  # noqa: ARG002 - nothing to train
        return self._new(dim, self.factory(0))

    def widths(self, index: Any, neighbours: Neighbours, target: float) -> list[int]:  # noqa: ARG002 - always all
        return _ladder(1, GRAPH_WIDTH)

    def candidates(
        self, index: Any, queries: Float64, k: int, width: int, bitmap: UInt8 | None = None
    ) -> tuple[Float32, Int64]:
        return self._search(index, queries, k, faiss.SearchParametersHNSW(efSearch=max(width, k), **_selector(bitmap)))


EXACT: Engine = Flat("exact", "SQfp16", 2, 8, removes=True)
# FastScan packs 32 entries to a block. Adding after a removal ORs new bits over the removed entry's (FAISS 1.15), so
# we never remove from it: entries without a row are dropped in re-ranking and counted as stale.
CANDIDATES: tuple[Engine, ...] = (
    Lists("ivf-fp16", "SQfp16", 2, 8, removes=True),
    Lists("ivf-sq8", "SQ8", 1, 8, removes=True),
    Lists("ivf-rabitq", "RaBitQfs", 1 / 8, 28, removes=False),
    Graph("hnsw-fp16", "HNSW32,SQfp16", 2, 280, removes=False),
)
ENGINES = {engine.name: engine for engine in (EXACT, *CANDIDATES)}


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


def lists_needed(index: Any, neighbours: Neighbours) -> Int64:
    """How many lists (q, K) a query must look into to meet each of its neighbours; 0 where there is no neighbour."""
    quantizer, nlist = index.quantizer, index.nlist
    q, k, dim = neighbours.vectors.shape
    lists = quantizer.assign(neighbours.vectors.reshape(q * k, dim), 1).reshape(q, k)
    order = quantizer.search(neighbours.queries.astype(np.float32), nlist)[1]
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.broadcast_to(np.arange(nlist), order.shape), 1)
    needed: Int64 = np.where(neighbours.known, np.take_along_axis(ranks, lists, 1) + 1, 0)
    return needed


def float_blocks(rows: Rows, block_rows: int) -> Iterator[FloatBlock]:
    """All rows as unit float32 vectors in blocks; one without direction is zero, and never a candidate of worth."""
    for start in range(0, len(rows), block_rows):
        part = slice(start, start + block_rows)
        yield rows.row_ids[part], unit_floats(rows.vectors[part], 0.0)


def sure(each: Float64) -> float:
    """Mean less two standard errors: what the recall of other queries will hardly fall below."""
    return float(each.mean() - 2 * each.std() / np.sqrt(len(each)))


def version() -> str:
    """Of FAISS."""
    return str(faiss.__version__)


def _selector(bitmap: UInt8 | None) -> dict[str, Any]:
    return {} if bitmap is None else {"sel": faiss.IDSelectorBitmap(bitmap)}


def _ladder(bottom: int, top: int) -> list[int]:
    """From bottom to top in steps of about a fifth."""
    steps = [bottom]
    while steps[-1] < top:
        steps.append(min(max(steps[-1] + 1, round(steps[-1] * 1.2)), top))
    return steps
