"""D17: renders a result as one self-contained HTML page: warnings and split, then metrics, then limitations."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from indexer.design.page import whole_page
from probes.cohort.experiment import SHUFFLES
from probes.cohort.splits import units
from probes.evaluation.bootstrap import Interval
from probes.evaluation.scoring import Scored
from probes.reporting import plots
from probes.reporting.caveats import limits
from probes.reporting.checklist import items
from probes.reporting.page import cell, figure, html_table, spread_cell
from probes.reporting.text import NAMES, metric_name, number, plus_minus, positive_words, with_interval
from probes.runs.result import ProbeResult


def report_html(result: ProbeResult) -> str:
    """The whole page, which loads no other files."""
    what = ", ".join(result.request.labels)
    parts = [
        _level(result) if result.split.level == "image" else "",  # D0: the first line of the report
        f"<h1>{escape(result.request.probe)} probe: {escape(what)}</h1>",
        f"<p class='dim'>{escape(result.source.encoder)} · table {escape(result.source.table)}, version "
        f"{result.source.version} · fingerprint {result.source.fingerprint} · weights' licence "
        f"{escape(result.source.licence)}</p>",
        _level(result) if result.split.level != "image" else "",
        *(f"<p class='warning'>{escape(w)}</p>" for w in result.warnings if w != result.split.statement),
        "<h2>Where the rows come from</h2>", _flow(result), _split(result),
        _audit(result),
        "<h2>Results on rows that chose nothing</h2>", _metrics(result), _classes(result),
        _curves(result), _confusion(result), _calibration(result), _operating(result), _subgroups(result),
        _choice(result), _few_shot(result),
        "<h2>Limits</h2><ul>", *(f"<li>{escape(line)}</li>" for line in limits(result)), "</ul>",
        "<h2>Reporting items (CLAIM, TRIPOD+AI)</h2>", _items(result),
        "<footer><b>Not for clinical use.</b> Research use only. Made from the stored vectors; seed "
        f"{result.request.seed}; {escape(', '.join(f'{k} {v}' for k, v in result.packages.items()))}.</footer>",
    ]  # fmt: skip
    return whole_page(f"Probe: {what}", parts)


def _level(result: ProbeResult) -> str:
    kind = "warning" if result.split.level == "image" else "level"
    return f"<p class='{kind}'>{escape(result.split.statement)}</p>"


def _flow(result: ProbeResult) -> str:
    flow = result.flow
    steps = [
        ("images read", flow.embedded + flow.failed), (f"decoded and embedded, {flow.failed} failed", flow.embedded),
        *([("matched by --where", flow.matched)] if result.request.where else []),
        (f"labelled, {flow.groups} groups", flow.labelled),
    ]  # fmt: skip
    boxes = [_box(count, name) for name, count in steps]
    parts = [_box(part.rows, f"{name}, {part.groups} groups") for name, part in result.split.parts.items() if part.rows]
    left = (
        f"left out: {flow.unlabelled} without a label, {flow.unassigned} without a split, "
        f"{flow.duplicates} duplicates of a later split"
    )
    drawn = " → ".join([*boxes, f"<div class='parts'>{''.join(parts)}</div>"])
    return f"<div class='flow'>{drawn}</div><p class='dim'>{left}</p>"


def _box(count: int, name: str) -> str:
    return f"<div><b>{count}</b><span>{escape(name)}</span></div>"


def _split(result: ProbeResult) -> str:
    names = [c.name for c in result.test.classes]
    unit = "groups" if result.split.level == "image" else f"groups ({escape(result.request.group)})"
    rows = [[f"split: {escape(result.split.kind)}", "rows", unit, *map(escape, names)]]
    for name, part in result.split.parts.items():
        if part.rows:
            rows.append([name, str(part.rows), str(part.groups), *(str(part.classes.get(n, 0)) for n in names)])
    counted = "positives of each label" if result.request.multilabel else "rows of each class"
    positive = f" {escape(positive_words(result))}." if result.positive else ""
    return html_table(rows) + f"<p class='dim'>Right of the groups: {counted}.{positive}</p>"


def _audit(result: ProbeResult) -> str:
    audit = result.audit
    if audit is None:
        return "<h2>Leakage audit</h2><p>Nothing was fitted on these images: no row can have leaked.</p>"
    alike = not result.request.multilabel
    rows = [["cosine to the nearest fitted row of another group", "test rows", *(["same label"] if alike else [])]]
    for level in audit.levels:
        agreement = [number(level.label_agreement) if level.rows else "–"] if alike else []
        rows.append([f"≥ {level.cosine:g}", str(level.rows), *agreement])
    chance = f" By chance {number(audit.chance_agreement)} of them would have the same label." if alike else ""
    return (
        f"<h2>Leakage audit</h2><p>{audit.flagged} of {audit.test_rows} test rows reach cosine {audit.tau:g} to one of "
        f"{audit.fitted_rows} fitted rows.{chance}</p>{html_table(rows)}"
    )


def _metrics(result: ProbeResult) -> str:
    extra: list[tuple[str, Scored]] = []
    if result.without_duplicates:
        extra.append((f"without near-duplicates ({result.without_duplicates.rows} rows)", result.without_duplicates))
    if result.patients:
        extra.append((f"by {result.request.group}, n = {result.patients.rows}", result.patients))
    show = spread_cell if result.folds else cell
    head = "mean ± SD of the folds" if result.folds else "value (95 % interval)"
    rows = [["", head, *result.baselines, *(escape(name) for name, _ in extra)]]
    for name, value in result.test.metrics.items():
        base = [number(b[name]) if name in b else "" for b in result.baselines.values()]
        rows.append([metric_name(name, result), show(value), *base, *(show(s.metrics[name]) for _, s in extra)])
    notes, words = list(result.test.notes), plus_minus if result.folds else with_interval
    if result.shuffled_auc is not None:
        notes.append(
            f"the same probe on labels shuffled {SHUFFLES} times: AUC {words(result.shuffled_auc)}; chance is 0.500"
        )
    return html_table(rows) + "".join(f"<p class='dim'>{escape(note)}</p>" for note in notes)


def _classes(result: ProbeResult) -> str:
    show = spread_cell if result.folds else cell
    scored = result.test
    named = f"<p>In no mean, as undefined: {escape(', '.join(scored.excluded))}</p>" if scored.excluded else ""
    out = _class_table(scored, show, "class") + named
    if result.patients and result.patients.classes:
        notes = "; ".join(n for n in result.patients.notes)
        out += f"<p class='dim'>One score a {escape(result.request.group)}: {escape(notes)}.</p>"
        out += _class_table(result.patients, show, f"class, by {result.request.group}")
    return out


def _class_table(scored: Scored, show: Callable[[Interval | None], str], title: str) -> str:
    exact = any(_delong(c.delong) != "–" for c in scored.classes)
    rows = [
        [
            escape(title),
            "positives",
            "prevalence",
            "AUC",
            *(["AUC, DeLong interval"] if exact else []),
            "average precision",
        ]
    ]
    for c in scored.classes:
        own = [_delong(c.delong)] if exact else []
        rows.append([escape(c.name), f"{c.positives} of {c.rows}", number(c.prevalence), show(c.auc), *own, show(c.ap)])
    return html_table(rows)


def _delong(found: tuple[float, float] | None) -> str:
    """D10's interval as text; undefined at an AUC of 0 or 1 and with fewer than two rows on a side."""
    return "–" if found is None or found[0] != found[0] else f"{number(found[0])} to {number(found[1])}"


