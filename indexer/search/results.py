"""Records of a search result, shared by the command line, the page and an API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
    around: UInt8 | None = None  # of a tile: its slide, with its place


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
    columns: dict[str, Any] = field(default_factory=dict)  # the requested columns, where the query is a key


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

    def rows(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """One flat mapping for each hit, with these of its columns; its names are `heads(columns)`."""
        rows = []
        for answer in self.queries:
            for hit in answer.hits:
                group = [hit.group] if self.options.by else []
                more = [hit.more] if self.options.one_per or self.options.by else []
                values = (answer.query, hit.rank, hit.score, *group, hit.key, *more)
                rows.append(dict(zip(self.heads(columns), (*values, *(hit.columns[c] for c in columns)), strict=True)))
        return rows

    def heads(self, columns: Sequence[str]) -> list[str]:
        """The names of the fields of `rows`; a column named as one of a hit is `columns.NAME`, its place in JSON."""
        more = ["more"] if self.options.one_per or self.options.by else []
        own = ["query", "rank", "score", *(["group"] if self.options.by else []), "key", *more]
        return [*own, *(f"columns.{name}" if name in own and name != "key" else name for name in columns)]

    def drawn(self) -> Pictures:
        """The pictures; where none were requested, that reason in place of each."""
        if self.pictures is not None:
            return self.pictures
        none = Thumbnail(None, "no picture was requested")
        hits = {hit.row_id: none for answer in self.queries for hit in answer.hits}
        return Pictures([none] * len(self.queries), hits)

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
            f"--by {asked.by}": asked.by is not None,
            f"--one-per {asked.one_per}": asked.one_per is not None,
            f"--min-score {asked.min_score}": asked.min_score is not None,
            f"--offset {asked.offset}": asked.offset > 0,
        }
        return [text for text, given in words.items() if given]
