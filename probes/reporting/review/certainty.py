"""The section of a report on certainty: sets of possible classes, rows for a person, and whether to trust intervals."""

from __future__ import annotations

from html import escape

from probes.evaluation.bootstrap import Interval
from probes.evaluation.certainty.conformal import ConformalSets
from probes.reporting.definitions import term
from probes.reporting.page import cell, figure, html_table, section
from probes.reporting.review import drawings
from probes.reporting.review.sentences import NOT_SIMULATED, SHIFT_CAVEAT, sets_sentence
from probes.reporting.words import metric_key, number
from probes.runs.result import ProbeResult
from probes.runs.review.record import Review


def certainty(result: ProbeResult, review: Review) -> str:
    """D28, D29."""
    parts = []
    if review.conformal is not None:
        parts.append(f"<h3>Which classes are possible</h3><p>{escape(sets_sentence(review.conformal))}</p>")
        if not review.conformal.refused:
            parts += [_sets(review), f"<p class='dim'>{SHIFT_CAVEAT}</p>"]
    if review.label_sets:
        caption = (
            f"{term('conformal_set', 'Conformal sets')} of {review.label_sets[0].wanted:.0%} of each label: absent, "
            "present, both or neither; half of the test groups calibrate, the others measure."
        )
        parts += [
            "<h3>Which answers are possible</h3>",
            label_sets(review.label_sets, caption),
            f"<p class='dim'>{SHIFT_CAVEAT}</p>",
        ]
    if review.selective is not None:
        parts += ["<h3>Which rows to leave to a person</h3>", _selective(review)]
    if review.trust:
        parts += ["<h3>May these intervals be trusted?</h3>", _trust(result, review)]
    return section("certainty", "Certainty", *parts)


def _sets(review: Review) -> str:
    assert review.conformal is not None
    rows = [["class", "calibrating groups", "in the set from p ≥", "measured groups", term("set_coverage")]]
    rows += [
        [escape(c.name), str(c.calibration_groups), number(c.least_p, 4), str(c.groups), cell(c.coverage)]
        for c in review.conformal.classes
    ]
    caption = (
        f"{term('conformal_set', 'Conformal sets')} of {review.conformal.wanted:.0%} by class; half of the test groups "
        "calibrate, the others measure."
    )
    return html_table(rows, "below", caption)


def label_sets(found: tuple[ConformalSets, ...], caption: str) -> str:
    head = [
        "label",
        "calibrating groups",
        f"{term('set_coverage')} without it",
        "with it",
        "one answer",
        "of them right",
    ]
    rows = [[*head, "both possible", "neither"]]
    for sets in found:
        if sets.refused:
            refused = f"<td colspan='{len(head) - 1}' class='dim'>{escape(sets.refused)}</td>"
            rows.append([escape(sets.label), refused])
            continue
        without, having = sets.classes
        neither, one, both = (f"{size / max(sets.rows, 1):.0%}" for size in sets.sizes)
        counted = f"{without.calibration_groups} without, {having.calibration_groups} with"
        rows.append([escape(sets.label), counted, cell(without.coverage), cell(having.coverage), one,
                     number(sets.single_right), both, neither])  # fmt: skip
    return html_table(rows, "below", caption)


def _selective(review: Review) -> str:
    found = review.selective
    assert found is not None
    rows = [["share kept", "rows", "least probability", term("risk")]]
    rows += [[f"{k.coverage:.0%}", str(k.rows), number(k.least), cell(k.risk)] for k in found.kept]
    caption = "Error rate when the least certain rows go to a person; dashed: no row does."
    area = (
        f"<p class='dim'>{term('aurc', 'Area under risk and coverage')}: {number(found.area)}; of a random order "
        f"{number(found.area_random)}, of the best {number(found.area_best)}.</p>"
    )
    drawn = figure(drawings.risk_by_coverage(found), caption)
    return f"<div class='plots'>{drawn}{html_table(rows, 'below', 'The same in numbers.')}</div>{area}"


def _trust(result: ProbeResult, review: Review) -> str:
    rows = [["metric", term("interval"), term("simulated_coverage"), "to be trusted"]]
    rows += [
        [term(metric_key(t.metric, result)), _own(result, t.metric), f"{t.coverage:.1f} %", t.verdict]
        for t in review.trust
    ]
    caption = (
        f"Share of simulated studies whose 95 % interval held the truth. Nearest design: {review.trust[0].words} "
        "(<code>python -m benchmarks.trust</code>)."
    )
    return html_table(rows, "", caption) + f"<p class='dim'>{NOT_SIMULATED}</p>"


def _own(result: ProbeResult, metric: str) -> str:
    """The interval that is spoken of."""
    value: Interval | None = result.test.metrics.get(metric)
    if value is None and len(result.operating) == 1:
        value = result.operating[0].rates.get(metric)
    return "–" if value is None else f"{number(value.low)} to {number(value.high)}"
