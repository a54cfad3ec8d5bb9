"""Renders a comparison as text and as an HTML page."""

from __future__ import annotations

from html import escape

from indexer.design.page import whole_page
from probes.evaluation.paired import holm
from probes.reporting.caveats import limits
from probes.reporting.definitions import definitions_of, term
from probes.reporting.page import cell, html_table, section
from probes.reporting.ranges import scale
from probes.reporting.tabular import table
from probes.reporting.words import NAMES, metric_key, p_value, shown_as, with_interval
from probes.runs.compare import Comparison

PAGE = "comparison.html"
SHOWN = {  # metrics of each table, in text
    "classes": ("auc_macro", "balanced_accuracy"), "numeric": ("mae", "r2"), "survival": ("uno", "harrell"),
}  # fmt: skip
ERRORS = ("mae", "rmse")  # metrics of which less is better


def comparison_text(found: Comparison) -> str:
    """Split level and unmatched rows first, then each table's numbers, then the paired differences."""
    first = found.results[0]
    lines = [found.statement, *(f"warning: {w}" for w in all_warnings(found))]
    labels = ", ".join(first.request.labels)
    lines += [
        "",
        f"{first.request.probe} probe for {labels}: {_counts(found)}",
    ]
    shown = SHOWN[first.request.target]
    head = "level" if found.cases else "table"
    rows = [[head, "encoder", "dim", first.selection.parameter, *(NAMES[m] for m in shown)]]
    for title, r, scored in zip(found.names, found.results, found.scored, strict=True):
        numbers = [with_interval(scored.metrics[m], shown_as(m)) for m in shown]
        rows.append([title, r.source.encoder, str(r.source.dim), f"{r.selection.value:.3g}", *numbers])
    name, base = _baseline(found)
    rows.append([name, "", "", "", *(shown_as(m)(base[m]) for m in shown)])
    lines += [*table(rows), "", f"paired differences in {NAMES[found.metric]}, same rows and same draws"]
    exact = ["p, DeLong", "p, DeLong, Holm"] if found.delong_p else []
    rows = [["pair", "difference (95 % interval)", "p", "p, Holm", *exact]]
    corrected = holm(found.delong_p)
    for i, d in enumerate(found.differences):
        own = [p_value(found.delong_p[i]), p_value(corrected[i])] if found.delong_p else []
        delta = with_interval(d.delta, shown_as(found.metric))
        rows.append([f"{d.first} - {d.second}", delta, p_value(d.p), p_value(d.p_holm), *own])
    return "\n".join([*lines, *table(rows), "", "Research use only, not for clinical use."])


def comparison_html(found: Comparison) -> str:
    """A self-contained page: warnings, the tables' metrics, and a plot of the differences."""
    first = found.results[0]
    kind = "level" if found.cases else "table"
    title = f"{first.request.probe} probe on {len(found.results)} {kind}s: {', '.join(first.request.labels)}"
    heading = f"<h1>{escape(title)}</h1>"
    if first.split.level == "image":  # D0: first line of the report
        top = [f"<p class='warning'>{escape(found.statement)}</p>", heading]
    else:
        top = [heading, f"<p class='level'>{escape(found.statement)}</p>"]
    sections = [
        section("tables", f"Each {kind}", html_table(_each_table(found), "below", "Metrics with 95 % intervals.")),
        section("differences", "Paired differences", _paired(found)),
        section("limits", "Limits", f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in limits(first))}</ul>"),
    ]
    sections.append(definitions_of(sections))
    parts = [
        *top,
        *(f"<p class='warning'>{escape(w)}</p>" for w in all_warnings(found)),
        f"<p>{escape(_counts(found))}.</p>",
        *sections,
        "<footer><b>Not for clinical use.</b> Research use only.</footer>",
    ]
    return whole_page(title, parts)


def _counts(found: Comparison) -> str:
    test = found.scored[0]
    if found.cases:
        return f"every level scored on the same {found.rows} cases ({found.cases}) of {test.groups} groups in test"
    return f"{found.rows} labelled rows in every table, {test.rows} of {test.groups} groups in test"


def _paired(found: Comparison) -> str:
    """The difference of every pair, drawn to scale, with its p values."""
    drawn = scale([d.delta for d in found.differences], 0.0, shown_as(found.metric))
    name = NAMES[found.metric]
    header = ["pair", f"difference in {term(found.metric)} ({term('interval')})", drawn.head(NAMES["interval"])]
    rows = [[*header, term("p"), term("p_holm"), *([term("p_delong"), "p, DeLong, Holm"] if found.delong_p else [])]]
    corrected = holm(found.delong_p)
    for i, d in enumerate(found.differences):
        exact = [p_value(found.delong_p[i]), p_value(corrected[i])] if found.delong_p else []
        pair = escape(f"{d.first} - {d.second}")
        rows.append(
            [pair, cell(d.delta, shown_as(found.metric)), drawn.bar(d.delta), p_value(d.p), p_value(d.p_holm), *exact]
        )
    side = "left" if found.metric in ERRORS else "right"
    caption = f"Difference in {escape(name)} of every pair; {side} of 0 the first is better."
    note = "Same test rows and bootstrap draws of groups; p two-sided, by Holm over the pairs."
    return html_table(rows, "below", caption) + f"<p class='dim'>{note}</p>"


def all_warnings(found: Comparison) -> list[str]:
    """Warnings of all tables or levels once, warnings of some with their names."""
    out = list(found.warnings)
    named: dict[str, list[str]] = {}
    for name, result in zip(found.names, found.results, strict=True):
        for text in result.warnings:
            if text != found.statement:
                named.setdefault(text, []).append(name)
    for text, tables in named.items():
        out.append(text if len(tables) == len(found.results) else f"{', '.join(tables)}: {text}")
    return out


def _each_table(found: Comparison) -> list[list[str]]:
    """One column for each table or level (encoder, parameter, audit, metrics), and one for the baseline."""
    results, (name, base) = found.results, _baseline(found)
    rows = [["", *map(escape, found.names), name]]
    rows += [
        ["encoder", *(escape(f"{r.source.encoder}, {r.source.weights}") for r in results), ""],
        ["numbers a row", *(str(r.source.dim) for r in results), ""],
        [f"{results[0].selection.parameter} chosen", *(f"{r.selection.value:.3g}" for r in results), ""],
        ["test rows with a near-twin", *(str(r.audit.flagged) if r.audit else "–" for r in results), ""],
    ]
    for name in found.scored[0].metrics:
        own = [cell(scored.metrics[name], shown_as(name)) for scored in found.scored]
        rows.append([term(metric_key(name, results[0])), *own, shown_as(name)(base[name]) if name in base else ""])
    return rows


def _baseline(found: Comparison) -> tuple[str, dict[str, float]]:
    """The baseline beside the tables, the same for all of them, and its metrics."""
    if found.results[0].request.target == "survival":
        return "chance", dict.fromkeys(SHOWN["survival"], 0.5)
    name, values = next(iter(found.results[0].baselines.items()))
    if found.cases:
        values = found.majority
    return {"majority": "majority class", "mean": "mean of the fitted rows"}.get(name, name), values
