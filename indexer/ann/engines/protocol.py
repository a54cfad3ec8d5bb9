"""What an index engine does: it proposes rows near a query, which are re-ranked outside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from indexer.types import Bool, Float32, Float64, Int64, UInt8

K = 10  # neighbours for which settings are chosen
DEPTHS = (40, 80, 120, 160, 240, 320)  # candidates re-ranked for a result of 10; a search fetches at least 36

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
    def missing(self) -> str:
        """What to install before the engine can be used; "" where it can."""
        ...

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

    def prove(self, path: Path) -> None:
        """Check, before its first load, that a file from elsewhere does no harm. Raises IndexFileError."""
        ...

    def load(self, path: Path, *, writable: bool = False) -> Any:
        """Memory-mapped unless `writable`. Raises IndexFileError. The caller must check the file's hash first, since
        FAISS loads many damaged files.
        """
        ...
