"""The sections of a report of numbers or times that answer what reviewers ask next: sites, confounders, certainty."""

from __future__ import annotations

from html import escape

from probes.evaluation.certainty.ranges import ConformalRanges
from probes.evaluation.certainty.selective import Selective
from probes.reporting.definitions import term
from probes.reporting.page import cell, figure, html_table, section
from probes.reporting.ranges import scale
from probes.reporting.review import drawings
from probes.reporting.review.sentences import (
    SHIFT_CAVEAT,
    confounder_sentence,
    external_sentence,
    shift_sentence,
    together_sentence,
)
from probes.reporting.targets.sentences import ranges_sentence
from probes.reporting.words import NAMES, SITE_METRICS, metric_key, number, quantity, shown_as
from probes.runs.result import ProbeResult
from probes.runs.review.record import Confounder, External, Review
from probes.runs.targets.record import HorizonCalibration


def external(result: ProbeResult, found: External) -> str:
    """D25, D26."""
    here = result.test if found.here is None else found.here
    rows = [["", "test rows here", "external rows", f"{term('drop', 'here minus there')} ({term('interval')})"]]
    for name, fall in found.drops.items():
        show = shown_as(name)
        values = cell(here.metrics[name], show), cell(found.test.metrics[name], show), cell(fall, show)
        rows.append([term(metric_key(name, result)), *values])
    where = f" where {found.where}" if found.where else ""
    caption = (
        f"The frozen probe on table {escape(found.table)}, version {found.version}{escape(where)}: "
        f"{found.flow.matched} rows, {found.flow.unlabelled} without a label, {found.shared_rows} left out for their "
        f"group, {found.audit.flagged} near-duplicates of fitted rows."
    )
    fixed = "Weights and scaling were fixed before."
    if result.request.target == "survival":
        time = f"{result.request.labels[0]} {quantity(found.horizon)}"
        fixed = f"Weights and baseline hazard were fixed before; both sides are scored up to {time}."
    parts = [f"<p><b>{escape(external_sentence(found))}</b> {escape(fixed)}</p>", html_table(rows, "below", caption)]
    if found.at_horizon is not None and result.survival is not None:
        parts.append(_horizons(result, result.survival.calibration, found.at_horizon))
    if found.ranges:
        parts += ["<p>Ranges that were calibrated here, measured there:</p>", ranges(found.ranges)]
    if found.shift is not None:
        links = f" ({term('shift_classifier')}, {term('mmd')})"
        parts.append(f"<p>{escape(shift_sentence(found.shift))}{links}</p>")
    return section("external", "External test", *parts)


def _horizons(result: ProbeResult, here: HorizonCalibration | None, there: HorizonCalibration) -> str:
    time = result.request.labels[0]
    rows = [["", f"{escape(time)}", term("predicted_events"), term("observed_events"), term("horizon_difference")]]
    for name, each in (("test rows here", here), ("external rows", there)):
        if each is not None:
            rows.append([name, quantity(each.time), number(each.expected), cell(each.observed), cell(each.difference)])
    return html_table(rows, "below", "Share of the rows with the event up to a time, predicted and observed.")


def confounders(result: ProbeResult, review: Review) -> str:
    """D39: one panel, and a sentence for each column."""
    found = review.confounders
    if found is None:
        return ""
    of_numbers = result.request.target == "numeric"
    alone, metric = ("explained_alone", "spearman") if of_numbers else ("risk_alone", "harrell")
    rows = [["column", term("readable"), term(alone), f"all rows, {term(metric)}", term("within_order"),
             term("order_fall")]]  # fmt: skip
    rows += [_confounder(c) for c in found.columns]
    marked = "".join(
        f"<li class='{'bad' if c.within and not c.within.left else ''}'>{escape(confounder_sentence(c))}</li>"
        for c in found.columns
    )
    caption = f"The {result.test.rows} test rows for each column that could stand in for the label."
    return section(
        "confounders", "Confounders", f"<ul>{marked}</ul>", html_table(rows, "below", caption),
        f"<p>{escape(together_sentence(found))}</p>",
    )  # fmt: skip


