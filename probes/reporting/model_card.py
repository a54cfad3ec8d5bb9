"""A model card of a result (Mitchell et al. 2019), with every item of CLAIM and TRIPOD+AI below it.

What the result knows is filled in; what only people can say is named as theirs, so that nothing passes for answered.
"""

from __future__ import annotations

import re
from html import escape

from indexer.design.page import whole_page
from probes.reporting.answers import answers
from probes.reporting.caveats import limits
from probes.reporting.checklist import AUTHORS, BOTH, TO_ANSWER, items, items_html
from probes.reporting.definitions import definitions_of, term
from probes.reporting.page import cell, contents, held_cell, html_table, section, spread_cell
from probes.reporting.review.sentences import (
    confounder_sentence,
    decision_sentence,
    external_sentence,
    label_sets_sentence,
    sets_sentence,
    shift_sentence,
)
from probes.reporting.targets.sentences import ranges_sentence
from probes.reporting.text import positive_words
from probes.reporting.words import metric_key, number, rate, shown_as
from probes.runs.result import ProbeResult

MOST_CLASSES = 30  # of which the card shows the AUC; the report has all


def card_html(result: ProbeResult) -> str:
    """The card and both checklists as one page."""
    what = f"{result.request.probe} probe: {', '.join(result.request.labels)}"
    sections = [
        section("model", "Model", _model(result)),
        section("use", "Intended use", _use(result)),
        section("data", "Data", _data(result)),
        section("performance", "Performance", _performance(result), _classes(result)),
        section("elsewhere", "Elsewhere, and among subgroups", _elsewhere(result)),
        section("certainty", "Certainty", _certainty(result)),
        section("limits", "Limits and warnings", _limits(result)),
        section("people", "For people to answer", _open(result)),
        section("items", "Reporting items", f"<p>Answered by {BOTH}: a part is missing.</p>", items_html(result)),
    ]
    sections.append(definitions_of(sections))
    level = "warning" if result.split.level == "image" else "level"
    parts = [
        f"<h1>Model card: {escape(what)}</h1>",
        f"<p class='{level}'>{escape(result.split.statement)}</p>",
        contents(sections),
        *sections,
        "<footer><b>Not for clinical use.</b> Research use only.</footer>",
    ]
    return whole_page(f"Model card: {what}", parts)


def _facts(pairs: dict[str, str]) -> str:
    lines = (f"<dt>{escape(name)}</dt><dd>{_with_code(text)}</dd>" for name, text in pairs.items() if text)
    return f"<dl class='facts'>{''.join(lines)}</dl>"


