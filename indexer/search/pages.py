"""Renders search results with their pictures as a self-contained HTML page or a contact sheet."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from indexer.design.page import whole_page
from indexer.search.pictures import SIDE
from indexer.search.results import Pictures, QueryHits, SearchResult, Thumbnail
from indexer.types import Hit, UInt8

MARGIN, LINE, TEXT = 10, 17, 13  # pixels of a contact sheet: gap, line height, font size
SHEET_FACTS = 4  # columns shown below a picture on a contact sheet
BLUE, GREY = "#0066cc", "#666666"


def html_page(result: SearchResult) -> str:
    """One self-contained HTML page: pictures are data URIs, every text is escaped."""
    pictures = _pictures(result)
    parts = [f"<h1>Search in {html.escape(result.table)}</h1>", _facts(result)]
    for answer, query in zip(result.queries, pictures.queries, strict=True):
        asked = _figure(query, "query", "<b>query</b>", css=" query")
        hits = "".join(_figure(pictures.hits[h.row_id], f"hit {h.rank}", _caption(h)) for h in answer.hits)
        body = f"<div class='row'>{asked}<div class='hits'>{hits or '<p>no hits</p>'}</div></div>"
        parts.append(f"<section><h2>{html.escape(answer.query)}</h2>{body}</section>")
    return whole_page(f"Search in {result.table}", parts)


def _facts(result: SearchResult) -> str:
    """How the hits were found, and the options that restrict them."""
    facts = {"Searched": result.how, "Hits restricted by": "; ".join(result.limits())}
    lines = (f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items() if text)
    return f"<dl class='facts'>{''.join(lines)}</dl>"


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
        inner = f"<div class='none'>{html.escape(drawn.missing)}</div>"
    else:
        inner = f"<img alt='{name}' src='data:image/jpeg;base64,{_jpeg(drawn.pixels)}'>"
    return f"<figure class='picture{css}'>{inner}<figcaption>{caption}</figcaption></figure>"


def _caption(hit: Hit) -> str:
    """One line for each fact; long ones wrap, since the end of a key names the image."""
    lines = [f"<div><b>{hit.rank}</b> &nbsp;cosine {hit.score:.4f}</div>", f"<div>{html.escape(hit.key)}</div>"]
    for name, value in hit.columns.items():
        if value is not None:
            shown = html.escape(str(value))
            lines.append(f"<div><span class='label'>{html.escape(name)}</span> {shown}</div>")
    return "".join(lines)


def _jpeg(pixels: UInt8) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=88)
    return base64.b64encode(out.getvalue()).decode("ascii")
