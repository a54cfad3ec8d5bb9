"""D17: renders a result as one self-contained HTML page: warnings and split, then metrics, then limitations."""

from __future__ import annotations

from html import escape

from indexer.design.page import whole_page
from probes.cohort.splits import units
from probes.reporting import numbers, plots
from probes.reporting.caveats import limits
from probes.reporting.checklist import items_html
from probes.reporting.definitions import definitions_of, term
from probes.reporting.page import cell, contents, figure, html_table, legend, section
from probes.reporting.ranges import scale
from probes.reporting.review import sections as sections_of
from probes.reporting.review.certainty import certainty
from probes.reporting.review.gallery import Pictures, gallery
from probes.reporting.review.short import in_short
from probes.reporting.targets import review as of_targets
from probes.reporting.targets import sections as sections_of_targets
from probes.reporting.text import positive_words, unmatched_words
from probes.reporting.words import NAMES, inner_key, number
from probes.runs.result import ProbeResult

CHOSEN = "border-top: 2px dashed var(--edge)"  # the mark of a reference line


def report_html(result: ProbeResult, pictures: Pictures | None = None) -> str:
    """The whole page, which loads no other files but the `pictures` of keys, where their addresses are known."""
    what = ", ".join(result.request.labels)
    sections = [
        section("rows", "Where the rows come from", _flow(result), _split(result)),
        section("audit", "Leakage audit", _audit(result)),
        numbers.results(result), numbers.curves(result), numbers.confusion(result), numbers.calibration(result),
        numbers.operating(result), numbers.subgroups(result), sections_of_targets.numbers(result),
        sections_of_targets.survival(result),
        *_reviewed(result, pictures), _choice(result), _few_shot(result), sections_of_targets.sizes(result),
        sections_of_targets.risk_sizes(result),
        section("limits", "Limits", f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in limits(result))}</ul>"),
        section("items", "Reporting items", items_html(result)),
    ]  # fmt: skip
    sections.append(definitions_of(sections))
    packages = ", ".join(f"{name} {version}" for name, version in result.packages.items())
    parts = [
        _level(result) if result.split.level == "image" else "",  # D0: the first line of the report
        f"<h1>{escape(result.request.probe)} probe: {escape(what)}</h1>",
        _facts(result),
        _level(result) if result.split.level != "image" else "",
        *(f"<p class='warning'>{escape(w)}</p>" for w in result.warnings if w != result.split.statement),
        in_short(result),
        contents(sections),
        *sections,
        "<footer><b>Not for clinical use.</b> Research use only. Made from the stored vectors; seed "
        f"{escape(str(result.request.seed))}; {escape(packages)}.</footer>",
    ]
    return whole_page(f"{result.request.probe} probe: {what}", parts)


def _reviewed(result: ProbeResult, pictures: Pictures | None) -> list[str]:
    """D25 to D32, where asked for."""
    review = result.review
    if review is None:
        return []
    if result.request.target != "classes":
        return [
            of_targets.external(result, review.external) if review.external else "",
            of_targets.confounders(result, review), of_targets.certainty(review),
            gallery(review.examples, pictures, result.request.target),
            sections_of.sensitivity(result, review),
        ]  # fmt: skip
    return [
        sections_of.external(result, review.external) if review.external else "",
        sections_of.confounders(result, review), sections_of.usefulness(review), certainty(result, review),
        gallery(review.examples, pictures), sections_of.sensitivity(result, review),
    ]  # fmt: skip


def _facts(result: ProbeResult) -> str:
    source = result.source
    facts = {
        "Encoder": f"{source.encoder} ({source.weights}), {source.dim} numbers an image",
        "Table": f"{source.table}, version {source.version}",
        "Fingerprint": source.fingerprint,
        "Licence of the weights": source.licence,
        "Rows": result.request.where or "",
    }
    lines = (f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items() if value)
    return f"<dl class='facts'>{''.join(lines)}</dl>"


def _level(result: ProbeResult) -> str:
    kind = "warning" if result.split.level == "image" else "level"
    return f"<p class='{kind}'>{escape(result.split.statement)}</p>"


def _flow(result: ProbeResult) -> str:
    flow, left = result.flow, unmatched_words(result.request).replace("not matched", "unmatched")
    steps = [
        ("images read", flow.embedded + flow.failed), (f"decoded and embedded, {flow.failed} failed", flow.embedded),
        *([(f"of them not {left}", flow.matched)] if left else []),
        (f"labelled, {flow.groups} groups", flow.labelled),
    ]  # fmt: skip
    boxes = [_box(count, name) for name, count in steps]
    parts = [_box(part.rows, f"{name}, {part.groups} groups") for name, part in result.split.parts.items() if part.rows]
    left = (
        f"Left out: {flow.unlabelled} without a label, {flow.unassigned} without a split, "
        f"{flow.duplicates} duplicates of a later split."
    )
    drawn = "".join(f"<li>{box}</li>" for box in (*boxes, f"<div class='parts'>{''.join(parts)}</div>"))
    return f"<ol class='flow'>{drawn}</ol><p class='dim'>{left}</p>"


def _box(count: int, name: str) -> str:
    return f"<div><b>{count}</b><span>{escape(name)}</span></div>"


