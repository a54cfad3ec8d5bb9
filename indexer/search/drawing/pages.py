"""Renders search results with their pictures as a self-contained HTML page."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

from PIL import Image

from indexer.design.page import whole_page
from indexer.search.results import SearchResult, Thumbnail
from indexer.types import Hit, UInt8


def html_page(result: SearchResult) -> str:
    """One self-contained HTML page: pictures are data URIs, every text is escaped."""
    pictures = result.drawn()
    parts = [f"<h1>Search in {html.escape(result.table)}</h1>", _facts(result)]
    for answer, query in zip(result.queries, pictures.queries, strict=True):
        asked = _figure(query, "query", f"<b>query</b>{_labels(answer.columns)}", css=" query")
        captioned = ((h, _caption(h, result.options.one_per)) for h in answer.hits)
        hits = "".join(_figure(pictures.hits[h.row_id], f"hit {h.rank}", caption) for h, caption in captioned)
        body = f"<div class='row'>{asked}<div class='hits'>{hits or '<p>no hits</p>'}</div></div>"
        parts.append(f"<section><h2 class='name'>{html.escape(answer.query)}</h2>{body}</section>")
    return whole_page(f"Search in {result.table}", parts)


def _facts(result: SearchResult) -> str:
    """How the hits were found, and the options that restrict them."""
    facts = {"Searched": result.how, "Hits restricted by": "; ".join(result.limits())}
    lines = (f"<dt>{name}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items() if text)
    return f"<dl class='facts'>{''.join(lines)}</dl>"


def _figure(drawn: Thumbnail, name: str, caption: str, css: str = "") -> str:
    if drawn.pixels is None:
        inner = f"<div class='none'>{html.escape(drawn.missing)}</div>"
    else:
        inner = f"<img alt='{name}' src='data:image/jpeg;base64,{_jpeg(drawn.pixels)}'>"
    return f"<figure class='picture{css}'>{inner}<figcaption>{caption}</figcaption></figure>"


def _caption(hit: Hit, one_per: str | None) -> str:
    """One line for each fact; long ones wrap, since the end of a key names the image."""
    first = f"<div><b>{hit.rank}</b> &nbsp;cosine {hit.score:.4f}</div><div>{html.escape(hit.key)}</div>"
    more = f"<div>{hit.more:,} more of this {html.escape(str(one_per))}</div>" if hit.more else ""
    return first + _labels(hit.columns) + more


def _labels(columns: dict[str, Any]) -> str:
    """A line for each column that has a value."""
    return "".join(
        f"<div><span class='label'>{html.escape(name)}</span> {html.escape(str(value))}</div>"
        for name, value in columns.items()
        if value is not None
    )


def _jpeg(pixels: UInt8) -> str:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=88)
    return base64.b64encode(out.getvalue()).decode("ascii")
