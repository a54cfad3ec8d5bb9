"""Records of a search result, shared by the command line, the page and an API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from indexer.jsonable import jsonable
from indexer.search.options import SearchOptions
from indexer.search.queries import QueryKind
from indexer.types import Hit, UInt8


@dataclass(frozen=True)
class Drawn:
    """One picture (side, side, 3), or why there is none."""

    pixels: UInt8 | None
    missing: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures of a search: of each query, in order, and of each hit by row id."""

    queries: list[Drawn]
    hits: dict[int, Drawn]


@dataclass(frozen=True)
class QueryHits:
    """One query's answer."""

    query: str  # a file, key, text, or file[row]
    hits: list[Hit]


@dataclass(frozen=True)
class SearchResult:
    """All answers of one search, from one version of the table, and what they stand on."""

    table: str
    version: int  # that was searched: its row ids, columns and pictures are those of the hits
    kind: QueryKind
    how: str  # in words: which index, how fresh
    options: SearchOptions
    queries: list[QueryHits]
    pictures: Pictures | None = None  # where they were asked for

    def rows(self) -> list[dict[str, Any]]:
        """One flat mapping a hit."""
        return [
            {"query": a.query, "rank": h.rank, "score": h.score, "key": h.key, **h.columns}
            for a in self.queries
            for h in a.hits
        ]

    def as_json(self) -> dict[str, Any]:
        """The answers in what JSON knows, without pictures."""
        plain: dict[str, Any] = jsonable({name: value for name, value in vars(self).items() if name != "pictures"})
        return plain

    def limits(self) -> list[str]:
        """In words, what the options leave out: the filter, the exclusion, the lowest score, the page."""
        asked = self.options
        words = {
            f"--where {asked.where!r}": asked.where is not None,
            f"--exclude-same {asked.exclude_same}": asked.exclude_same is not None,
            f"--min-score {asked.min_score}": asked.min_score is not None,
            f"--offset {asked.offset}": asked.offset > 0,
        }
        return [text for text, given in words.items() if given]
