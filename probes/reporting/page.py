"""Building blocks of the HTML pages: sections, tables, values with intervals, figures, legends."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from html import escape

from probes.evaluation.bootstrap import Interval
from probes.evaluation.certainty.trust import FAIR
from probes.reporting.words import held, number, plus_minus

SECTION = re.compile(r"<section id='([\w-]+)'><h2>(.*?)</h2>")
QUESTIONS = {  # section → what it answers
    "rows": "Which images were used, and on which side of the split is each patient?",
    "audit": "Has the probe seen near copies of the images that it is tested on?",
    "results": "How well does it do on patients that it was not fitted on, and how sure is that?",
    "agreement": "How far are the predicted numbers from the true ones?",
    "survival": "Is the event earlier where the risk is higher, and as frequent as predicted?",
    "curves": "What does each threshold gain, and what does it cost?",
    "confusion": "Which classes are taken for which?",
    "calibration": "Of the images with a probability of 80 %, are 80 % of that class?",
    "operating": "At the threshold that was fixed beforehand, how many are found, and how many alarms are false?",
    "subgroups": "Is it equally good for everyone?",
    "external": "Does it hold on images of elsewhere?",
    "confounders": "Is it the finding that is predicted, or something that goes with it, such as the scanner?",
    "usefulness": "Would acting on it do more good than harm, and at which threshold?",
    "certainty": "Which answers are sure, which cases should a person read, and can the intervals be believed?",
    "examples": "Which images should a person look at?",
    "sensitivity": "Would another split, or another choice in the protocol, have given another result?",
    "choice": "How was the probe's one setting chosen?",
    "folds": "Does the result hold in every part that was left out in turn?",
    "few-shot": "How many labelled patients does it take?",
    "limits": "What do these numbers not show?",
    "items": "What do reporting guidelines ask, and who answers it?",
    "performance": "How well does it do on patients that it was not fitted on?",
    "elsewhere": "Does it hold elsewhere, for everyone, and without help from the scanner?",
}


def section(name: str, title: str, *parts: str) -> str:
    """A section with a heading and the question it answers; empty where all its parts are. `title` is plain text."""
    if not any(parts):
        return ""
    asked = f"<p class='asked'>{QUESTIONS[name]}</p>" if name in QUESTIONS else ""
    return f"<section id='{name}'><h2>{escape(title)}</h2>{asked}{''.join(parts)}</section>"


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


def held_cell(*values: tuple[Interval | None, int]) -> str:
    """D29's quote of each interval, of so many groups; marked where such intervals held the truth too rarely, or n is
    too small.
    """
    texts = [text for text in (held(value, groups) for value, groups in values) if text]
    doubtful = "n too small" in texts or any(v is not None and v.held is not None and v.held < FAIR for v, _ in values)
    return f"<span class='{'bad' if doubtful else 'ci'}'>{', '.join(dict.fromkeys(texts))}</span>" if texts else ""


def spread_cell(value: Interval | None, show: Callable[[float], str] = number) -> str:
    """Mean ± SD."""
    if value is None:
        return "–"
    mean, _, sd = plus_minus(value, show).partition(" ± ")
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
