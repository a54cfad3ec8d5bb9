"""What a search answers, as records that a command line, a page and an API all serialise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from indexer.types import Hit

if TYPE_CHECKING:
    from indexer.search.searcher import Searcher

QueryKind = Literal["image", "key", "text", "vector"]


@dataclass(frozen=True)
class QueryHits:
    """One query's answer."""

    query: str  # a file, key, text, or file[row]
    hits: list[Hit]


@dataclass(frozen=True)
class SearchResult:
    """All answers of one search, and what they stand on."""

    table: str
    version: int
    kind: QueryKind
    how: str  # in words: which index, how fresh
    queries: list[QueryHits]

    def rows(self) -> list[dict[str, Any]]:
        """One flat mapping a hit."""
        return [
            {"query": a.query, "rank": h.rank, "score": h.score, "key": h.key, **h.columns}
            for a in self.queries
            for h in a.hits
        ]


def result_of(searcher: Searcher, kind: QueryKind, names: Sequence[str], hits: Sequence[list[Hit]]) -> SearchResult:
    """Label each query's hits with its name."""
    snapshot = searcher.snapshot
    answers = [QueryHits(name, found) for name, found in zip(names, hits, strict=True)]
    return SearchResult(snapshot.view.name, snapshot.version, kind, snapshot.describe(), answers)
