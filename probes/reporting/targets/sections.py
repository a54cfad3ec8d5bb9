"""The sections of a report on targets that are no classes."""

from __future__ import annotations

from html import escape

from probes.cohort.splits import units
from probes.reporting.definitions import term
from probes.reporting.page import cell, figure, html_table, legend, section
from probes.reporting.ranges import scale
from probes.reporting.targets import drawings
from probes.reporting.targets.sentences import horizon_sentence, log_rank_sentence, proportional_sentence
from probes.reporting.words import NAMES, number, quantity, with_interval
from probes.runs.result import ProbeResult
from probes.runs.targets.record import SurvivalResult

EQUAL = "border-top: 2px dashed var(--edge)"
BIAS, LIMIT = "border-top: 2.5px solid var(--series-1)", "border-top: 2.5px dashed var(--series-1)"


def numbers(result: ProbeResult) -> str:
    """D36: predicted against true numbers, Bland & Altman's plot, and subgroups."""
    found, label = result.numbers, result.request.labels[0]
    if found is None:
        return ""
    cut = f" {len(found.points)} of {result.test.rows} rows at random." if len(found.points) < result.test.rows else ""
    metrics = result.test.metrics
    low, high, bias = (metrics[name] for name in ("limit_low", "limit_high", "bias"))
    marks = [(BIAS, f"{NAMES['bias']}: {with_interval(bias, quantity)}")]
    limits = {name: with_interval(metrics[name], quantity) for name in ("limit_high", "limit_low")}
    marks += [(LIMIT, f"{NAMES[name]}: {shown}") for name, shown in limits.items()]
    pair = [
        figure(
            drawings.agreement(found.points, label),
            f"True against predicted {label} of the test rows.{cut}",
            legend([(EQUAL, "predicted and true are equal")]),
        ),
        figure(
            drawings.bland_altman(found.points, label, (low, high, bias)),
            f"Differences against means (Bland and Altman), in the unit of {label}. Bands: 95 % intervals.{cut}",
            legend(marks),
        ),
    ]
    return section("agreement", "Agreement", f"<div class='plots'>{''.join(pair)}</div>", _subgroups(result))


def _subgroups(result: ProbeResult) -> str:
    found = result.numbers.subgroups if result.numbers else ()
    if not found:
        return ""
    drawn = scale([s.mae for s in found], result.test.metrics["mae"].value, quantity)
    rows = [["subgroup", "rows", "groups", term("mae"), drawn.head(NAMES["interval"]), term("bias")]]
    for s in found:
        shown = ["n too small", "<td></td>", "–"]
        if s.mae is not None:
            shown = [cell(s.mae, quantity), drawn.bar(s.mae), cell(s.bias, quantity)]
        rows.append([escape(f"{s.column} = {s.value}"), str(s.rows), str(s.groups), *shown])
    return html_table(rows, "below", "Each subgroup; dashed line: all test rows.")


def sizes(result: ProbeResult) -> str:
    """D12 for numbers."""
    found = result.numbers
    if found is None or not found.sizes:
        return ""
    counted = f"{units(result.request.group)} in all"
    rows = [[escape(counted), f"{term('number_sizes', 'test ' + NAMES['mae'])}, mean ± SD", "draws"]]
    for p in found.sizes:
        size = str(p.groups) if p.draws > 1 else f"all ({p.groups})"
        spread = f" <span class='ci'>± {quantity(p.mae_sd)}</span>" if p.draws > 1 else ""
        rows.append([escape(size), f"<b>{quantity(p.mae_mean)}</b>{spread}", str(p.draws)])
    mark = legend([(EQUAL, f"all of train: {quantity(found.sizes[-1].mae_mean)}")])
    caption = f"Test {NAMES['mae']} by the number of {counted}, band: ± SD of the draws. {found.size_rule}."
    drawn = figure(drawings.error_by_size(found.sizes, counted), caption, mark) if len(found.sizes) > 1 else ""
    return section("few-shot", "Label efficiency", drawn, html_table(rows, caption="The same in numbers."))


