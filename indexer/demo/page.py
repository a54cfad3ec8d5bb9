"""The demo's self-contained HTML page, with pictures, numbers and curves inline."""

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
from indexer.demo.retrieval import CLOSE_MM, Queries, Share, gap_mm, is_close
from indexer.demo.volume import PLANES
from indexer.design.page import whole_page
from indexer.pixels import decode_part
from indexer.store.rows import PLACE_COLUMNS, place_of
from indexer.store.table import EmbeddingStore
from indexer.types import UInt8
from probes.cohort.splits import units
from probes.reporting import plots
from probes.reporting.definitions import definitions_of, term
from probes.reporting.numbers import confusion_table
from probes.reporting.page import cell, figure, html_table
from probes.reporting.words import NAMES, inner_key, metric_key, number
from probes.runs.result import ProbeResult

SHOWN_PER_PLANE = 3
NEIGHBOURS = 4
SIDE = 150  # pixels of a picture on the page
SLABS = "Slabs of the brain, of several slices each, stand in for patients."
HITS = Mapping[str, Sequence[Mapping[str, Any]]]

SHOWN_METRICS = ("auc_macro", "ap_macro", "balanced_accuracy", "f1_macro", "ece_debiased")


def write_page(
    path: Path,
    *,
    what: str,
    db: str,
    queries: Queries,
    hits: HITS,
    shares: tuple[dict[str, Share], dict[str, Share], dict[str, float]],
    probes: Mapping[str, ProbeResult],
    more: Sequence[str] = (),
) -> Path:
    """Write the page, with `more` after the probes. The hits' pictures are read back from the shards.

    `probes` maps the folder of a result, relative to the page's, to the result.
    """
    store = EmbeddingStore.open(db)
    spec = store.spec
    drawn = [
        part
        for folder, result in probes.items()
        for part in probe_parts(folder, result, "the anatomical level of axial slices", "slices")
    ]
    body = [
        "<h1>Embedding indexer: the demo</h1>",
        f"<p class='warning'>{escape(what)}</p>",
        f"<p>{store.count()} slices embedded by <b>{escape(spec.name)}</b> ({spec.dim} numbers an image, fingerprint "
        f"{spec.fingerprint}); files refused and named: {store.count_failures()}.</p>",
        "<h2>Is the nearest slice the right one?</h2>",
        f"<p>Share of held-out slices, turned, zoomed and with another gamma, whose first hit lies in the same plane "
        f"within {CLOSE_MM:g} mm. The brain is left-right symmetric: sagittal slices compare by distance from the "
        "midline.</p>",
        _share_table(*shares),
        "<h2>Queries and their nearest slices</h2>",
        *_gallery(store, queries, hits),
        *drawn,
        *more,
        definitions_of(drawn),
        "<footer>Not for clinical use. Made by <code>make demo</code>; every number on this page was computed "
        "in that run.</footer>",
    ]
    path.write_text(whole_page("Embedding indexer demo", body), encoding="utf-8")
    return path


def _share_table(embedding: dict[str, Share], raw: dict[str, Share], luck: dict[str, float]) -> str:
    rows = [["plane", "queries", "embedding", "raw pixels", "chance"]]
    for plane in PLANES:
        shares = f"<b>{embedding[plane].share:.2f}</b>", f"{raw[plane].share:.2f}", f"{luck[plane]:.2f}"
        rows.append([plane, str(embedding[plane].queries), *shares])
    return html_table(rows)


def probe_parts(folder: str, result: ProbeResult, task: str, rows: str) -> list[str]:
    """A probe's split, its metrics beside the baselines, its errors and its selection, with a link to the report."""
    drawn = ""
    if result.few_shot:
        counted = f"{units(result.request.group)} a class"
        drawn = figure(plots.label_efficiency(result.few_shot, counted), f"{SLABS} Band: ± SD of the draws.")
    elif result.selection.candidates:
        rule = (
            "Dashed: the value chosen, by inner rows, never by test rows. AUCs within a standard error of the best are "
            "equal; among them the log-loss decides (D5)."
        )
        drawn = figure(plots.penalty_sweep(result.selection, NAMES[inner_key(result)]), rule)
    return [
        f"<h2>Probe: {escape(result.request.probe)}, {escape(task)}</h2>",
        f"<p class='level'>{escape(result.split.statement)}; {result.test.rows} test {rows}</p>",
        *(f"<p class='warning'>{escape(warning)}</p>" for warning in result.warnings),
        _metrics(result),
        confusion_table(result.confusion, [c.name for c in result.test.classes]),
        drawn,
        f"<p><a href='{escape(folder)}/report.html'>Its full report</a>: curves, calibration, audit, limits.</p>",
    ]


def _metrics(result: ProbeResult) -> str:
    baselines = [term(name.replace(" ", "_"), name) for name in result.baselines]
    rows = [["metric", f"value ({term('interval')})", *baselines]]
    for name in SHOWN_METRICS:
        base = [number(values[name]) if name in values else "" for values in result.baselines.values()]
        rows.append([term(metric_key(name, result)), cell(result.test.metrics[name]), *base])
    return html_table(rows)


def _gallery(store: EmbeddingStore, queries: Queries, hits: HITS) -> list[str]:
    parts = []
    for plane in PLANES:
        paths = [path for path, (item, _) in queries.items() if item.plane == plane]
        step = max(1, len(paths) // (SHOWN_PER_PLANE + 1))
        for path in paths[step::step][:SHOWN_PER_PLANE]:
            item, pixels = queries[path]
            asked = np.repeat((pixels * 255).astype(np.uint8)[..., None], 3, axis=2)
            figures = [drawn_figure([asked], f"<b>query</b><br>{plane} {item.millimetres:+.0f} mm", " query")]
            for hit in hits[path][:NEIGHBOURS]:
                columns = hit["columns"]
                found = columns["image_orientation"], columns["slice_location"]
                right, gap = is_close(*found, item), gap_mm(*found, item)
                off = f"{gap:.0f} mm off" if found[0] == plane else "wrong plane"
                text = (
                    f"{columns['image_orientation']} {columns['slice_location']:+.0f} mm<br>"
                    f"cosine {hit['score']:.3f} <span class='{'good' if right else 'bad'}'>{off}</span>"
                )
                figures.append(drawn_figure([stored_picture(store, int(hit["row_id"]))], text, ""))
            parts.append(f"<div class='row small'>{figures[0]}<div class='hits'>{''.join(figures[1:])}</div></div>")
    return parts


def stored_picture(store: EmbeddingStore, row_id: int) -> UInt8:
    """The whole image of a row, not cropped to the encoder's square."""
    _, rows = store.take(np.array([row_id]), [*PLACE_COLUMNS, "content"])
    (row,) = rows.to_pylist()
    place = place_of(row)
    data = read_place(store.urls()[place.shard], place, row["content"])
    spec = replace(store.spec.pixels, fit="pad", size=SIDE, resize=SIDE)
    return decode_part(data, place.suffix, spec, place.part).pixels


def drawn_figure(pictures: Sequence[UInt8], caption: str, kind: str) -> str:
    """Pictures of SIDE x SIDE pixels, one below the other, with their caption, which is HTML."""
    from PIL import Image, ImageOps

    images = ""
    for pixels in pictures:
        buffer = io.BytesIO()
        ImageOps.pad(Image.fromarray(pixels), (SIDE, SIDE)).save(buffer, "PNG", optimize=True)
        images += f"<img alt='' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"
    return f"<figure class='picture{kind}'>{images}<figcaption>{caption}</figcaption></figure>"
