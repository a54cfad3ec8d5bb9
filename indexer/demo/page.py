"""The demo's one self-contained HTML page: pictures, numbers and curves inline, no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from indexer.archive.reader import read_place
from indexer.demo import probe_page
from indexer.demo.probe_page import probe_part
from indexer.demo.retrieval import CLOSE_MM, Queries, Share, gap_mm, is_close
from indexer.demo.volume import PLANES
from indexer.pixels import decode_part
from indexer.store.table import PLACE_COLUMNS, EmbeddingStore, place_of
from indexer.types import UInt8

SHOWN_PER_PLANE = 3
NEIGHBOURS = 4
SIDE = 150  # pixels of a picture on the page
HITS = Mapping[str, Sequence[Mapping[str, Any]]]

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2730; background: #f6f7f8; margin: 0 }
main { max-width: 980px; margin: 0 auto; padding: 24px }
h1 { font-size: 24px; margin: 0 0 4px } h2 { font-size: 18px; margin: 36px 0 8px }
p.what { background: #fff4d6; border-left: 4px solid #d99a00; padding: 8px 12px }
table { border-collapse: collapse; background: #fff; margin: 8px 0 }
th, td { padding: 5px 14px; border-bottom: 1px solid #e3e6e9; text-align: right }
th:first-child, td:first-child { text-align: left }
.row { display: flex; gap: 10px; margin: 10px 0; background: #fff; padding: 10px; border-radius: 6px }
figure { margin: 0; width: 150px } figure.asked { border-right: 2px solid #c8ced3; padding-right: 12px }
img { width: 150px; height: 150px; display: block; background: #000 }
figcaption { font-size: 12.5px; color: #44505a } .good { color: #1b7f3b } .bad { color: #b3261e }
footer { margin-top: 40px; color: #65717b; font-size: 13px }
svg { max-width: 100%; height: auto; background: #fff }
"""


def write_page(
    path: Path,
    *,
    what: str,
    db: str,
    queries: Queries,
    hits: HITS,
    shares: tuple[dict[str, Share], dict[str, Share], dict[str, float]],
    probes: Mapping[str, Mapping[str, Any]],
) -> Path:
    """Write the page; the neighbours' pictures are read back from the shards by the places in the table."""
    store = EmbeddingStore.open(db)
    spec = store.spec
    body = [
        "<h1>Embedding indexer: the demo</h1>",
        f"<p class='what'>{escape(what)}</p>",
        f"<p>{store.count()} slices embedded by <b>{escape(spec.name)}</b> ({spec.dim} numbers an image, fingerprint "
        f"{spec.fingerprint}); {store.failures().num_rows} files refused and named.</p>",
        "<h2>Is the nearest slice the right one?</h2>",
        f"<p>Share of held-out slices, turned, zoomed and with another gamma, whose first hit lies in the same plane "
        f"within {CLOSE_MM:g} mm. The brain is left-right symmetric: sagittal slices compare by distance from the "
        "midline.</p>",
        _share_table(*shares),
        "<h2>Queries and their nearest slices</h2>",
        *_gallery(store, queries, hits),
        *(part for kind, result in probes.items() for part in probe_part(kind, result, f"probe-{kind}")),
        "<footer>Not for clinical use. Made by <code>make demo</code>; every number on this page was computed "
        "in that run.</footer>",
    ]
    title = "<title>Embedding indexer demo</title>"
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'>{title}<style>{STYLE}{probe_page.STYLE}</style>"
    path.write_text(f"{head}<main>{''.join(body)}</main></html>", encoding="utf-8")
    return path


def _share_table(embedding: dict[str, Share], raw: dict[str, Share], luck: dict[str, float]) -> str:
    rows = "".join(
        f"<tr><td>{plane}</td><td>{embedding[plane].queries}</td><td><b>{embedding[plane].share:.2f}</b></td>"
        f"<td>{raw[plane].share:.2f}</td><td>{luck[plane]:.2f}</td></tr>"
        for plane in PLANES
    )
    names = ("plane", "queries", "embedding", "raw pixels", "chance")
    return f"<table><tr>{''.join(f'<th>{n}</th>' for n in names)}</tr>{rows}</table>"


def _gallery(store: EmbeddingStore, queries: Queries, hits: HITS) -> list[str]:
    parts = []
    for plane in PLANES:
        paths = [path for path, (item, _) in queries.items() if item.plane == plane]
        step = max(1, len(paths) // (SHOWN_PER_PLANE + 1))
        for path in paths[step::step][:SHOWN_PER_PLANE]:
            item, pixels = queries[path]
            asked = np.repeat((pixels * 255).astype(np.uint8)[..., None], 3, axis=2)
            figures = [_figure(asked, f"<b>query</b><br>{plane} {item.millimetres:+.0f} mm", "asked")]
            for hit in hits[path][:NEIGHBOURS]:
                columns = hit["columns"]
                found = columns["image_orientation"], columns["slice_location"]
                right, gap = is_close(*found, item), gap_mm(*found, item)
                off = f"{gap:.0f} mm off" if found[0] == plane else "wrong plane"
                text = (
                    f"{columns['image_orientation']} {columns['slice_location']:+.0f} mm<br>"
                    f"cosine {hit['score']:.3f} <span class='{'good' if right else 'bad'}'>{off}</span>"
                )
                figures.append(_figure(_stored_picture(store, int(hit["row_id"])), text, ""))
            parts.append(f"<div class='row'>{''.join(figures)}</div>")
    return parts


def _stored_picture(store: EmbeddingStore, row_id: int) -> UInt8:
    """The slice as the archive has it: whole, not cropped to the encoder's square."""
    _, rows = store.take(np.array([row_id]), [*PLACE_COLUMNS, "content"])
    (row,) = rows.to_pylist()
    place = place_of(row)
    data = read_place(store.urls()[place.shard], place, row["content"])
    spec = replace(store.spec.pixels, fit="pad", size=SIDE, resize=SIDE)
    return decode_part(data, place.suffix, spec, place.part).pixels


def _figure(pixels: UInt8, caption: str, kind: str) -> str:
    from PIL import Image, ImageOps

    buffer = io.BytesIO()
    ImageOps.pad(Image.fromarray(pixels), (SIDE, SIDE)).save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    image = f"<img alt='' src='data:image/png;base64,{data}'>"
    return f"<figure class='{kind}'>{image}<figcaption>{caption}</figcaption></figure>"
