"""FAISS's index engines: flat codes, inverted lists and HNSW."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import faiss
import numpy as np

from indexer.ann.engines.protocol import DEPTHS, FloatBlock, K, Neighbours, Trained
from indexer.ann.engines.routing import ladder, list_widths
from indexer.ann.exact import ROUNDING, threads_for
from indexer.ann.manifest import WAY_OUT
from indexer.errors import IndexFileError
from indexer.types import Float32, Float64, Int64, UInt8

GRAPH_WIDTH = 512


@dataclass(frozen=True)
class _Faiss:
    """Code shared by all engines. An index stores row ids, so that other programs find rows of the table with it."""

    name: str
    code: str  # FAISS factory string of the vector code
    code_bytes: float  # per dimension
    overhead_bytes: int  # per entry beside the code: id, links
    removes: bool
    missing: ClassVar[str] = ""

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

    def prove(self, path: Path) -> None:
        """Nothing: FAISS checks sizes as it reads, and the loaded index is compared with its manifest."""

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
        return list_widths(index, neighbours, target)

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
        return ladder(1, GRAPH_WIDTH)

    def candidates(
        self, index: Any, queries: Float64, k: int, width: int, bitmap: UInt8 | None = None
    ) -> tuple[Float32, Int64]:
        return self._search(index, queries, k, faiss.SearchParametersHNSW(efSearch=max(width, k), **_selector(bitmap)))


def lists_of(index: Any) -> int:
    """The number of inverted lists of a loaded index; 0 where it has none."""
    found = faiss.downcast_index(index)
    return int(found.nlist) if isinstance(found, faiss.IndexIVF) else 0


def version() -> str:
    """Of FAISS."""
    return str(faiss.__version__)


def _selector(bitmap: UInt8 | None) -> dict[str, Any]:
    return {} if bitmap is None else {"sel": faiss.IDSelectorBitmap(bitmap)}
