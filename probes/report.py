"""D17: a result as one self-contained HTML page: first what qualifies the numbers, then the numbers, then limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from probes import plots
from probes.checklist import items
from probes.intervals import Interval
from probes.records import ProbeResult, Scored
from probes.text import NAMES, number

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1d2730; background: #f6f7f8; margin: 0 }
main { max-width: 1020px; margin: 0 auto; padding: 24px }
h1 { font-size: 24px; margin: 0 0 4px } h2 { font-size: 18px; margin: 36px 0 8px }
p.warning { background: #fff4d6; border-left: 4px solid #d99a00; padding: 6px 12px; margin: 6px 0 }
p.level { background: #e3f1e7; border-left: 4px solid #1b7f3b; padding: 6px 12px }
table { border-collapse: collapse; background: #fff; margin: 8px 0; font-variant-numeric: tabular-nums }
th, td { padding: 4px 12px; border-bottom: 1px solid #e3e6e9; text-align: right; white-space: nowrap }
th { font-weight: 600; background: #eef1f3 } th:first-child, td:first-child { text-align: left }
table.words td { text-align: left; white-space: normal; vertical-align: top }
.wide { overflow-x: auto } .plots { display: flex; flex-wrap: wrap; gap: 16px }
figure { display: inline-block; margin: 8px 0; background: #fff; padding: 8px; border-radius: 6px }
figcaption { font-size: 13px; color: #44505a } svg { max-width: 100%; height: auto }
.flow { display: flex; flex-wrap: wrap; align-items: center; gap: 6px; margin: 12px 0 }
.flow div { background: #fff; border: 1px solid #d5dade; border-radius: 6px; padding: 6px 12px; text-align: center }
.flow b { display: block; font-size: 18px } .flow span { color: #65717b; font-size: 13px }
.ci { color: #44505a } .dim { color: #65717b } footer { margin-top: 40px; color: #65717b; font-size: 13px }
"""
LIMITS = (
    "The numbers hold for these images, labels and groups; another site's may differ; no external data were scored.",
    "The encoder was not trained here; what it saw may overlap with these images.",
    "Percentile intervals cover the sampling of groups, not the choice of labels, readers or the site.",
    "A perfect score has no spread under resampling: its interval of zero width is no certainty.",
)


def report_html(result: ProbeResult) -> str:
    """The whole page; it loads nothing."""
    what = ", ".join(result.request.labels)
    parts = [
        f"<h1>{escape(result.request.probe)} probe: {escape(what)}</h1>",
        f"<p class='dim'>{escape(result.source.encoder)} · table {escape(result.source.table)}, version "
        f"{result.source.version} · fingerprint {result.source.fingerprint} · weights' licence "
        f"{escape(result.source.licence)}</p>",
        _level(result),
        *(f"<p class='warning'>{escape(w)}</p>" for w in result.warnings if w != result.split.statement),
        "<h2>Where the rows come from</h2>", _flow(result), _split(result),
        _audit(result),
        "<h2>Results on rows that chose nothing</h2>", _metrics(result), _classes(result.test),
        _curves(result), _confusion(result), _calibration(result), _operating(result), _subgroups(result),
        _choice(result), _few_shot(result),
        "<h2>Limits</h2><ul>", *(f"<li>{escape(line)}</li>" for line in LIMITS), "</ul>",
        "<h2>Reporting items (CLAIM, TRIPOD+AI)</h2>", _items(result),
        "<footer><b>Not for clinical use.</b> Research use only. Made from the stored vectors; seed "
        f"{result.request.seed}; {escape(', '.join(f'{k} {v}' for k, v in result.packages.items()))}.</footer>",
    ]  # fmt: skip
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>Probe: {escape(what)}</title>"
    return f"{head}<style>{STYLE}</style><main>{''.join(parts)}</main></html>"


def html_table(rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """Rows of ready HTML cells, the first one the header."""
    header, *body = [list(row) for row in rows]
    top = "".join(f"<th>{cell}</th>" for cell in header)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in body)
    return f"<div class='wide'><table class='{kind}'><tr>{top}</tr>{lines}</table></div>"


def cell(value: Interval | None) -> str:
    """Value and interval."""
    if value is None:
        return "–"
    if value.low != value.low:
        return number(value.value)
    doubt = "" if value.reliable else " unreliable"
    return f"<b>{number(value.value)}</b> <span class='ci'>({number(value.low)} to {number(value.high)}{doubt})</span>"


def figure(drawn: str, caption: str) -> str:
    return f"<figure>{drawn}<figcaption>{escape(caption)}</figcaption></figure>"


def _level(result: ProbeResult) -> str:
    kind = "warning" if result.split.level == "image" else "level"
    return f"<p class='{kind}'>{escape(result.split.statement)}</p>"


def _flow(result: ProbeResult) -> str:
    flow = result.flow
    steps = [
        (f"images read, {flow.failed} failed", flow.embedded + flow.failed), ("embedded", flow.embedded),
        *([("matched by --where", flow.matched)] if result.request.where else []), ("labelled", flow.labelled),
        *((f"{name}, {part.groups} groups", part.rows) for name, part in result.split.parts.items() if part.rows),
    ]  # fmt: skip
    boxes = [f"<div><b>{count}</b><span>{escape(name)}</span></div>" for name, count in steps]
    left = (
        f"left out: {flow.unlabelled} without a label, {flow.unassigned} without a split, "
        f"{flow.duplicates} duplicates of a later split"
    )
    return f"<div class='flow'>{' → '.join(boxes)}</div><p class='dim'>{left}</p>"


