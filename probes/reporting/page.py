"""Building blocks of the HTML pages: sections, tables, values with intervals, figures, legends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from html import escape

from probes.evaluation.bootstrap import Interval
from probes.evaluation.certainty.trust import FAIR
from probes.reporting.words import held, number, plus_minus

SECTION = re.compile(r"<section id='([\w-]+)'><h2>(.*?)</h2>")


def section(name: str, title: str, *parts: str) -> str:
    """A section with a heading; empty where all its parts are. `title` is plain text."""
    return f"<section id='{name}'><h2>{escape(title)}</h2>{''.join(parts)}</section>" if any(parts) else ""


def contents(parts: Iterable[str]) -> str:
    """Links to the sections of a page."""
    links = (f"<li><a href='#{name}'>{title}</a></li>" for name, title in SECTION.findall("".join(parts)))
    return f"<nav class='contents' aria-label='Contents'><ul>{''.join(links)}</ul></nav>"


def html_table(rows: Iterable[Sequence[str]], kind: str = "", caption: str = "") -> str:
    """A table of rows of HTML cells in a box of its own that scrolls; the first row is the header.

    `kind` are classes of the style sheet, `caption` is HTML.
    """
    header, *body = [list(row) for row in rows]
    top = "".join(text if text.startswith("<th") else f"<th scope='col'>{text}</th>" for text in header)
    lines = "".join(f"<tr>{''.join(_data(text) for text in row)}</tr>" for row in body)
    named = f"<figcaption>{caption}</figcaption>" if caption else ""
    return (
        f"<figure class='table'>{named}<div class='wide' tabindex='0'><table class='{kind}'>"
        f"<thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div></figure>"
    )


def _data(text: str) -> str:
    return text if text.startswith("<td") else f"<td>{text}</td>"


def cell(value: Interval | None, show: Callable[[float], str] = number) -> str:
    """Value and interval as HTML."""
    if value is None:
        return "–"
    if value.low != value.low:
        return show(value.value) + ("" if value.value != value.value else " <span class='ci'>(no interval)</span>")
    doubt = "" if value.reliable else ", unreliable"
    return f"<b>{show(value.value)}</b> <span class='ci'>({show(value.low)} to {show(value.high)}{doubt})</span>"


def held_cell(value: Interval | None, groups: int) -> str:
    """D29's quote; marked where such intervals held the truth too rarely, or n is too small."""
    text = held(value, groups)
    doubtful = text == "n too small" or (value is not None and value.held is not None and value.held < FAIR)
    return f"<span class='{'bad' if doubtful else 'ci'}'>{text}</span>" if text else ""


def spread_cell(value: Interval | None) -> str:
    """Mean ± SD."""
    if value is None:
        return "–"
    mean, _, sd = plus_minus(value).partition(" ± ")
    return f"<b>{mean}</b>" + (f" <span class='ci'>± {sd}</span>" if sd else "")


def figure(drawn: str, caption: str, legend: str = "") -> str:
    """A drawing with its caption (plain text) and a legend below it, whose long names wrap."""
    return f"<figure class='plot'>{drawn}{legend}<figcaption>{escape(caption)}</figcaption></figure>"


def legend(entries: Iterable[tuple[str, str]]) -> str:
    """A list of (CSS of the line, text in plain words)."""
    lines = (f"<li><i style='{style}'></i><span>{escape(text)}</span></li>" for style, text in entries)
    return f"<ul class='legend'>{''.join(lines)}</ul>"


def series_line(index: int) -> str:
    """The line of the n-th curve of a plot (`plots.COLOURS`), as CSS of a legend's mark."""
    return f"border-top: 2.5px {'dashed' if index % 2 else 'solid'} var(--series-{index + 1})"