def _with_code(text: str) -> str:
    """As HTML, with what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _model(result: ProbeResult) -> str:
    source, known = result.source, answers(result)
    return _facts({
        "Model": known["C22"], "Fingerprint": source.fingerprint, "Licence of the weights": source.licence or "",
        "Input": f"an image as the encoder reads it; {source.dim} numbers of it are used",
        "Output": known["T12g"], "Classes": ", ".join(c.name for c in result.test.classes[:MOST_CLASSES]),
        "Positive class": positive_words(result).partition(": ")[2] if result.positive else "",
        "Chosen by": known["C25"], "Class weight": result.request.class_weight or "none",
        "Files": known["C43"], "Software": known["C23"],
    })  # fmt: skip


def _use(result: ProbeResult) -> str:
    purpose = (
        f"Research on {', '.join(result.request.labels)} in images like those of table {result.source.table}; to "
        "compare encoders, find label errors and plan studies."
    )
    return (
        f"<p>{escape(purpose)} <b>Not for clinical use</b>: no diagnosis, triage or treatment. The intended users, "
        f"setting and place in care are {TO_ANSWER} (CLAIM 3, TRIPOD+AI 3b).</p>"
    )


def _data(result: ProbeResult) -> str:
    known = answers(result)
    rows = [["part", "rows", "groups", "rows of each class"]]
    for name, part in result.split.parts.items():
        counts = ", ".join(f"{escape(c)} {n}" for c, n in list(part.classes.items())[:MOST_CLASSES])
        rows.append([name, str(part.rows), str(part.groups), counts])
    facts = _facts({
        "Source": known["C35"], "Selected": known["C10"], "Split": known["C19"], "Missing": known["C12"],
        "Near-duplicates": known["C30"].partition("; ")[0],
    })  # fmt: skip
    caption = "Fitted on train and val; every number below is of test rows, which chose nothing."
    if result.folds:
        caption = "Every row is tested once, by a probe that was fitted on the other folds."
    return facts + html_table(rows, "words", caption)


def _performance(result: ProbeResult) -> str:
    show, quotes = (spread_cell, []) if result.folds else (cell, [term("simulated_coverage")])
    head = "mean ± SD of the folds" if result.folds else f"value ({term('interval')})"
    baseline, base = next(iter(result.baselines.items()), ("", {}))
    rows = [["metric", head, *quotes, *([term(baseline)] if baseline else [])]]
    for name, value in result.test.metrics.items():
        own = [held_cell((value, result.test.groups)) for _ in quotes]
        beside = [shown_as(name)(base[name]) if name in base else ""] if baseline else []
        rows.append([term(metric_key(name, result)), show(value, shown_as(name)), *own, *beside])
    if len(result.operating) == 1:
        point = result.operating[0]
        for name in ("sensitivity", "specificity", "ppv", "npv"):
            named = f"{term(name)} at p ≥ {number(point.threshold)}"
            rows.append([named, rate(name, point.rates, cell), held_cell((point.rates[name], result.test.groups)), ""])
    return html_table(rows, "below", f"{result.test.rows} test rows of {result.test.groups} groups.")


def _classes(result: ProbeResult) -> str:
    shown = result.test.classes[:MOST_CLASSES]
    if len(shown) < 3 and not result.request.multilabel:
        return ""
    show = spread_cell if result.folds else cell
    rows = [["class", "positives", term("auc"), term("ap")]]
    rows += [[escape(c.name), f"{c.positives} of {c.rows}", show(c.auc), show(c.ap)] for c in shown]
    return html_table(rows, "below", "Each class against the rest.")


def _elsewhere(result: ProbeResult) -> str:
    lines = []
    review = result.review
    if review is not None and review.external is not None:
        lines.append(external_sentence(review.external))
        lines += [shift_sentence(review.external.shift)] if review.external.shift else []
    elif not (result.folds and result.folds[0].site):
        lines.append("No external data were scored.")
    if result.folds and result.folds[0].site:
        lines.append(answers(result)["C33"] + ".")
    lines.append(f"Subgroups: {answers(result)['C36']}.")
    for gap in result.gaps:
        lines.append(f"Largest gap in {gap.metric} by {gap.column}: {number(gap.gap)}, lowest in {gap.worst}.")
    if review is not None and review.confounders is not None:
        lines += [f"Confounder {confounder_sentence(c)}" for c in review.confounders.columns]
    return "<ul>" + "".join(f"<li>{escape(line[:1].upper() + line[1:])}</li>" for line in lines) + "</ul>"


def _certainty(result: ProbeResult) -> str:
    lines = [answers(result)["C29"] + "."]
    review = result.review
    if review is not None:
        lines += [decision_sentence(curve) for curve in review.decision[:MOST_CLASSES]]
        lines += [sets_sentence(review.conformal)] if review.conformal else []
        lines += [label_sets_sentence(sets) for sets in review.label_sets]
        lines += [ranges_sentence(each) for each in review.ranges]
    elif result.request.target == "classes":
        lines.append("No decision curves, conformal sets or suspect labels: they are of --review.")
    return "<ul>" + "".join(f"<li>{escape(line[:1].upper() + line[1:])}</li>" for line in lines) + "</ul>"


def _limits(result: ProbeResult) -> str:
    warned = (w for w in result.warnings if w != result.split.statement)
    lines = [*(f"<li class='bad'>{escape(w)}</li>" for w in warned), *(f"<li>{escape(x)}</li>" for x in limits(result))]
    return f"<ul>{''.join(lines)}</ul>"


def _open(result: ProbeResult) -> str:
    """What no machine can answer, by list."""
    listed = items(result)
    out = []
    for checklist in dict.fromkeys(item.checklist for item in listed):
        own = [
            f"{item.number} {item.topic}"
            for item in listed
            if item.checklist == checklist and item.answered_by == AUTHORS
        ]
        out.append(f"<p><b>{escape(checklist)}</b>: {escape('; '.join(own))}.</p>")
    return "".join(out)
