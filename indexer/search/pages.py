"""Search results with their pictures, read back from the shards: a page that needs no network, and a contact sheet."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from indexer.errors import IndexerError, ReadError
from indexer.search.queries import read_image
from indexer.search.results import QueryHits, SearchResult
from indexer.store.store import PLACE_COLUMNS, EmbeddingStore, place_of
from indexer.types import Hit, Int64, Picture, PixelSpec, Place, UInt8

SIDE = 224  # pixels of a picture's square
MARGIN, LINE = 8, 14

STYLE = """
body{font:14px/1.4 system-ui,sans-serif;margin:24px;color:#222;background:#fff}
section{margin-bottom:32px}h2{font-size:16px;overflow-wrap:anywhere}
.row{display:flex;flex-wrap:wrap;gap:12px}figure{margin:0;width:224px}
img,.none{width:224px;height:224px;background:#eee;display:block}
.none{display:flex;align-items:center;justify-content:center;color:#666;text-align:center}
figcaption{font-size:12px;overflow-wrap:anywhere}.query{outline:3px solid #06c}
@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}img,.none{background:#333}}
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
        figures = [_figure(query, "query", css="query")]
        figures += [_figure(pictures.hits[h.row_id], _caption(h)) for h in answer.hits]
        none = "" if answer.hits else "<p>no hits</p>"
        body = "".join(figures)
        sections.append(f'<section><h2>{html.escape(answer.query)}</h2><div class="row">{body}</div>{none}</section>')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>Search in {html.escape(result.table)}</title><style>{STYLE}</style></head><body>"
        f"<h1>Search in {html.escape(result.table)}</h1><p>{html.escape(result.how)}</p>"
        f"{''.join(sections)}</body></html>"
    )


def contact_sheet(result: SearchResult, pictures: Pictures) -> Image.Image:
    """One row a query: the query, then its hits with rank, cosine and key."""
    widest = max((len(a.hits) for a in result.queries), default=0) + 1
    cell_w, cell_h = SIDE + MARGIN, SIDE + 2 * LINE + MARGIN
    sheet = Image.new("RGB", (widest * cell_w + MARGIN, max(len(result.queries), 1) * cell_h + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for r, (answer, query) in enumerate(zip(result.queries, pictures.queries, strict=True)):
        for c, (drawn, lines) in enumerate(_cells(answer, query, pictures)):
            x, y = MARGIN + c * cell_w, MARGIN + r * cell_h
            if drawn.pixels is not None:
                sheet.paste(Image.fromarray(drawn.pixels), (x, y))
            else:
                draw.rectangle((x, y, x + SIDE, y + SIDE), outline="grey")
                draw.text((x + MARGIN, y + SIDE // 2), _fitted(drawn.missing), fill="black")
            for i, line in enumerate(lines):
                draw.text((x, y + SIDE + i * LINE), _fitted(line), fill="black")
    return sheet


def _cells(answer: QueryHits, query: Drawn, pictures: Pictures) -> Iterable[tuple[Drawn, tuple[str, str]]]:
    yield query, ("query", answer.query)
    for hit in answer.hits:
        yield pictures.hits[hit.row_id], (f"{hit.rank}  {hit.score:.4f}", hit.key)


def _fitted(text: str) -> str:
    """What fits under a picture; the end of a path or key tells more than its start."""
    plain = text.encode("latin-1", "replace").decode("latin-1")  # the built-in font knows no more
    return plain if len(plain) <= 36 else "…".encode("latin-1", "replace").decode("latin-1") + plain[-35:]


def _shown(pixels: PixelSpec) -> PixelSpec:
    """The table's own decoding, but the whole image: what the encoder's crop cuts away is seen too."""
    return replace(pixels, size=SIDE, resize=SIDE, fit="pad")


def _stored(view: EmbeddingStore, row_ids: Int64, urls: dict[str, str], spec: PixelSpec) -> dict[int, Drawn]:
    found, rows = view.take(row_ids, PLACE_COLUMNS)
    out = {int(row_id): Drawn(None, "row is gone") for row_id in row_ids[~found]}
    for row in rows.to_pylist():
        place = place_of(row)
        out[row["_rowid"]] = _place(urls.get(place.shard), place, spec)
    return out


def _place(url: str | None, place: Place, spec: PixelSpec) -> Drawn:
    from indexer.reader import read_place

    if url is None:
        return Drawn(None, f"shard {place.shard} is not in the ledger")
    try:
        return Drawn(_frame(read_place(url, place), place.suffix, spec, place.frame).pixels)
    except IndexerError as error:
        return Drawn(None, str(error))


def _query_image(name: str, spec: PixelSpec) -> Drawn:
    try:
        image = read_image(Path(name))
        return Drawn(_frame(image.data, image.suffix, spec, None).pixels)
    except IndexerError as error:
        return Drawn(None, str(error))


def _frame(data: bytes, suffix: str, spec: PixelSpec, frame: int | None) -> Picture:
    from indexer.pixels import decode

    for picture in decode(data, suffix, spec, frames="middle" if frame is None else frame):
        return picture
    raise ReadError(f"frame {frame} is not in the image any more")


def _figure(drawn: Drawn, caption: str, css: str = "") -> str:
    if drawn.pixels is None:
        inner = f'<div class="none">{html.escape(drawn.missing)}</div>'
    else:
        inner = f'<img alt="" class="{css}" src="data:image/jpeg;base64,{_jpeg(drawn.pixels)}">'
    return f"<figure>{inner}<figcaption>{caption}</figcaption></figure>"


def _caption(hit: Hit) -> str:
    facts = [f"<b>{hit.rank}</b> {hit.score:.4f}", html.escape(hit.key)]
    facts += [f"{html.escape(n)}: {html.escape(str(v))}" for n, v in hit.columns.items() if v is not None]
    return "<br>".join(facts)


def _jpeg(pixels: UInt8) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=88)
    return base64.b64encode(out.getvalue()).decode("ascii")