def _split(result: ProbeResult) -> str:
    """One column for each part of the split: their number does not grow with the classes."""
    parts = {name: part for name, part in result.split.parts.items() if part.rows}
    unit = "groups" if result.split.level == "image" else f"groups ({escape(result.request.group)})"
    rows = [["", *map(escape, parts)]]
    rows += [["rows", *(str(p.rows) for p in parts.values())], [unit, *(str(p.groups) for p in parts.values())]]
    named = [c.name for c in result.test.classes] or list(next(iter(parts.values())).classes)
    for name in named:
        rows.append([escape(name), *(str(part.classes.get(name, 0)) for part in parts.values())])
    counted = ", positive rows of each label" if result.request.multilabel else ", rows of each class"
    counted = counted if result.test.classes else ", events" if result.survival else ""
    positive = f"; {escape(positive_words(result))}" if result.positive else ""
    return html_table(rows, caption=f"Split ({escape(result.split.kind)}): rows, groups{counted}{positive}.")


def _audit(result: ProbeResult) -> str:
    audit = result.audit
    if audit is None:
        return "<p>Nothing was fitted on these images: no row can have leaked.</p>"
    alike = not result.request.multilabel and result.request.target == "classes"
    rows = [["cosine to the nearest fitted row of another group", "test rows", *(["same label"] if alike else [])]]
    for level in audit.levels:
        agreement = [number(level.label_agreement) if level.rows else "–"] if alike else []
        rows.append([f"≥ {level.cosine:g}", str(level.rows), *agreement])
    chance = f" By chance {number(audit.chance_agreement)} of them would have the same label." if alike else ""
    return (
        f"<p>{audit.flagged} of {audit.test_rows} test rows are {term('near_duplicates')}: they reach cosine "
        f"{audit.tau:g} to one of {audit.fitted_rows} fitted rows of another group.{chance}</p>"
        f"{html_table(rows, caption='Test rows by their highest cosine to a fitted row.')}"
    )


def _choice(result: ProbeResult) -> str:
    if result.folds and result.request.target != "classes":
        return (of_targets.sites if result.folds[0].site else of_targets.outer_folds)(result)
    if result.folds and result.folds[0].site:
        return _sites(result)
    if result.folds:
        chosen = "k" if result.request.probe == "knn" else "penalty"
        shown = ("auc_macro", "balanced_accuracy")
        rows = [["outer fold", "rows", chosen, *map(term, shown)]]
        rows += [
            [str(f.fold), str(f.rows), f"{f.penalty:.3g}", *(number(f.metrics.get(n)) for n in shown)]
            for f in result.folds
        ]
        return section("folds", "Outer folds", html_table(rows))
    selection, parts = result.selection, []
    if selection.candidates:
        mark = legend([(CHOSEN, f"chosen: {selection.parameter} = {selection.value:.3g}")])
        what = NAMES[inner_key(result)]
        caption = f"{what[:1].upper()}{what[1:]} ({selection.inner}). Chosen by inner rows, never by test rows."
        parts.append(figure(plots.penalty_sweep(selection, what), caption, mark))
    if result.neighbours:
        rows = [["k", term("inner_auc"), f"test {term('auc_macro')}", f"test {term('balanced_accuracy')}"]]
        rows += [
            [str(n.k), *map(number, (n.val_auc_macro, n.auc_macro, n.balanced_accuracy))] for n in result.neighbours
        ]
        parts.append(html_table(rows, caption="Each number of neighbours."))
    return section("choice", f"How {selection.parameter} was chosen", *parts)


def _sites(result: ProbeResult) -> str:
    """Each left-out site: its own patients, so that its AUC has an interval (D25)."""
    drawn = scale([f.auc for f in result.folds], 0.5)
    head = [result.request.left_out or "site", "rows", "groups", f"{term('auc_macro')} ({term('interval')})"]
    rows = [[escape(head[0]), *head[1:], drawn.head(NAMES["interval"]), term("balanced_accuracy")]]
    rows += [
        [escape(f.site), str(f.rows), str(f.groups), cell(f.auc), drawn.bar(f.auc),
         number(f.metrics.get("balanced_accuracy"))]
        for f in result.folds
    ]  # fmt: skip
    caption = "Each site scored by a probe that was fitted, and whose penalty was chosen, on the other sites alone."
    return section("folds", "Each site left out", html_table(rows, "below", caption))


def _few_shot(result: ProbeResult) -> str:
    if result.few_shot is None:
        return ""
    named = units(result.request.group)
    counted = f"{named} a class"
    whole = result.few_shot.points[-1]
    rows = [[escape(counted), f"{term('few_shot', 'test AUC')}, mean ± SD", "draws"]]
    for p in result.few_shot.points:
        size = str(p.patients_per_class) if p.draws > 1 else f"all (at most {p.patients_per_class})"
        spread = f" <span class='ci'>± {number(p.auc_sd)}</span>" if p.draws > 1 else ""
        rows.append([escape(size), f"<b>{number(p.auc_mean)}</b>{spread}", str(p.draws)])
    caption = (
        f"Test {NAMES['auc_macro']} by the number of {counted}, band: ± SD of the draws. "
        f"{result.few_shot.penalty_rule}. Mean AUC over log₂ {named}: {number(result.few_shot.area)}."
    )
    mark = legend([(CHOSEN, f"all of train: {number(whole.auc_mean)}")])
    drawn = figure(plots.label_efficiency(result.few_shot, counted), caption, mark)
    return section("few-shot", "Label efficiency", drawn, html_table(rows, caption="The same in numbers."))