def survival(result: ProbeResult) -> str:
    """D37: Kaplan-Meier curves by third of the risk, with the rows still observed."""
    found, time = result.survival, result.request.labels[0]
    if found is None:
        return ""
    marks = [
        (
            f"border-top: 2.5px {style} var(--series-{i})",
            f"{third.name} risk: {third.events} events in {third.rows} rows",
        )
        for i, (third, style) in enumerate(zip(found.thirds, ("solid", "dashed", "dotted"), strict=True), 1)
    ]
    caption = (
        f"Kaplan-Meier curves of the test rows by third of the risk. Bounds ({number(found.bounds[0])} and "
        f"{number(found.bounds[1])}) from held-out risks of fitted rows, never from test."
    )
    drawn = figure(drawings.kaplan_meier(found.thirds, time, found.horizon), caption, legend(marks))
    at = f"{term('survival_at', f'survival at {time} {quantity(found.horizon)}')} ({term('interval')})"
    rows = [[term("risk_third"), "rows", "groups", "events", at]]
    rows += [[t.name, str(t.rows), str(t.groups), str(t.events), cell(t.survival)] for t in found.thirds]
    observed = [["risk", *(f"{escape(time)} {quantity(tick)}" for tick in found.ticks)]]
    observed += [[t.name, *map(str, t.observed)] for t in found.thirds]
    text = (
        f"<p>{found.components} principal components hold {number(found.share)} of the vectors' variance; Cox's model "
        f"was fitted on {found.fitted_events} events and tested on {found.test_events}. The {term('horizon')} is "
        f"{escape(time)} {quantity(found.horizon)}.</p>"
    )
    tables = html_table(rows, caption="Each third."), html_table(observed, caption="Rows still observed.")
    said = "".join(f"<p>{line}</p>" for line in _said(found, time))
    return section("survival", "Survival by risk", text, drawn, *tables, said, _risk_subgroups(result))


def _said(found: SurvivalResult, time: str) -> list[str]:
    """The log-rank test, proportionality and calibration, each with a link to what it is."""
    lines = [f"{escape(log_rank_sentence(found.log_rank))} ({term('log_rank')})"]
    if found.proportional is not None:
        lines.append(f"{escape(proportional_sentence(found.proportional))} ({term('proportionality')})")
    if found.calibration is not None:
        lines.append(f"{escape(horizon_sentence(found.calibration, time))} ({term('horizon_difference')})")
    return lines


def _risk_subgroups(result: ProbeResult) -> str:
    found = result.survival.subgroups if result.survival else ()
    if not found:
        return ""
    drawn = scale([s.uno for s in found], 0.5)
    rows = [["subgroup", "rows", "groups", "events", term("uno"), drawn.head(NAMES["interval"]), term("harrell")]]
    for s in found:
        shown = ["n too small", "<td></td>", "–"]
        if s.uno is not None:
            shown = [cell(s.uno), drawn.bar(s.uno), cell(s.harrell)]
        rows.append([escape(f"{s.column} = {s.value}"), str(s.rows), str(s.groups), str(s.events), *shown])
    return html_table(rows, "below", "Each subgroup; dashed line: chance.")


def risk_sizes(result: ProbeResult) -> str:
    """D12 for times."""
    found = result.survival.sizes if result.survival else ()
    if not found:
        return ""
    counted, whole = f"{units(result.request.group)} in all", found[-1]
    rows = [[escape(counted), "mean events", f"{term('risk_sizes', 'test ' + NAMES['uno'])}, mean ± SD", "draws"]]
    for p in found:
        spread = "" if p.uno_sd != p.uno_sd else f" <span class='ci'>± {number(p.uno_sd)}</span>"
        size = f"all ({p.groups})" if p is whole else str(p.groups)
        rows.append([size, f"{p.events:.1f}", f"<b>{number(p.uno_mean)}</b>{spread}", str(p.draws)])
    caption = f"Test {NAMES['uno']} by the number of {escape(counted)}, lambda as in the result."
    return section("few-shot", "Label efficiency", html_table(rows, caption=caption))
