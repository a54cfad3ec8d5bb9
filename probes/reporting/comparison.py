"""Renders a comparison as text and as an HTML page."""

from __future__ import annotations

from html import escape

from indexer.design.page import whole_page
from probes.reporting import plots
from probes.reporting.caveats import limits
from probes.reporting.page import cell, figure, html_table
from probes.reporting.text import NAMES, metric_name, number, table, with_interval
from probes.runs.compare import Comparison

PAGE = "comparison.html"


def comparison_text(found: Comparison) -> str:
    """Split level and unmatched rows first, then each table's numbers, then the paired differences."""
    first = found.results[0]
    lines = [found.statement, *(f"warning: {w}" for w in all_warnings(found))]
    labels = ", ".join(first.request.labels)
    lines += [
        "",
        f"{first.request.probe} probe for {labels}: {found.rows} rows in every table, "
        f"{first.test.rows} of {first.test.groups} groups in test",
    ]
    header = ["table", "encoder", "dim", first.selection.parameter, "AUC, macro", "balanced accuracy"]
    rows = [header]
    for r in found.results:
        numbers = [with_interval(r.test.metrics[m]) for m in ("auc_macro", "balanced_accuracy")]
        rows.append([r.source.table, r.source.encoder, str(r.source.dim), f"{r.selection.value:.3g}", *numbers])
    majority = first.baselines["majority"]
    rows.append(["majority class", "", "", "", number(majority["auc_macro"]), number(majority["balanced_accuracy"])])
    lines += [*table(rows), "", f"paired differences in {NAMES[found.metric]}, same rows and same draws"]
    rows = [["pair", "difference (95 % interval)", "p", "p, Holm", *(["p, DeLong"] if found.delong_p else [])]]
    for i, d in enumerate(found.differences):
        exact = [number(found.delong_p[i], 4)] if found.delong_p else []
        rows.append([f"{d.first} - {d.second}", with_interval(d.delta), number(d.p, 4), number(d.p_holm, 4), *exact])
    return "\n".join([*lines, *table(rows), "", "Research use only, not for clinical use."])


def comparison_html(found: Comparison) -> str:
    """A self-contained page: warnings, the tables' metrics, and a plot of the differences."""
    first = found.results[0]
    pairs = [
        ["pair", f"difference in {NAMES[found.metric]}", "p", "p, Holm", *(["p, DeLong"] if found.delong_p else [])]
    ]
    for i, d in enumerate(found.differences):
        exact = [number(found.delong_p[i], 4)] if found.delong_p else []
        pairs.append([escape(f"{d.first} - {d.second}"), cell(d.delta), number(d.p, 4), number(d.p_holm, 4), *exact])
    title = f"{first.request.probe} probe on {len(found.results)} tables: {', '.join(first.request.labels)}"
    counts = f"{found.rows} labelled rows in every table; {first.test.rows} rows of {first.test.groups} groups in test."
    heading = f"<h1>{escape(title)}</h1>"
    if first.split.level == "image":  # D0: first line of the report
        top = [f"<p class='warning'>{escape(found.statement)}</p>", heading]
    else:
        top = [heading, f"<p class='level'>{escape(found.statement)}</p>"]
    parts = [
        *top,
        *(f"<p class='warning'>{escape(w)}</p>" for w in all_warnings(found)),
        f"<p>{counts}</p>",
        "<h2>Each table</h2>", html_table(_each_table(found)),
        "<h2>Paired differences</h2>", html_table(pairs),
        "<p class='dim'>Same test rows and bootstrap draws of groups; p two-sided, by Holm over the pairs.</p>",
        figure(plots.differences(found.differences, NAMES[found.metric]), "Right of 0 the first is better."),
        "<h2>Limits</h2><ul>", *(f"<li>{escape(line)}</li>" for line in limits(first)), "</ul>",
        "<footer><b>Not for clinical use.</b> Research use only.</footer>",
    ]  # fmt: skip
    return whole_page("Comparison of tables", parts)


def all_warnings(found: Comparison) -> list[str]:
    """Warnings of all tables once, warnings of some tables with their names."""
    out = list(found.warnings)
    named: dict[str, list[str]] = {}
    for result in found.results:
        for text in result.warnings:
            if text != found.statement:
                named.setdefault(text, []).append(result.source.table)
    for text, tables in named.items():
        out.append(text if len(tables) == len(found.results) else f"{', '.join(tables)}: {text}")
    return out


def _each_table(found: Comparison) -> list[list[str]]:
    """One column for each table (encoder, chosen parameter, audit, metrics), and one for the majority class."""
    results, base = found.results, found.results[0].baselines["majority"]
    rows = [["", *(escape(r.source.table) for r in results), "majority class"]]
    rows += [
        ["encoder", *(escape(f"{r.source.encoder}, {r.source.weights}") for r in results), ""],
        ["numbers an image", *(str(r.source.dim) for r in results), ""],
        [f"{results[0].selection.parameter} chosen", *(f"{r.selection.value:.3g}" for r in results), ""],
        ["test rows with a near-twin", *(str(r.audit.flagged) if r.audit else "–" for r in results), ""],
    ]
    for name in results[0].test.metrics:
        own = [cell(r.test.metrics[name]) for r in results]
        rows.append([metric_name(name, results[0]), *own, number(base[name]) if name in base else ""])
    return rows
