"""The demo of what reviewers ask next: one probe, tested on a plane that it was not fitted on, with pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Set
from functools import cache
from html import escape
from pathlib import Path

import pyarrow as pa

from indexer.demo.page import stored_picture
from indexer.demo.steps import step
from indexer.store.table import EmbeddingStore
from probes.reporting.html import report_html
from probes.reporting.review.short import in_short
from probes.runs.result import ProbeResult
from probes.runs.result_files import read_result

WRONG_EVERY = 15  # one label in so many is wrong, for the report to find
TASK = "central or outer slices, fitted on two planes and tested on the third"
REVIEW = (  # beside the usual options
    "--test-where", "image_orientation = 'sagittal'", "--confounder", "image_orientation", "--review",
    "--coverage", "0.8",
)  # fmt: skip


def reviewed_probe(db: str, out: Path, *, seed: int) -> ProbeResult:
    """Run the probe, and write its report with pictures as `out`/review.html."""
    folder = out / "probe-reviewed"
    step(
        "probes", "linear", db, "--label", "place_in_head", "--positive", "central", "--group", "block", "--split",
        "stratified", "--seed", str(seed), *REVIEW, "--out", str(folder),
    )  # fmt: skip
    result = read_result(folder)
    page = report_html(result, _pictures(EmbeddingStore.open(db)))
    (out / "review.html").write_text(page, encoding="utf-8")
    return result


def review_parts(result: ProbeResult, wrong: Set[str]) -> list[str]:
    """For the demo's page: the report in short, and a link to it. `wrong`: keys of the slices with a wrong label."""
    found = result.review.examples if result.review is not None else None
    suspects = {example.key for example in found.shown if example.kind == "suspect"} if found else set()
    short = in_short(result).replace("<h2>In short</h2>", "").replace("href='#", "href='review.html#")
    return [
        f"<h2>What reviewers ask next: {escape(TASK)}</h2>",
        f"<p class='level'>{escape(result.split.statement)}; {result.test.rows} test slices</p>",
        f"<p>One label in {WRONG_EVERY} was set wrong on purpose: of the {len(suspects)} that the report suspects, "
        f"{len(suspects & wrong)} are such.</p>",
        short,
        "<p><a href='review.html'>Its report, with pictures</a>: curves, costs, errors beside their nearest fitted "
        "slices.</p>",
    ]


def _pictures(store: EmbeddingStore) -> Callable[[str], str]:
    """Key → the stored picture as an address that holds it."""
    from PIL import Image

    rows = pa.Table.from_batches(list(store.scan(["key"])))
    ids = dict(zip(rows.column("key").to_pylist(), rows.column("_rowid").to_pylist(), strict=True))

    @cache
    def address(key: str) -> str:
        buffer = io.BytesIO()
        Image.fromarray(stored_picture(store, ids[key])).save(buffer, "PNG", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

    return address
