"""Renders search results with their pictures as a self-contained HTML page or a contact sheet."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from indexer.search.pictures import SIDE
from indexer.search.results import Pictures, QueryHits, SearchResult, Thumbnail
from indexer.types import Hit, UInt8

MARGIN, LINE, TEXT = 10, 17, 13  # pixels of a contact sheet: gap, line height, font size
SHEET_FACTS = 4  # columns shown below a picture on a contact sheet
BLUE, GREY = "#0066cc", "#666666"

STYLE = """
:root{color-scheme:light dark}
body{font:14px/1.45 system-ui,sans-serif;margin:24px;color:#222;background:#fff}
h1{font-size:22px;margin:0 0 4px}.how{color:#666;margin:0 0 28px}
section{margin-bottom:36px}h2{font-size:15px;margin:0 0 8px;overflow-wrap:anywhere}
.row{display:grid;grid-template-columns:224px 1fr;gap:28px}.hits{display:flex;flex-wrap:wrap;gap:16px 12px}
figure{margin:0;width:224px}img,.none{width:224px;height:224px;background:#eee;display:block}
.none{display:flex;align-items:center;justify-content:center;color:#666;text-align:center;overflow-wrap:anywhere}
figcaption{font-size:12px;margin-top:6px}.query img,.query .none{outline:3px solid #0066cc}
figcaption div{white-space:nowrap;overflow:hidden;text-overflow:ellipsis}.label{color:#666}
@media(max-width:560px){.row{grid-template-columns:1fr}}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}img,.none{background:#333}.how,.label{color:#999}}
"""


def html_page(result: SearchResult) -> str:
    """One self-contained HTML page: pictures are data URIs, every text is escaped."""
    pictures = _pictures(result)
    how = "; ".join([result.how, *result.limits()])
    sections = []
    for answer, query in zip(result.queries, pictures.queries, strict=True):
        asked = _figure(query, "query", "<div>query</div>", css="query")
        hits = "".join(_figure(pictures.hits[h.row_id], f"hit {h.rank}", _caption(h)) for h in answer.hits)
        body = f'<div class="row">{asked}<div class="hits">{hits or "<p>no hits</p>"}</div></div>'
        sections.append(f"<section><h2>{html.escape(answer.query)}</h2>{body}</section>")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Search in {html.escape(result.table)}</title><style>{STYLE}</style></head><body>"
        f'<h1>Search in {html.escape(result.table)}</h1><p class="how">{html.escape(how)}</p>'
        f"{''.join(sections)}</body></html>"
    )


def contact_sheet(result: SearchResult) -> Image.Image:
    """One row for each query: the outlined query, then its hits with rank, cosine, key and the requested columns."""
    pictures = _pictures(result)
    font = ImageFont.load_default(TEXT)
    facts = max((len(a.hits[0].columns) for a in result.queries if a.hits), default=0)
    widest = max((len(a.hits) for a in result.queries), default=0) + 1
    cell_w, cell_h = SIDE + MARGIN, SIDE + (3 + min(facts, SHEET_FACTS)) * LINE
    sheet = Image.new("RGB", (widest * cell_w + 3 * MARGIN, max(len(result.queries), 1) * cell_h + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for r, (answer, query) in enumerate(zip(result.queries, pictures.queries, strict=True)):
        for c, (drawn, lines) in enumerate(_cells(answer, query, pictures, font)):
            x, y = MARGIN + c * cell_w + (MARGIN if c else 0), MARGIN + r * cell_h
            if drawn.pixels is not None:
                sheet.paste(Image.fromarray(drawn.pixels), (x, y))
            else:
                draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline=GREY)
                draw.text((x + MARGIN, y + SIDE // 2), fitted(drawn.missing, font, SIDE - 2 * MARGIN), GREY, font)
            if not c:
                draw.rectangle((x - 3, y - 3, x + SIDE + 2, y + SIDE + 2), outline=BLUE, width=3)
            for i, line in enumerate(lines):
                draw.text((x, y + SIDE + 5 + i * LINE), line, GREY if i else "black", font)
    return sheet


def _pictures(result: SearchResult) -> Pictures:
    if result.pictures is not None:
        return result.pictures
    none = Thumbnail(None, "no picture was requested")
    hits = {hit.row_id: none for answer in result.queries for hit in answer.hits}
    return Pictures([none] * len(result.queries), hits)


def _cells(answer: QueryHits, query: Thumbnail, pictures: Pictures, font: Any) -> Iterable[tuple[Thumbnail, list[str]]]:
    """Each picture with the lines below it."""
    yield query, ["query", fitted(answer.query, font, SIDE)]
    for hit in answer.hits:
        lines = [f"{hit.rank}   cosine {hit.score:.4f}", fitted(hit.key, font, SIDE)]
        for name, value in list(hit.columns.items())[:SHEET_FACTS]:
            label = fitted(name, font, SIDE // 2)
            shown = "-" if value is None else str(value)
            lines.append(f"{label} {fitted(shown, font, SIDE - round(font.getlength(label + ' ')))}")
        yield pictures.hits[hit.row_id], lines


def fitted(text: str, font: Any, width: int) -> str:
    """The text, cut at its start to fit into `width` pixels: the end of a path or key is the more specific part."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    if font.getlength(plain) <= width:
        return plain
    while plain and font.getlength("…" + plain) > width:
        plain = plain[1:]
    return "…" + plain


def _figure(drawn: Thumbnail, name: str, caption: str, css: str = "") -> str:
    if drawn.pixels is None:
        inner = f'<div class="none">{html.escape(drawn.missing)}</div>'
    else:
        inner = f'<img alt="{name}" src="data:image/jpeg;base64,{_jpeg(drawn.pixels)}">'
    return f'<figure class="{css}">{inner}<figcaption>{caption}</figcaption></figure>'


def _caption(hit: Hit) -> str:
    """One line for each fact; a long line is cut and shown in full in its tooltip."""
    key = html.escape(hit.key)
    lines = [f"<div><b>{hit.rank}</b> &nbsp;cosine {hit.score:.4f}</div>", f'<div title="{key}">{key}</div>']
    for name, value in hit.columns.items():
        if value is not None:
            shown = html.escape(str(value))
            lines.append(f'<div title="{shown}"><span class="label">{html.escape(name)}</span> {shown}</div>')
    return "".join(lines)


def _jpeg(pixels: UInt8) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=88)
    return base64.b64encode(out.getvalue()).decode("ascii")
