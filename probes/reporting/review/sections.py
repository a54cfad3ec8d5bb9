"""The sections of a report that answer what reviewers ask next: sites, confounders, use, certainty, sensitivity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from html import escape

import numpy as np

from probes.evaluation.bootstrap import Interval
from probes.evaluation.external.recalibration import Recalibration
from probes.evaluation.usefulness.costs import PER, Costs
from probes.reporting.definitions import term
from probes.reporting.page import cell, figure, held_cell, html_table, legend, section, series_line
from probes.reporting.review import drawings
from probes.reporting.review.certainty import label_sets
from probes.reporting.review.sentences import (
    SHOWN,
    confounder_sentence,
    decision_sentence,
    external_sentence,
    is_confounded,
    sets_sentence,
    shift_sentence,
    together_sentence,
)
from probes.reporting.words import NAMES, headline, metric_key, number, rate, shown_as
from probes.runs.result import ProbeResult
from probes.runs.review.record import Choice, Confounder, External, Review

MULTIVERSE = {"scaling": "scaling", "penalty": "penalty", "seed": "split", "pooling": "scored by"}
ALL_MARK, NONE_MARK = "border-top: 2px dashed var(--ink)", "border-top: 2px solid var(--edge)"


def external(result: ProbeResult, found: External) -> str:
    """D25, D26."""
    rows = [["", "test rows here", "external rows", f"{term('drop')} ({term('interval')})",
             f"{term('simulated_coverage')}: external rows, drop"]]  # fmt: skip
    fewer = min(result.test.groups, found.test.groups)

    def quotes(there: Interval, fall: Interval) -> str:
        return held_cell((there, found.test.groups), (fall, fewer))

    for name, fall in found.drops.items():
        there = found.test.metrics[name]
        values = cell(result.test.metrics[name]), cell(there), cell(fall), quotes(there, fall)
        rows.append([term(metric_key(name, result)), *values])
    here = {o.column: o for o in result.operating}
    for point, falls in zip(found.operating, found.rate_drops, strict=True):
        for name, fall in falls.rates.items():
            named = f"{term(name)}, {escape(point.column)} at {number(point.threshold)}"
            own = (rate(name, of.rates, cell) for of in (here[point.column], point))
            rows.append([named, *own, cell(fall), quotes(point.rates[name], fall)])
    where = f" where {found.where}" if found.where else ""
    caption = (
        f"The frozen probe on table {escape(found.table)}, version {found.version}{escape(where)}: "
        f"{found.flow.matched} rows, {found.flow.unlabelled} without a label of the probe, {found.shared_rows} left "
        f"out for their group, {found.audit.flagged} near-duplicates of fitted rows."
    )
    parts = [
        f"<p><b>{escape(external_sentence(found))}</b> Weights, temperature and thresholds were fixed before.</p>",
        html_table(rows, "below", caption),
        html_table(_recalibrations(found), "below", "Calibration of the frozen probabilities; perfect: 0 and 1."),
    ]
    if found.shift is not None:
        links = f" ({term('shift_classifier')}, {term('mmd')})"
        parts.append(f"<p>{escape(shift_sentence(found.shift))}{links}</p>")
    if found.conformal is not None:
        parts.append(f"<p>{escape(sets_sentence(found.conformal))}</p>")
    if found.label_sets:
        parts.append(label_sets(found.label_sets, "The sets of each label there."))
    return section("external", "External test", *parts)


def _recalibrations(found: External) -> list[list[str]]:
    rows = [["", "mean probability", "share positive", term("calibration_intercept"), term("calibration_slope"),
             term("simulated_coverage")]]  # fmt: skip

    def line(name: str, of: Recalibration) -> list[str]:
        quote = held_cell((of.intercept, found.test.groups), (of.slope, found.test.groups))
        return [name, number(of.expected), number(of.observed), cell(of.intercept), cell(of.slope), quote]

    for here, there in zip(found.recalibration_here, found.recalibration, strict=True):
        rows += [line(f"{escape(here.name)}, test rows here", here), line(f"{escape(there.name)}, external", there)]
    return rows


def confounders(result: ProbeResult, review: Review) -> str:
    """D30: one panel, and a sentence for each column."""
    found = review.confounders
    if found is None:
        return ""
    rows = [["column", term("readable"), term("alone"), "all rows", term("within_strata"), term("balanced_auc"),
             term("fall"), term("robustness_index")]]  # fmt: skip
    rows += [_confounder(c) for c in found.columns]
    marked = "".join(
        f"<li class='{'bad' if is_confounded(c) else ''}'>{escape(confounder_sentence(c))}</li>" for c in found.columns
    )
    caption = f"AUCs of the {result.test.rows} test rows for each column that could stand in for the label."
    caption += _held_of_confounders(found.columns)
    return section(
        "confounders", "Confounders", f"<ul>{marked}</ul>", html_table(rows, "below", caption),
        f"<p>{escape(together_sentence(found))}</p>",
    )  # fmt: skip


def _held_of_confounders(columns: tuple[Confounder, ...]) -> str:
    """D29's quotes, which are the same for all columns."""
    inside = next((c.adjusted for c in columns if c.adjusted is not None), None)
    if inside is None or inside.within.held is None:
        return ""
    named = {"within_strata": inside.within, "balanced_auc": inside.balanced, "fall": inside.fall}
    quotes = (f"{NAMES[key]} {value.held:.0f} %" for key, value in named.items() if value.held is not None)
    return f" {term('simulated_coverage', 'Held in simulations')}: {', '.join(quotes)}."


