"""The sections of a report that show how well the probe did: metrics, curves, errors, calibration, rates, subgroups."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from probes.cohort.experiment import SHUFFLES
from probes.evaluation.bootstrap import Interval
from probes.evaluation.scoring import Scored
from probes.reporting import plots
from probes.reporting.definitions import term
from probes.reporting.page import cell, figure, held_cell, html_table, legend, section, series_line, spread_cell
from probes.reporting.ranges import scale
from probes.reporting.words import (
    EMPTY,
    NAMES,
    by_group_words,
    calibration_numbers,
    metric_key,
    note_words,
    number,
    plus_minus,
    rate,
    shown_as,
    with_interval,
)
from probes.runs.result import ProbeResult

MOST_CELLS = 30  # most classes of a legible confusion matrix; with more, the most frequent errors are listed
DENSE = 12  # classes above which a confusion matrix shows counts only, below upright names or their numbers
MOST_LETTERS = 40  # of names that stand upright
SHOWN_ERRORS = 20
RANDOM_AREA = 0.5  # the AUC of scores that say nothing


def results(result: ProbeResult) -> str:
    """Every metric beside its baselines, and each class."""
    return section("results", "Results on rows that chose nothing", _metrics(result), _classes(result))


def _metrics(result: ProbeResult) -> str:
    extra: list[tuple[str, Scored]] = []
    if result.without_duplicates:
        name = f"without {term('near_duplicates')} ({result.without_duplicates.rows} rows)"
        extra.append((name, result.without_duplicates))
    if result.patients:
        extra.append((term("by_group", by_group_words(result.patients, result)), result.patients))
    head = "mean ± SD of the folds" if result.folds else f"value ({term('interval')})"
    baselines = [term(name.replace(" ", "_"), name) for name in result.baselines]
    quotes = [] if result.folds else [term("simulated_coverage")]
    rows = [["metric", head, *quotes, *baselines, *(name for name, _ in extra)]]
    for name, value in result.test.metrics.items():
        base = [shown_as(name)(b[name]) if name in b else "" for b in result.baselines.values()]
        own = [held_cell((value, result.test.groups)) for _ in quotes]
        shown = [(spread_cell if result.folds else cell)(each, shown_as(name))
                 for each in (value, *(s.metrics[name] for _, s in extra))]  # fmt: skip
        rows.append([term(metric_key(name, result)), shown[0], *own, *base, *shown[1:]])
    notes, words = (
        [f"{escape(note[:1].upper() + note[1:])}." for note in note_words(result.test)],
        plus_minus if result.folds else with_interval,
    )
    if result.shuffled_auc is not None:
        notes.append(
            f"The same probe on {term('shuffled', f'labels shuffled {SHUFFLES} times')}: AUC "
            f"{words(result.shuffled_auc)}; chance is 0.500."
        )
    two = ", with two baselines" if result.baselines else ""
    caption = f"Metrics of {result.test.rows} test rows of {result.test.groups} groups{two}."
    return html_table(rows, "below", caption) + "".join(f"<p class='dim'>{note}</p>" for note in notes)


def _classes(result: ProbeResult) -> str:
    show = spread_cell if result.folds else cell
    scored = result.test
    if not scored.classes:
        return ""
    kind = "label" if result.request.multilabel else "class"
    named = f"<p>In no mean, as undefined: {escape(', '.join(scored.excluded))}.</p>" if scored.excluded else ""
    out = _class_table(scored, show, kind, f"Each {kind} against the rest.") + named
    if result.patients and result.patients.classes:
        notes = "; ".join(note_words(result.patients))
        caption = f"Each {kind}, {term('by_group', f'one score a {result.request.group}')}: {escape(notes)}."
        out += _class_table(result.patients, show, kind, caption, pooled=True)
    return out


def _class_table(
    scored: Scored, show: Callable[[Interval | None], str], kind: str, caption: str, *, pooled: bool = False
) -> str:
    """One row a class; of `pooled` scores only those that some group has."""
    exact = any(_delong(c.delong) != "–" for c in scored.classes)
    several = len(scored.classes) > 2 or kind == "label"  # the two classes of a binary task have one AUC
    drawn = scale([c.auc for c in scored.classes], RANDOM_AREA) if show is cell and several else None
    delong = [term("delong")] if exact else []
    header = [
        kind,
        "positives",
        term("prevalence"),
        term("auc"),
        *([drawn.head(NAMES["interval"])] if drawn else []),
        *delong,
    ]
    quotes = [term("simulated_coverage")] if show is cell else []
    rows = [[*header, term("ap"), *quotes]]
    shown = [c for c in scored.classes if c.positives or not pooled]
    for c in shown:
        own = [drawn.bar(c.auc)] if drawn else []
        own += [_delong(c.delong)] if exact else []
        quote = [held_cell((c.auc, scored.groups), (c.ap, scored.groups))] if quotes else []
        counted = f"{c.positives} of {c.rows}"
        rows.append([escape(c.name), counted, number(c.prevalence), show(c.auc), *own, show(c.ap), *quote])
    lost = len(scored.classes) - len(shown)
    more = f"<p class='dim'>{lost} classes have no such group.</p>" if lost else ""
    return html_table(rows, "below", caption) + more


def _delong(found: tuple[float, float] | None) -> str:
    """D10's interval as text; undefined at an AUC of 0 or 1 and with fewer than two rows on a side."""
    return "–" if found is None or found[0] != found[0] else f"{number(found[0])} to {number(found[1])}"


