"""Search options. Imports no heavy library: the command line takes its defaults and limits from here."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.errors import InputError

MOST = 1_000_000_000  # upper limit of k and offset


@dataclass(frozen=True)
class SearchOptions:
    """Options for every kind of query. Raises InputError for a number outside its range."""

    k: int = 10
    where: str | None = None  # SQL over the table's columns, applied before the search
    exclude_same: str | None = None  # column: rows with the query's value in it (e.g. the same patient) are excluded
    one_per: str | None = None  # column: of the rows with one value in it (e.g. one patient) only the best is a hit
    min_score: float | None = None  # cosine
    offset: int = 0  # hits to skip, for paging
    columns: tuple[str, ...] = ()  # table columns to return with each hit
    by: str | None = None  # column: the hits are its values (e.g. series), each with the rows that matched

    def __post_init__(self) -> None:
        if not (1 <= self.k <= MOST and 0 <= self.offset <= MOST):
            raise InputError(f"k must be 1 to {MOST} and offset 0 to {MOST}, not {self.k} and {self.offset}.")
        if self.by is not None and self.one_per is not None:
            raise InputError("--by gives one hit for each value already: leave --one-per out.")


DEFAULT = SearchOptions()
