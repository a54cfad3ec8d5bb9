"""The table of a benchmark as text and as one HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from indexer.design.page import whole_page
from probes.benchmark.run import Benchmark
from probes.reporting.page import cell, html_table, section
from probes.reporting.tabular import table
from probes.reporting.words import number, with_interval

PAGE = "benchmark.html"
HEADER = ["encoder", "images", "failed", "test", "AUC, macro", "balanced accuracy", "embed", "probe"]
NOT_OURS = "Published figures are of the data set's own test split and come from their source."
NONE = "No published figure on record that names the same test split."
PUBLISHED = ["published", "AUC, macro", "source", "read"]


def benchmark_text(found: Benchmark) -> str:
    rows = [HEADER]
    for r in found.rows:
        numbers = [with_interval(r.auc), with_interval(r.balanced_accuracy)]
        counts = [str(r.images), str(r.failed), str(r.test_rows)]
        rows.append([r.encoder, *counts, *numbers, *_seconds(r.seconds_embed, r.seconds_labels + r.seconds_probe)])
    lines = [f"{found.title} ({found.modality})", f"{found.protocol}; {found.rows[0].split}", "", *table(rows)]
    if found.note:
        lines.append(found.note)
    if found.published:
        published = [PUBLISHED, *([p.how, number(p.auc), p.source, p.read] for p in found.published)]
        lines += ["", *table(published), NOT_OURS]
    else:
        lines += ["", NONE]
    return "\n".join([*lines, "", "Research use only, not for clinical use."])


def listed_text(recipes: Sequence[Mapping[str, str]]) -> str:
    """The recipes as an aligned table, the files that each needs at the end of its line."""
    rows = [list(recipes[0]), *(list(recipe.values()) for recipe in recipes)]
    return "\n".join([*table(rows), "", "Put the files into one folder: probes benchmark RECIPE --data DIR --out DIR"])


def _seconds(embed: float, probe: float) -> list[str]:
    return [f"{embed:.1f} s", f"{probe:.1f} s"]


def benchmark_html(found: Benchmark) -> str:
    """A self-contained page."""
    rows = [[escape(name) for name in HEADER]]
    for r in found.rows:
        counts = [str(r.images), str(r.failed), str(r.test_rows)]
        times = _seconds(r.seconds_embed, r.seconds_labels + r.seconds_probe)
        rows.append([escape(r.encoder), *counts, cell(r.auc), cell(r.balanced_accuracy), *times])
    published = [["AUC, macro", "of", "source", "read"]]  # the first column is not broken on a narrow page
    published += [[number(p.auc), escape(p.how), escape(p.source), escape(p.read)] for p in found.published]
    theirs = html_table(published, "words", escape(NOT_OURS)) if found.published else f"<p>{NONE}</p>"
    commands = "\n".join(found.commands)
    parts = [
        f"<h1>{escape(found.title)}</h1>",
        f"<p class='{'warning' if found.rows[0].image_level else 'level'}'>{escape(found.rows[0].split)}</p>",
        f"<p>{escape(found.modality)}; {escape(found.note)}</p>" if found.note else f"<p>{escape(found.modality)}</p>",
        section("ours", "Frozen encoder and linear probe", html_table(rows, "below", "With 95 % intervals.")),
        section("published", "Published", theirs),
        section("commands", "Commands", f"<pre class='wide' tabindex='0'>{escape(commands)}</pre>"),
        "<footer><b>Not for clinical use.</b> Research use only.</footer>",
    ]
    return whole_page(found.title, parts)
