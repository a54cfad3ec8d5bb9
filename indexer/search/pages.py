"""Search results with their pictures, read back from the shards: a page that needs no network, and a contact sheet."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from indexer.errors import IndexerError
from indexer.search.queries import read_image
from indexer.search.results import QueryHits, SearchResult
from indexer.store.table import PLACE_COLUMNS, EmbeddingStore, place_of
from indexer.types import Hit, Int64, PixelSpec, Place, UInt8

SIDE = 224  # pixels of a picture's square
MARGIN, LINE, TEXT = 10, 17, 13  # pixels of a contact sheet: between pictures, from line to line, of the letters
SHEET_FACTS = 4  # columns below a picture of a contact sheet
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


@dataclass(frozen=True)
class Drawn:
    """One picture (side, side, 3), or why there is none."""

    pixels: UInt8 | None
    missing: str = ""


@dataclass(frozen=True)
class Pictures:
    """Pictures of a search: of each query that is an image, and of each hit by row id."""

    queries: list[Drawn]
    hits: dict[int, Drawn]


def pictures_of(store: EmbeddingStore, result: SearchResult) -> Pictures:
    """Read and decode the pictures a result names. A picture that cannot be read says so in its place."""
    view = store.at(result.version)
    spec = _shown(store.spec.pixels)
    urls = store.urls()
    row_ids = np.unique(np.array([h.row_id for a in result.queries for h in a.hits], np.int64))
    hits = _stored(view, row_ids, urls, spec)
    queries = [Drawn(None, answer.query) for answer in result.queries]
    if result.kind == "image":
        queries = [_query_image(answer.query, spec) for answer in result.queries]
    elif result.kind == "key":
        from indexer.search.exclude import key_rows

        own = key_rows(view, [answer.query for answer in result.queries])
        stored = _stored(view, np.unique(own), urls, spec)
        queries = [stored[int(row_id)] for row_id in own]
    return Pictures(queries, hits)


def html_page(result: SearchResult, pictures: Pictures) -> str:
    """One self-contained HTML page: pictures are data URIs, every text is escaped."""
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
        f'<h1>Search in {html.escape(result.table)}</h1><p class="how">{html.escape(result.how)}</p>'
        f"{''.join(sections)}</body></html>"
    )


def contact_sheet(result: SearchResult, pictures: Pictures) -> Image.Image:
    """One row a query: the query, outlined, then its hits with rank, cosine, key and the columns asked for."""
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


def _cells(answer: QueryHits, query: Drawn, pictures: Pictures, font: Any) -> Iterable[tuple[Drawn, list[str]]]:
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
    """What fits in so many pixels; the end of a path or key tells more than its start."""
    plain = "".join(c if c.isprintable() else "?" for c in text)
    if font.getlength(plain) <= width:
        return plain
    while plain and font.getlength("…" + plain) > width:
        plain = plain[1:]
    return "…" + plain


def _shown(pixels: PixelSpec) -> PixelSpec:
    """The table's own decoding, but the whole image: what the encoder's crop cuts away is seen too."""
    return replace(pixels, size=SIDE, resize=SIDE, fit="pad")


def _stored(view: EmbeddingStore, row_ids: Int64, urls: dict[str, str], spec: PixelSpec) -> dict[int, Drawn]:
    found, rows = view.take(row_ids, [*PLACE_COLUMNS, "content"])
    out = {int(row_id): Drawn(None, "row is gone") for row_id in row_ids[~found]}
    for row in rows.to_pylist():
        place = place_of(row)
        out[row["_rowid"]] = _place(urls.get(place.shard), place, row["content"], spec)
    return out


def _place(url: str | None, place: Place, content: str, spec: PixelSpec) -> Drawn:
    from indexer.archive.reader import read_place
    from indexer.pixels import decode_part

    if url is None:
        return Drawn(None, f"shard {place.shard} is not in the ledger")
    try:
        return Drawn(decode_part(read_place(url, place, content), place.suffix, spec, place.part).pixels)
    except IndexerError as error:
        return Drawn(None, str(error))


def _query_image(name: str, spec: PixelSpec) -> Drawn:
    from indexer.pixels import decode

    try:
        image = read_image(Path(name))
        (picture,) = decode(image.data, image.suffix, spec, frames="middle")
        return Drawn(picture.pixels)
    except IndexerError as error:
        return Drawn(None, str(error))


def _figure(drawn: Drawn, name: str, caption: str, css: str = "") -> str:
    if drawn.pixels is None:
        inner = f'<div class="none">{html.escape(drawn.missing)}</div>'
    else:
        inner = f'<img alt="{name}" src="data:image/jpeg;base64,{_jpeg(drawn.pixels)}">'
    return f'<figure class="{css}">{inner}<figcaption>{caption}</figcaption></figure>'


def _caption(hit: Hit) -> str:
    """A line a fact; a long one is cut, and whole in its tooltip."""
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