def curves(result: ProbeResult) -> str:
    if not result.curves:
        return ""
    two = len(result.test.classes) == 2 and not result.request.multilabel
    shown = result.curves[-1:] if two else result.curves[: plots.MOST_CURVES]  # of two classes one is redundant
    cut = len(result.curves) > len(shown) and not two
    rest = f" The first {len(shown)} of {len(result.curves)} classes; the table has all." if cut else ""
    what = f"{shown[0].name} against {result.test.classes[0].name}" if two else "each against the rest"
    marks = " Dots: the operating points below." if result.operating else ""
    facts = {c.name: c for c in result.test.classes}
    areas, precisions = (
        legend((series_line(i), f"{c.name}: {with_interval(getattr(facts[c.name], of))}") for i, c in enumerate(shown))
        for of in ("auc", "ap")
    )
    roc = plots.roc(shown, result.operating)
    pair = [
        figure(roc, f"ROC with AUC (95 % interval), {what}.{marks}{rest}", areas),
        figure(
            plots.precision_recall(shown, result.test.classes),
            f"Precision and recall with average precision (95 % interval); dotted: prevalence.{rest}",
            precisions,
        ),
    ]
    return section("curves", "Curves", f"<div class='plots'>{''.join(pair)}</div>")


def confusion(result: ProbeResult) -> str:
    """The confusion matrix as a table, so that names of any length fit; of many classes the commonest errors."""
    if not result.confusion:
        return ""
    names = [c.name for c in result.test.classes]
    if len(names) > MOST_CELLS:
        return section("confusion", "Most frequent errors", _errors(result.confusion, names))
    return section("confusion", "Confusion matrix", confusion_table(result.confusion, names))


def confusion_table(counts: tuple[tuple[int, ...], ...], names: list[str]) -> str:
    """Counts (true, called) as a table; shade: share of the true class, also as per cent where there is room."""
    dense = len(names) > DENSE
    numbered = dense and max(map(len, names)) > MOST_LETTERS  # longer names cannot stand above narrow columns
    shown = [f"{i}.\N{NO-BREAK SPACE}{name}" for i, name in enumerate(names, 1)] if numbered else names
    rows = [["true, below; called, right", *(escape(name.partition(".")[0] if numbered else name) for name in shown)]]
    for name, row in zip(shown, counts, strict=True):
        total = max(sum(row), 1)
        cells = []
        for count in row:
            per_cent = f"<span class='ci'>{count / total:.0%}</span>" if count and not dense else ""
            cells.append(f"<td style='--share:{count / total:.3f}'>{count}{per_cent}</td>")
        rows.append([escape(name), *cells])
    share = "shade" if dense else "shade and per cent"
    kind = "grid" + (" dense" if dense else "") + ("" if numbered else " named")
    return html_table(rows, kind, f"Counts of test rows; {share}: of the true class.")


def _errors(counts: tuple[tuple[int, ...], ...], names: list[str]) -> str:
    wrong = [
        (count, names[i], names[j], count / sum(row))
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if count and i != j
    ]
    wrong.sort(key=lambda entry: -entry[0])
    rows = [["true", "called", "rows", "share of the true class"]]
    rows += [[escape(true), escape(called), str(n), f"{share:.0%}"] for n, true, called, share in wrong[:SHOWN_ERRORS]]
    caption = f"The {min(len(wrong), SHOWN_ERRORS)} most frequent of {len(wrong)} kinds of errors."
    return html_table(rows, caption=caption)


