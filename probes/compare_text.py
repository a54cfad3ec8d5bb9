"""A comparison for a terminal and as an HTML page."""

from __future__ import annotations

from html import escape

from probes import plots
from probes.compare import Comparison
from probes.limits import limits
from probes.page import cell, figure, html_table, whole_page
from probes.text import NAMES, number, table, with_interval


def comparison_text(found: Comparison) -> str:
    """Split level and unmatched rows first, then each table's numbers, then the paired differences."""
    first = found.results[0]
    lines = [found.statement, *(f"warning: {w}" for w in found.warnings)]
    for result in found.results:
        lines += [f"warning: {result.source.table}: {w}" for w in result.warnings if w != found.statement]
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
    """One self-contained page: the tables' numbers and a plot of the differences."""
    first = found.results[0]
    rows = [["table", "encoder", *(NAMES[m] for m in first.test.metrics)]]
    rows += [
        [escape(r.source.table), escape(r.source.encoder), *(cell(v) for v in r.test.metrics.values())]
        for r in found.results
    ]
    base = first.baselines["majority"]
    rows.append(["majority class", "", *(number(base[m]) if m in base else "" for m in first.test.metrics)])
    pairs = [["pair", f"difference in {NAMES[found.metric]}", "p", "p, Holm"]]
    pairs += [
        [escape(f"{d.first} - {d.second}"), cell(d.delta), number(d.p, 4), number(d.p_holm, 4)]
        for d in found.differences
    ]
    warnings = [*found.warnings, *(f"{r.source.table}: {w}" for r in found.results for w in r.warnings)]
    title = f"{first.request.probe} probe on {len(found.results)} tables: {', '.join(first.request.labels)}"
    counts = f"{found.rows} labelled rows in every table; {first.test.rows} rows of {first.test.groups} groups in test."
    parts = [
        f"<h1>{escape(title)}</h1>",
        f"<p class='level'>{escape(found.statement)}</p>",
        *(f"<p class='warning'>{escape(w)}</p>" for w in dict.fromkeys(warnings)),
        f"<p>{counts}</p>",
        "<h2>Each table</h2>", html_table(rows),
        "<h2>Paired differences</h2>", html_table(pairs),
        figure(plots.differences(found.differences, NAMES[found.metric]), "Right of 0 the first is better."),
        "<h2>Limits</h2><ul>", *(f"<li>{escape(line)}</li>" for line in limits(first)), "</ul>",
        "<footer><b>Not for clinical use.</b></footer>",
    ]  # fmt: skip
    return whole_page("Comparison of tables", parts)
