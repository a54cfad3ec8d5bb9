"""Records of a search result, shared by the command line, the page and an API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from indexer.jsonable import jsonable
from indexer.search.options import SearchOptions
from indexer.search.queries import QueryKind
from indexer.types import Hit, UInt8


@dataclass(frozen=True)
class Thumbnail:
    """One picture (side, side, 3), or the reason why there is none."""

    pixels: UInt8 | None
    missing: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures of a search: of the queries, in order, and of the hits, by row id."""

    queries: list[Thumbnail]
    hits: dict[int, Thumbnail]


@dataclass(frozen=True)
class QueryHits:
    """The hits of one query."""

    query: str  # a file, key, text, or file[row]
    hits: list[Hit]


@dataclass(frozen=True)
class SearchResult:
    """The hits of all queries of one search, and the table version, index and options they were found with."""

    table: str
    version: int  # the version searched; the hits' row ids, columns and pictures are of it
    kind: QueryKind
    how: str  # description of the index and its version
    options: SearchOptions
    queries: list[QueryHits]
    pictures: Pictures | None = None  # where requested

    def rows(self) -> list[dict[str, Any]]:
        """One flat mapping for each hit."""
        return [
            {"query": a.query, "rank": h.rank, "score": h.score, "key": h.key, **h.columns}
            for a in self.queries
            for h in a.hits
        ]

    def as_json(self) -> dict[str, Any]:
        """The result as JSON types, without pictures."""
        plain: dict[str, Any] = jsonable({name: value for name, value in vars(self).items() if name != "pictures"})
        return plain

    def limits(self) -> list[str]:
        """The options that restrict the hits, as text: filter, exclusion, lowest score, page."""
        asked = self.options
        words = {
            f"--where {asked.where!r}": asked.where is not None,
            f"--exclude-same {asked.exclude_same}": asked.exclude_same is not None,
            f"--min-score {asked.min_score}": asked.min_score is not None,
            f"--offset {asked.offset}": asked.offset > 0,
        }
        return [text for text, given in words.items() if given]
