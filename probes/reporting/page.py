"""Building blocks of the HTML pages: tables, values with intervals, figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from probes.evaluation.bootstrap import Interval
from probes.reporting.text import number, plus_minus


def html_table(rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of rows of HTML cells; the first row is the header."""
    header, *body = [list(row) for row in rows]
    top = "".join(f"<th>{cell}</th>" for cell in header)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body)
    return f"<div class='wide'><table class='{kind}'><tr>{top}</tr>{lines}</table></div>"


def cell(value: Interval | None) -> str:
    """Value and interval as HTML."""
    if value is None:
        return "–"
    if value.low != value.low:
        return number(value.value) + ("" if value.value != value.value else " <span class='ci'>(no interval)</span>")
    doubt = "" if value.reliable else ", unreliable"
    return f"<b>{number(value.value)}</b> <span class='ci'>({number(value.low)} to {number(value.high)}{doubt})</span>"


def spread_cell(value: Interval | None) -> str:
    """Mean ± SD."""
    if value is None:
        return "–"
    mean, _, sd = plus_minus(value).partition(" ± ")
    return f"<b>{mean}</b>" + (f" <span class='ci'>± {sd}</span>" if sd else "")


def figure(drawn: str, caption: str) -> str:
    return f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"
