"""Hits as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from indexer.jsonable import printable
from indexer.options import cell

if TYPE_CHECKING:
    from indexer.search.results import QueryHits, SearchResult

GAP = 2  # letters between two columns
WIDEST = 40  # letters of a column that still stays on one line; the rest is folded
MOST_NAMED = 6  # of the columns that are left out


@dataclass(frozen=True)
class Column:
    """A column of a table, as it is printed."""

    name: str
    values: list[str]
    right: bool = False

    @property
    def width(self) -> int:
        """Letters that it takes, with the gap to the next one."""
        return min(max(map(cell_len, (self.name, *self.values))), WIDEST) + GAP


def print_tables(result: SearchResult, *, fit: bool) -> None:
    """One table for each query. `fit` leaves out the columns that the terminal has no room for, and names them."""
    console = Console()
    left_out: dict[str, None] = {}  # in order
    for answer in result.queries:
        if not answer.hits:
            console.print(Text(printable(f"{answer.query}: no hits")))
            continue
        always, facts = _always(answer, result), _facts(answer)
        shown = _fitting(facts, console.width - sum(column.width for column in always)) if fit else facts
        left_out |= dict.fromkeys(column.name for column in facts if column not in shown)
        console.print(_table(printable(answer.query), [*always, *shown]))
    if left_out:
        console.print(Text(_left_out_text(list(left_out)), style="dim"))
    console.print(Text(printable(result.how), style="dim"))


def _always(answer: QueryHits, result: SearchResult) -> list[Column]:
    """What tells the hits apart."""
    hits, by = answer.hits, result.options.by
    columns = [
        Column("rank", [str(hit.rank) for hit in hits], right=True),
        Column("cosine", [f"{hit.score:.4f}" for hit in hits], right=True),
    ]
    if result.options.one_per is not None or by is not None:
        columns.append(Column("more", [str(hit.more) for hit in hits], right=True))
    if by is not None:
        columns.append(Column(printable(by), [printable(str(hit.group)) for hit in hits]))
    return [*columns, Column("key", [printable(hit.key) for hit in hits])]


def _facts(answer: QueryHits) -> list[Column]:
    names = list(answer.hits[0].columns)
    return [Column(printable(name), [printable(cell(hit.columns[name])) for hit in answer.hits]) for name in names]


def _fitting(columns: Sequence[Column], room: int) -> list[Column]:
    """Those that fit, the first ones first."""
    shown = []
    for column in columns:
        if column.width <= room:
            shown.append(column)
            room -= column.width
    return shown


def _table(title: str, columns: Sequence[Column]) -> Table:
    table = Table(title=Text(title), title_justify="left", box=None)
    for column in columns:
        table.add_column(
            Text(column.name), overflow="fold", justify="right" if column.right else "left", no_wrap=column.right
        )
    for row in zip(*(column.values for column in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def _left_out_text(names: Sequence[str]) -> str:
    named = ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
    return f"no room here for {named}: --columns A,B chooses, --json has all"