def _confounder(found: Confounder) -> list[str]:
    inside = found.adjusted
    areas = [cell(None)] * 4
    if inside is not None:
        areas = [cell(inside.plain), cell(inside.within), cell(inside.balanced), cell(inside.fall)]
    near = "–"
    if found.robustness is not None:
        chance = f"<span class='ci'>(chance {number(found.robustness.chance)})</span>"
        near = f"<b>{number(found.robustness.index)}</b> {chance}"
    missing = f", {found.missing} rows missing" if found.missing else ""
    return [f"{escape(found.column)} ({found.values} values{missing})", cell(found.readable), cell(found.alone), *areas,
            near]  # fmt: skip


def usefulness(review: Review) -> str:
    """D27."""
    if not review.decision:
        return ""
    drawn = []
    for curve in review.decision[:SHOWN]:
        marks = legend([(series_line(0), "the probe, with its 95 % band"), (ALL_MARK, "every row called positive"),
                        (NONE_MARK, "none called")])  # fmt: skip
        caption = f"Net benefit for {curve.name}, prevalence {number(curve.prevalence)} in the test rows."
        caption += (
            ""
            if curve.held is None
            else f" At a threshold such bands held the truth in {curve.held:.0f} % of simulations."
        )
        drawn.append(figure(drawings.decision(curve), caption, marks))
    sentences = "".join(f"<li>{escape(decision_sentence(curve))}</li>" for curve in review.decision[:SHOWN])
    tables = [html_table(_costs(each), "below", _costs_caption(each)) for each in review.costs[:SHOWN]]
    rest = len(review.decision) - SHOWN
    more = f"<p class='dim'>The first {SHOWN} of {len(review.decision)} classes.</p>" if rest > 0 else ""
    lead = f"<p>{term('net_benefit', 'Net benefit')} weighs true against false positives by the threshold's odds.</p>"
    return section(
        "usefulness", "Usefulness", lead, f"<ul>{sentences}</ul>", f"<div class='plots'>{''.join(drawn)}</div>",
        *tables, more,
    )  # fmt: skip


def _costs_caption(found: Costs) -> str:
    return (
        f"Calls for {escape(found.name)} in {PER} rows at the test rows' prevalence ({number(found.prevalence)}), and "
        "their cost in false alarms a row."
    )


def _costs(found: Costs) -> list[list[str]]:
    rows = [["a miss is worth", "threshold", "called", "found", "missed", "false alarms", term("number_to_read"),
             term("expected_cost"), "all called", "none called"]]  # fmt: skip
    for row in found.rows:
        counts = [f"{value:.0f}" for value in (row.called, row.hits, row.misses, row.alarms)]
        worth = f"{row.ratio:g} false alarm{'' if row.ratio == 1 else 's'}"
        at = f"{number(row.threshold)} <span class='ci'>{row.rule}</span>"
        every = number(row.cost_all), number(row.cost_none)
        rows.append([worth, at, *counts, cell(row.read), cell(row.cost), *every])
    return rows


def sensitivity(result: ProbeResult, review: Review) -> str:
    """D32."""
    parts = []
    if review.repeats:
        rows = [["metric", "this split", term("spread"), "lowest", "highest"]]
        for each in review.repeats:
            values, show = [v for v in each.values if v == v], shown_as(each.metric)
            own = result.test.metrics[each.metric].value
            rows.append([term(metric_key(each.metric, result)), show(own),
                         f"<b>{show(each.mean)}</b> <span class='ci'>± {show(each.sd)}</span>",
                         show(min(values)), show(max(values))])  # fmt: skip
        caption = (
            f"Over {len(review.repeats[0].values)} further splits, whose rows overlap: how much the split matters, no "
            "confidence interval."
        )
        parts.append(html_table(rows, "", caption))
    if review.multiverse:
        parts.append(_multiverse(review.multiverse, headline(result)))
    return section("sensitivity", "Sensitivity to the protocol", *parts)


def _multiverse(found: tuple[Choice, ...], metric: str) -> str:
    show = shown_as(metric)
    rows = [["choice", "combinations", f"{term(metric)}, mean", "lowest", "highest"]]
    rows.append(["all", *_row([c.headline for c in found], show)])
    for name, title in MULTIVERSE.items():
        by: dict[str, list[float]] = defaultdict(list)
        for choice in found:
            by[getattr(choice, name)].append(choice.headline)
        rows += [[escape(f"{title}: {value}"), *_row(own, show)] for value, own in by.items()]
    named = "macro AUC" if metric == "auc_macro" else NAMES[metric]
    caption = f"The test {named} under {len(found)} combinations of choices (multiverse); the result is one of them."
    return html_table(rows, "", caption)


def _row(values: list[float], show: Callable[[float], str]) -> list[str]:
    defined = [v for v in values if v == v]
    if not defined:
        return [str(len(values)), number(None), "", ""]
    return [str(len(values)), f"<b>{show(float(np.mean(defined)))}</b>", show(min(defined)), show(max(defined))]
