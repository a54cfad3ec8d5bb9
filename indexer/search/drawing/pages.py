"""Renders search results with their pictures as a self-contained HTML page."""

from __future__ import annotations

import base64
import html
import io
from typing import Any

from PIL import Image

from indexer.design.page import whole_page
from indexer.search.options import SearchOptions
from indexer.search.results import SearchResult, Thumbnail
from indexer.types import Hit, UInt8


def html_page(result: SearchResult) -> str:
    """One self-contained HTML page: pictures are data URIs, every text is escaped."""
    pictures = result.drawn()
    parts = [f"<h1>Search in {html.escape(result.table)}</h1>", _facts(result)]
    for answer, query in zip(result.queries, pictures.queries, strict=True):
        asked = _figure(query, "query", f"<b>query</b>{_labels(answer.columns)}", css=" query")
        captioned = ((h, _caption(h, result.options)) for h in answer.hits)
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
    if drawn.around is not None:
        inner += f"<img alt='place of {name} in its slide' src='data:image/jpeg;base64,{_jpeg(drawn.around)}'>"
    return f"<figure class='picture{css}'>{inner}<figcaption>{caption}</figcaption></figure>"


def _caption(hit: Hit, options: SearchOptions) -> str:
    """One line for each fact; long ones wrap, since the end of a key names the image."""
    group = {} if options.by is None else {options.by: hit.group}
    first = f"<div><b>{hit.rank}</b> &nbsp;cosine {hit.score:.4f}</div>{_labels(group)}"
    column = html.escape(str(options.by or options.one_per))
    more = f"<div>{hit.more:,} more of this {column}</div>" if hit.more else ""
    return f"{first}<div>{html.escape(hit.key)}</div>{_labels(hit.columns)}{more}{_matched(hit)}"


def _matched(hit: Hit) -> str:
    """The rows of a group that match best, each with the query's part that it matches."""
    lines = (
        f"<div>{match.score:.4f} {html.escape(match.key)} to {html.escape(match.query)}</div>" for match in hit.parts
    )
    return f"<details><summary>matched parts</summary>{''.join(lines)}</details>" if hit.parts else ""


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