def _curves(result: ProbeResult) -> str:
    if not result.curves:
        return ""
    two = len(result.test.classes) == 2 and not result.request.multilabel
    shown = result.curves[-1:] if two else result.curves[: plots.MOST_CURVES]  # of two classes one is redundant
    rest = (
        f" First {len(shown)} of {len(result.curves)} classes." if len(result.curves) > len(shown) and not two else ""
    )
    what = f"{shown[0].name} against {result.test.classes[0].name}" if two else "each against the rest"
    marks = " Dots: the operating points below." if result.operating else ""
    roc = plots.roc(shown, result.test.classes, result.operating)
    return (
        "<h2>Curves</h2><div class='plots'>"
        + figure(roc, f"ROC, {what}.{marks}{rest}")
        + figure(plots.precision_recall(shown, result.test.classes), f"Precision and recall; dotted: prevalence.{rest}")
        + "</div>"
    )


def _confusion(result: ProbeResult) -> str:
    if not result.confusion or len(result.confusion) > plots.MOST_CELLS:
        return ""
    names = [c.name for c in result.test.classes]
    drawn = plots.confusion_matrix(result.confusion, names)
    return (
        f"<h2>Confusion matrix</h2>{figure(drawn, 'Counts of test rows; shade and per cent: share of the true class.')}"
    )