def calibration(result: ProbeResult) -> str:
    if not result.calibration:
        return ""
    rows = [["", *map(term, calibration_numbers(result.calibration["after"], result))]]
    marks = {"before": "border-top: 4px dotted var(--edge)", "after": "border-top: 4px dotted var(--series-1)"}
    shapes, entries = {"before": "squares", "after": "dots"}, []
    for name, found in result.calibration.items():
        plain = f"{name} temperature" + (f" {result.temperature:.3g}" if name == "after" else "")
        shown = f"{name} {term('temperature')}" + (f" {result.temperature:.3g}" if name == "after" else "")
        rows.append([shown, *map(number, calibration_numbers(found, result).values())])
        entries.append((marks[name], f"{plain} ({shapes[name]}), ECE {number(found.ece)}"))
    table = html_table(rows, caption="Calibration errors of the test rows before and after the temperature.")
    caption = "Temperature fitted on held-out fitted rows, never on test. Larger marks: more rows."
    return section("calibration", "Calibration", table, figure(plots.reliability(result), caption, legend(entries)))


def operating(result: ProbeResult) -> str:
    if not result.operating:
        return ""
    first = result.operating[0]
    header = [term("threshold"), *map(term, first.rates)]
    if first.prevalence is not None:
        header.append(term("ppv_at_prevalence", f"PPV at prevalence {first.prevalence:g}"))
    columns = []
    for point in result.operating:
        column = [number(point.threshold, 4), *(rate(name, point.rates, cell) for name in point.rates)]
        if point.prevalence is not None:
            at = point.ppv_at_prevalence
            lacking = at is not None and at.value != at.value
            column.append(f"{number(None)} ({EMPTY['ppv']})" if lacking else cell(at))
        columns.append(column)
    named = [escape(o.column) for o in result.operating]
    if len(columns) == 1:
        quotes = [held_cell((first.rates.get(name), result.test.groups)) for name in first.rates]
        quotes = ["", *quotes, *[""] * (len(header) - 1 - len(quotes))]
        lines = zip(header, columns[0], quotes, strict=True)
        table = html_table([["positive", *named, term("simulated_coverage")], *lines])
    else:
        table = html_table([["positive", *header], *([n, *c] for n, c in zip(named, columns, strict=True))], "below")
    text = (
        f"Thresholds chosen on held-out fitted rows for specificity ≥ {first.target_specificity:g}, then frozen; "
        "rates on the test rows with 95 % intervals."
    )
    return section("operating", "Operating points", f"<p>{text}</p>", table)


def subgroups(result: ProbeResult) -> str:
    if not result.subgroups:
        return ""
    whole = result.test.metrics["auc_macro"].value
    drawn = scale([s.auc for s in result.subgroups], whole) if whole == whole else None
    positives = "positives" if len(result.test.classes) == 2 else "of the rarest class"
    bars = [drawn.head(NAMES["interval"])] if drawn else []
    rows = [["subgroup", "rows", positives, term("auc_macro", "AUC"), *bars, term("sensitivity"), term("specificity")]]
    for s in result.subgroups:
        numbers = [cell(s.auc), *([drawn.bar(s.auc)] if drawn else []), cell(s.sensitivity), cell(s.specificity)]
        if s.note:
            numbers[0] = escape(s.note)
        rows.append([escape(f"{s.column} = {s.value}"), str(s.rows), str(s.positives), *numbers])
    out = html_table(rows, "below", "Each subgroup at the common threshold; dashed line: all test rows.")
    if result.gaps:
        out += _gaps(result)
    return section("subgroups", "Subgroups", out)


def _gaps(result: ProbeResult) -> str:
    rows = [["metric", "by", f"{term('gap')} ({term('interval')})", "lowest in", "highest in"]]
    for gap in result.gaps:
        size = f"<b>{number(gap.gap)}</b>" if gap.difference is None else cell(gap.difference)
        rows.append([NAMES[gap.metric], *map(escape, (gap.column, gap.worst, gap.best or "–"))])
        rows[-1].insert(2, size)
    return html_table(rows, "names", "Highest minus lowest value among the subgroups of a column.")
