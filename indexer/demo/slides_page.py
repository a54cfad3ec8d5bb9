"""The page of `make demo-slides`: slides, the slides that searches found with the tiles that match, and the probe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from indexer.archive.reader import around
from indexer.demo.page import SIDE, drawn_figure, probe_parts, stored_picture
from indexer.demo.slides import BROWN, Slide
from indexer.design.page import whole_page
from indexer.store.rows import PLACE_COLUMNS, place_of
from indexer.store.table import EmbeddingStore
from indexer.types import Hit, UInt8
from probes.reporting.definitions import definitions_of
from probes.reporting.page import html_table
from probes.runs.result import ProbeResult

SHOWN_PER_CLASS = 3


@dataclass(frozen=True)
class Shares:
    """Share of the `nearest` slides that are of the query's class, over all slides as queries."""

    slides: int
    nearest: int
    embedding: float
    colour: float  # by the mean colour of the tissue alone
    chance: float


def write_page(
    path: Path,
    *,
    what: str,
    db: str,
    slides: Sequence[Slide],
    hits: Mapping[str, Sequence[Hit]],
    shares: Shares,
    probe: tuple[str, ProbeResult],
) -> Path:
    """Write the page; its pictures are read back from the slides. `probe`: folder of the result, and the result."""
    store = EmbeddingStore.open(db)
    spec = store.spec
    drawn = probe_parts(*probe, "slides with strong or weak brown, each the mean of its tiles", "slides")
    body = [
        "<h1>Embedding indexer: whole slides</h1>",
        f"<p class='warning'>{escape(what)}</p>",
        f"<p>{store.count()} tiles with tissue ({_cut(store)}) of {len(slides)} slides, embedded by "
        f"<b>{escape(spec.name)}</b> ({spec.dim} numbers a tile, fingerprint {spec.fingerprint}); failures: "
        f"{store.count_failures()}. No two slides share a pixel of the picture, but neighbouring pieces are of the "
        "same tissue.</p>",
        "<h2>Are the nearest slides of the same class?</h2>",
        f"<p>Each slide asked for its {shares.nearest} nearest by its tiles: share of them with its own class. The "
        "mean colour of the tissue is the baseline: the dye is a colour, so that it needs no network.</p>",
        html_table(
            [
                ["slides asked", "embedding", "mean colour", "chance"],
                [str(shares.slides), f"<b>{shares.embedding:.2f}</b>", f"{shares.colour:.2f}", f"{shares.chance:.2f}"],
            ]
        ),
        "<h2>Slides and their nearest slides</h2>",
        "<p>Above each slide the tile that matches best, framed in its slide; of a query the one that matches its "
        "first hit. The cosine is the mean over the query's tiles.</p>",
        *_gallery(store, slides, hits),
        *drawn,
        definitions_of(drawn),
        "<footer>Not for clinical use. Made by <code>make demo-slides</code>; every number on this page was computed "
        "in that run.</footer>",
    ]
    path.write_text(whole_page("Embedding indexer: whole slides", body), encoding="utf-8")
    return path


def _cut(store: EmbeddingStore) -> str:
    rule = store.tiles
    return f"{rule.tile} pixels a side, {rule.mpp:g} micrometres a pixel" if rule else "whole images"


def _gallery(store: EmbeddingStore, slides: Sequence[Slide], hits: Mapping[str, Sequence[Hit]]) -> Iterator[str]:
    for brown in BROWN:
        for slide in [slide for slide in slides if slide.brown == brown][:SHOWN_PER_CLASS]:
            own = store.vectors(f"key = '{hits[slide.name][0].parts[0].query}'", columns=["key"])
            asked = _tile_and_slide(store, int(own.row_ids[0]))
            query = drawn_figure(asked, f"<b>query</b><br>{slide.name}<br>{slide.brown} brown", " query")
            found = []
            for hit in hits[slide.name]:
                other = str(hit.columns["brown"])
                verdict = f"<span class='{'good' if other == slide.brown else 'bad'}'>{escape(other)} brown</span>"
                text = f"{escape(str(hit.group))}<br>cosine {hit.score:.3f}<br>{verdict}"
                found.append(drawn_figure(_tile_and_slide(store, hit.row_id), text, ""))
            yield f"<div class='row small'>{query}<div class='hits'>{''.join(found)}</div></div>"


def _tile_and_slide(store: EmbeddingStore, row_id: int) -> list[UInt8]:
    """Two pictures of SIDE x SIDE pixels: a row's tile, and its slide in which the tile is framed."""
    _, rows = store.take(np.array([row_id]), PLACE_COLUMNS)
    place = place_of(rows.to_pylist()[0])
    whole = around(store.urls()[place.shard], place, SIDE)
    return [stored_picture(store, row_id), *([] if whole is None else [whole])]
