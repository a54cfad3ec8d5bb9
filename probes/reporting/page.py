"""Building blocks of the HTML pages: style, tables, values with intervals, figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from probes.evaluation.bootstrap import Interval
from probes.reporting.text import number, plus_minus

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2730; background: #f6f7f8; margin: 0 }
main { max-width: 1120px; margin: 0 auto; padding: 24px }
h1 { font-size: 24px; margin: 0 0 4px } h2 { font-size: 18px; margin: 36px 0 8px }
p.warning { background: #fff4d6; border-left: 4px solid #d99a00; padding: 6px 12px; margin: 6px 0 }
p.level { background: #e3f1e7; border-left: 4px solid #1b7f3b; padding: 6px 12px }
table { border-collapse: collapse; background: #fff; margin: 8px 0; font-variant-numeric: tabular-nums }
th, td { padding: 4px 12px; border-bottom: 1px solid #e3e6e9; text-align: right; white-space: nowrap }
th { font-weight: 600; background: #eef1f3 } th:first-child, td:first-child { text-align: left }
table.words td { text-align: left; white-space: normal; vertical-align: top }
.wide { overflow-x: auto } .plots { display: flex; flex-wrap: wrap; gap: 16px }
figure { display: inline-block; margin: 8px 0; background: #fff; padding: 8px; border-radius: 6px }
figcaption { font-size: 13px; color: #44505a } svg { max-width: 100%; height: auto }
.flow { display: flex; flex-wrap: wrap; align-items: center; gap: 6px; margin: 12px 0 }
.flow div { background: #fff; border: 1px solid #d5dade; border-radius: 6px; padding: 6px 12px; text-align: center }
.flow b { display: block; font-size: 18px } .flow span { color: #65717b; font-size: 13px }
.flow .parts { display: flex; flex-wrap: wrap; gap: 6px; border-style: dashed; padding: 6px }
.ci { color: #44505a } .below th { white-space: normal } .below .ci { display: block; font-size: 13px }
.dim { color: #65717b } footer { margin-top: 40px; color: #65717b; font-size: 13px }
"""


def whole_page(title: str, parts: Iterable[str]) -> str:
    """A self-contained page."""
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{escape(title)}</title>"
    return f"{head}<style>{STYLE}</style><main>{''.join(parts)}</main></html>\n"


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