def _calibration(result: ProbeResult) -> str:
    if not result.calibration:
        return ""
    rows = [["", "ECE", "adaptive", "class-wise", "log-loss", "Brier"]]
    for name, c in result.calibration.items():
        label = f"{name} temperature" + (f" {result.temperature:.3g}" if name == "after" else "")
        rows.append([label, *map(number, (c.ece, c.ece_adaptive, c.ece_classwise, c.log_loss, c.brier))])
    caption = "Temperature fitted on held-out fitted rows, never on test. Larger marks: more rows."
    return f"<h2>Calibration</h2>{html_table(rows)}{figure(plots.reliability(result), caption)}"


def _operating(result: ProbeResult) -> str:
    if not result.operating:
        return ""
    first = result.operating[0]
    header = ["threshold", *(NAMES[name] for name in first.rates)]
    header += [] if first.prevalence is None else [f"PPV at prevalence {first.prevalence:g}"]
    columns = [[number(o.threshold, 4), *map(cell, o.rates.values())] for o in result.operating]
    for o, column in zip(result.operating, columns, strict=True):
        column += [] if o.prevalence is None else [cell(o.ppv_at_prevalence)]
    named = [escape(o.column) for o in result.operating]
    if len(columns) == 1:
        table = html_table([["positive", *named], *zip(header, columns[0], strict=True)])
    else:
        table = html_table([["positive", *header], *([n, *c] for n, c in zip(named, columns, strict=True))], "below")
    text = (
        f"Thresholds chosen on held-out fitted rows for specificity ≥ {first.target_specificity:g}, then frozen; "
        "rates on the test rows with 95 % intervals."
    )
    return f"<h2>Operating points</h2><p>{text}</p>{table}"


def _subgroups(result: ProbeResult) -> str:
    if not result.subgroups:
        return ""
    positives = "positives" if len(result.test.classes) == 2 else "of the rarest class"
    rows = [["subgroup", "rows", positives, "AUC", "sensitivity", "specificity"]]
    for s in result.subgroups:
        numbers = [escape(s.note), "", ""] if s.note else [cell(v) for v in (s.auc, s.sensitivity, s.specificity)]
        rows.append([escape(f"{s.column} = {s.value}"), str(s.rows), str(s.positives), *numbers])
    gaps = "".join(
        f"<li>{NAMES.get(g.metric, 'AUC')} by {escape(g.column)}: gap {number(g.gap)}, worst in {escape(g.worst)}</li>"
        for g in result.gaps
    )
    drawn = (
        figure(plots.subgroups(result), "AUC by subgroup, 95 % intervals; dashed: all test rows.")
        if any(s.auc for s in result.subgroups)
        else ""
    )
    return f"<h2>Subgroups</h2>{html_table(rows)}<ul>{gaps}</ul>{drawn}"


def _choice(result: ProbeResult) -> str:
    if result.folds:
        chosen = "k" if result.request.probe == "knn" else "penalty"
        rows = [["outer fold", "rows", chosen, NAMES["auc_macro"], NAMES["balanced_accuracy"]]]
        for f in result.folds:
            numbers = [number(f.metrics.get(n)) for n in ("auc_macro", "balanced_accuracy")]
            rows.append([str(f.fold), str(f.rows), f"{f.penalty:.3g}", *numbers])
        return f"<h2>Outer folds</h2>{html_table(rows)}"
    parts = []
    if result.selection.candidates:
        parts.append(figure(plots.penalty_sweep(result.selection), "Chosen by inner rows, never by test rows."))
    if result.neighbours:
        rows = [["k", "inner AUC", "test AUC", "test balanced accuracy"]]
        rows += [
            [str(n.k), *map(number, (n.val_auc_macro, n.auc_macro, n.balanced_accuracy))] for n in result.neighbours
        ]
        parts.append(html_table(rows))
    return f"<h2>How {escape(result.selection.parameter)} was chosen</h2>{''.join(parts)}" if parts else ""


def _few_shot(result: ProbeResult) -> str:
    if result.few_shot is None:
        return ""
    named = units(result.request.group)
    caption = f"{result.few_shot.penalty_rule}. Mean AUC over log₂ {named}: {number(result.few_shot.area)}."
    return f"<h2>Label efficiency</h2>{figure(plots.label_efficiency(result.few_shot, named), escape(caption))}"


def _items(result: ProbeResult) -> str:
    rows = [["list", "item", "topic", "what this result says"]]
    rows += [[i.checklist, i.number, escape(i.topic), escape(i.answer)] for i in items(result)]
    return f"<details><summary>Show all</summary>{html_table(rows, 'words')}</details>"