def _split(result: ProbeResult) -> str:
    names = [c.name for c in result.test.classes]
    rows = [[f"split {escape(result.split.kind)}", "rows", "groups", *map(escape, names)]]
    for name, part in result.split.parts.items():
        if part.rows:
            rows.append([name, str(part.rows), str(part.groups), *(str(part.classes.get(n, 0)) for n in names)])
    return html_table(rows)


def _audit(result: ProbeResult) -> str:
    audit = result.audit
    if audit is None:
        return ""
    rows = [["cosine to the nearest fitted row of another group", "test rows", "same label"]]
    rows += [
        [f"≥ {level.cosine:g}", str(level.rows), number(level.label_agreement) if level.rows else "–"]
        for level in audit.levels
    ]
    return (
        f"<h2>Leakage audit</h2><p>{audit.flagged} of {audit.test_rows} test rows reach cosine {audit.tau:g}. "
        f"Labels agree by chance in {number(audit.chance_agreement)}.</p>{html_table(rows)}"
    )


def _metrics(result: ProbeResult) -> str:
    extra: list[tuple[str, Scored]] = []
    if result.without_duplicates:
        extra.append((f"without near-duplicates ({result.without_duplicates.rows} rows)", result.without_duplicates))
    if result.patients:
        extra.append((f"by {result.request.group} ({result.patients.rows})", result.patients))
    spread = "mean ± SD of the folds" if result.folds else "95 % interval"
    rows = [["", f"value ({spread})", *result.baselines, *(escape(name) for name, _ in extra)]]
    for name, value in result.test.metrics.items():
        base = [number(b[name]) if name in b else "" for b in result.baselines.values()]
        rows.append([NAMES[name], cell(value), *base, *(cell(s.metrics[name]) for _, s in extra)])
    notes = list(result.test.notes)
    if result.shuffled_auc is not None:
        notes.append(f"the same probe fitted on shuffled labels: AUC {number(result.shuffled_auc)} (chance 0.500)")
    return html_table(rows) + "".join(f"<p class='dim'>{escape(note)}</p>" for note in notes)


def _classes(scored: Scored) -> str:
    rows = [["class", "positives", "prevalence", "AUC", "average precision", "AUC, DeLong interval"]]
    for c in scored.classes:
        delong = "–" if c.delong is None else f"{number(c.delong[0])} to {number(c.delong[1])}"
        rows.append(
            [escape(c.name), f"{c.positives} of {c.rows}", number(c.prevalence), cell(c.auc), cell(c.ap), delong]
        )
    named = f"<p>In no mean, as undefined: {escape(', '.join(scored.excluded))}</p>" if scored.excluded else ""
    return html_table(rows) + named


def _curves(result: ProbeResult) -> str:
    if not result.curves:
        return ""
    shown = result.curves[: plots.MOST_CURVES]
    rest = f" First {len(shown)} of {len(result.curves)} classes." if len(result.curves) > len(shown) else ""
    return (
        "<h2>Curves</h2><div class='plots'>"
        + figure(plots.roc(shown, result.test.classes), f"ROC, each class against the rest.{rest}")
        + figure(plots.precision_recall(shown, result.test.classes), f"Precision and recall; dotted: prevalence.{rest}")
        + "</div>"
    )


def _confusion(result: ProbeResult) -> str:
    if not result.confusion or len(result.confusion) > plots.MOST_CELLS:
        return ""
    names = [c.name for c in result.test.classes]
    drawn = plots.confusion_matrix(result.confusion, names)
    return f"<h2>Confusion matrix</h2>{figure(drawn, 'Rows of the test split; shade: share of the true class.')}"


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
    names = list(first.rates)
    rows = [["positive", "threshold", *(NAMES[n] for n in names)]]
    rows += [[escape(o.column), number(o.threshold, 4), *(cell(o.rates[n]) for n in names)] for o in result.operating]
    text = f"Thresholds chosen on held-out fitted rows for specificity ≥ {first.target_specificity:g}, then frozen."
    if first.prevalence is not None:
        ppv = ", ".join(f"{escape(o.column)} {cell(o.ppv_at_prevalence)}" for o in result.operating)
        text += f" PPV at a prevalence of {first.prevalence:g}: {ppv}."
    return f"<h2>Operating points</h2><p>{text}</p>{html_table(rows)}"


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
        figure(plots.subgroups(result.subgroups), "AUC by subgroup.") if any(s.auc for s in result.subgroups) else ""
    )
    return f"<h2>Subgroups</h2>{html_table(rows)}<ul>{gaps}</ul>{drawn}"


def _choice(result: ProbeResult) -> str:
    if result.folds:
        rows = [["outer fold", "rows", "penalty", "AUC", "balanced accuracy"]]
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
    caption = f"{result.few_shot.penalty_rule}. Mean AUC over log₂ patients: {number(result.few_shot.area)}."
    return f"<h2>Label efficiency</h2>{figure(plots.label_efficiency(result.few_shot), caption)}"


def _items(result: ProbeResult) -> str:
    rows = [["list", "item", "topic", "what this result says"]]
    rows += [[i.checklist, i.number, escape(i.topic), escape(i.answer)] for i in items(result)]
    return f"<details><summary>Show all</summary>{html_table(rows, 'words')}</details>"