def _confounder(found: Confounder) -> list[str]:
    inside = found.within
    cells = [cell(None)] * 3 if inside is None else [cell(inside.plain), cell(inside.within), cell(inside.fall)]
    missing = f", {found.missing} rows missing" if found.missing else ""
    name = f"{escape(found.column)} ({found.values} values{missing})"
    return [name, cell(found.readable), cell(found.alone), *cells]


def certainty(review: Review) -> str:
    """D38."""
    parts = []
    if review.ranges:
        said = "".join(f"<li>{escape(ranges_sentence(each))}</li>" for each in review.ranges)
        parts += ["<h3>Which numbers are possible</h3>", f"<ul>{said}</ul>", ranges(review.ranges),
                  f"<p class='dim'>{SHIFT_CAVEAT}</p>"]  # fmt: skip
    if review.selective is not None:
        parts += ["<h3>Which rows to leave to a person</h3>", _selective(review.selective)]
    return section("certainty", "Certainty", *parts)


def ranges(found: tuple[ConformalRanges, ...]) -> str:
    """Ranges of both kinds that were not refused."""
    made = [each for each in found if not each.refused]
    if not made:
        return ""
    rows = [["range", "calibrating groups", "measured rows", "groups", term("range_coverage"), term("range_width"),
             "10th to 90th per cent of widths"]]  # fmt: skip
    for each in made:
        kind = "∓ the predicted error × " + quantity(each.factor) if each.adaptive else f"∓ {quantity(each.factor)}"
        spread = f"{quantity(each.widths[0])} to {quantity(each.widths[1])}" if each.adaptive else "–"
        rows.append([kind, str(each.calibration_groups), str(each.rows), str(each.groups), cell(each.coverage),
                     quantity(each.mean_width), spread])  # fmt: skip
    caption = f"{term('conformal_range', 'Conformal ranges')} of {made[0].wanted:.0%}, in the unit of the label."
    return html_table(rows, "below", caption)


def _selective(found: Selective) -> str:
    rows = [["share kept", "rows", f"largest {term('predicted_error')}", term("kept_error")]]
    rows += [[f"{k.coverage:.0%}", str(k.rows), quantity(-k.least), cell(k.risk, quantity)] for k in found.kept]
    caption = (
        f"{NAMES['mae'][:1].upper()}{NAMES['mae'][1:]} when the rows of the largest predicted error go to a person; "
        "dashed: no row does."
    )
    area = (
        f"<p class='dim'>{term('error_area')}: {quantity(found.area)}; of a random order "
        f"{quantity(found.area_random)}, of the best {quantity(found.area_best)}.</p>"
    )
    drawn = figure(drawings.risk_by_coverage(found, NAMES["mae"]), caption)
    return f"<div class='plots'>{drawn}{html_table(rows, 'below', 'The same in numbers.')}</div>{area}"


def sites(result: ProbeResult) -> str:
    """D25: each left-out site, whose rows are of patients of its own."""
    first, *others = SITE_METRICS[result.request.target]
    values = [fold.of_site.get(first) for fold in result.folds]
    reference = 0.5 if first == "uno" else result.test.metrics[first].value
    drawn = scale(values, reference if reference == reference else 0.0, shown_as(first))
    head = [result.request.left_out or "site", "rows", "groups", f"{term(first)} ({term('interval')})"]
    rows = [[escape(head[0]), *head[1:], drawn.head(NAMES["interval"]), *map(term, others)]]
    for fold, value in zip(result.folds, values, strict=True):
        rest = (cell(fold.of_site.get(name), shown_as(name)) for name in others)
        rows.append([escape(fold.site), str(fold.rows), str(fold.groups), cell(value, shown_as(first)),
                     drawn.bar(value), *rest])  # fmt: skip
    caption = "Each site scored by a probe that was fitted, and whose penalty was chosen, on the other sites alone."
    return section("folds", "Each site left out", html_table(rows, "below", caption))


def outer_folds(result: ProbeResult) -> str:
    """Nested folds."""
    shown = SITE_METRICS[result.request.target]
    rows = [["outer fold", "rows", "k" if result.request.probe == "knn" else "penalty", *map(term, shown)]]
    rows += [
        [str(f.fold), str(f.rows), f"{f.penalty:.3g}", *(shown_as(n)(f.metrics.get(n, float("nan"))) for n in shown)]
        for f in result.folds
    ]
    return section("folds", "Outer folds", html_table(rows))
