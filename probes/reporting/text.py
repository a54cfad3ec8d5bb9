"""Renders a result as plain text: the split, the audit, then metrics beside their baselines."""

from __future__ import annotations

from probes.cohort.experiment import SHUFFLES
from probes.cohort.splits import units
from probes.fitting.sweep import UNCHOSEN
from probes.reporting.review.text import text_of
from probes.reporting.tabular import table
from probes.reporting.targets.text import folds_text, numbers_text, survival_text
from probes.reporting.words import (
    NAMES,
    VALUE,
    by_group_words,
    calibration_numbers,
    held,
    inner_key,
    metric_name,
    note_words,
    number,
    plus_minus,
    quantity,
    rate,
    shown_as,
    with_interval,
)
from probes.request import ProbeRequest
from probes.runs.result import ProbeResult

SHOWN_CLASSES = 40


def result_text(result: ProbeResult) -> str:
    """The whole result; warnings come before the numbers they qualify."""
    parts = [
        [result.split.statement],
        [f"warning: {text}" for text in result.warnings if text != result.split.statement],
        _split(result),
        _audit(result),
        _choice(result),
        _metrics(result),
        _classes(result),
        _folds(result),
        _neighbours(result),
        _operating(result),
        _subgroups(result),
        _calibration(result),
        _few_shot(result),
        numbers_text(result.numbers, result) if result.numbers else [],
        survival_text(result.survival, result) if result.survival else [],
        text_of(result, result.review) if result.review else [],
        _foot(result),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def unmatched_words(request: ProbeRequest) -> str:
    """Why rows of the table are in no part of the split."""
    kept = request.own_where != request.where
    reasons = (("not matched by --where", request.where is not None), ("kept for the external test", kept))
    return " or ".join(words for words, holds in reasons if holds)


def _split(result: ProbeResult) -> list[str]:
    flow, source = result.flow, result.source
    left_out = [
        f"{count} {what}"
        for count, what in (
            (flow.embedded - flow.matched, unmatched_words(result.request)),
            (flow.unlabelled, "without a label"),
            (flow.unassigned, "without a split"),
            (flow.duplicates, "duplicates of a later split"),
        )
        if count
    ]
    lines = [
        f"{', '.join(result.request.labels)} from table {source.table}, version {source.version} "
        f"({source.encoder}, {source.dim} numbers an image)",
        f"{flow.embedded} images embedded, {flow.failed} failed; left out: {', '.join(left_out) or 'none'}",
    ]
    if result.positive is not None:
        lines.append(positive_words(result))
    counted = "rows of each class" if result.request.target == "classes" else "rows without and with the event"
    rows = [["split " + result.split.kind, "rows", "groups", counted]]
    rows += [
        [name, str(part.rows), str(part.groups), _counts(part.classes)]
        for name, part in result.split.parts.items()
        if part.rows
    ]
    if result.request.target == "numeric":
        rows = [row[:3] for row in rows]
    return lines + table(rows)


REASONS = {"asked": "as asked", "absence": "the other is a word for absence", "order": "the last of the two by name"}


def positive_words(result: ProbeResult) -> str:
    """The positive class of two, and the reason."""
    assert result.positive is not None
    return f"positive class: {result.positive.name} ({REASONS[result.positive.reason]})"


def _counts(classes: dict[str, int]) -> str:
    shown = [f"{name} {count}" for name, count in list(classes.items())[:8]]
    return ", ".join(shown) + (f", and {len(classes) - 8} classes more" if len(classes) > 8 else "")


def _audit(result: ProbeResult) -> list[str]:
    audit = result.audit
    if audit is None:
        return []
    counts = ", ".join(f"≥ {level.cosine:g}: {level.rows}" for level in audit.levels)
    lines = [
        f"near-duplicate audit: {audit.flagged} of {audit.test_rows} test rows reach cosine {audit.tau:g} "
        "to a fitted row of another group",
        f"  {counts}",
    ]
    hit = next((level for level in audit.levels if level.cosine == audit.tau and level.rows), None)
    if hit is not None and not result.request.multilabel and result.request.target == "classes":
        agreement = number(hit.label_agreement)
        lines.append(f"  same label in {agreement} of them (by chance {number(audit.chance_agreement)})")
    return lines


def _choice(result: ProbeResult) -> list[str]:
    selection = result.selection
    if selection.parameter == "none":
        return []
    how = selection.inner if selection.inner in ("fixed", UNCHOSEN) else f"chosen on {selection.inner}"
    best = [c for c in selection.candidates if c.value == selection.value]
    found = [number(c.auc) if result.request.target == "classes" else quantity(c.error) for c in best]
    inner = f", {NAMES[inner_key(result)]} {found[0]}" if found else ""
    return [
        f"{result.request.probe} probe, {selection.parameter} = {selection.value:.4g} ({how}{inner}), "
        f"scaling {result.request.scaling}"
    ]


def _metrics(result: ProbeResult) -> list[str]:
    header = ["on the held-out rows", "mean ± SD of the folds"] if result.folds else ["on the test rows", VALUE]
    show = plus_minus if result.folds else with_interval
    less, patients = result.without_duplicates, result.patients
    sets = [(f"without near-duplicates, {less.rows} rows", less)] if less else []
    sets += [(by_group_words(patients, result), patients)] if patients else []
    quotes = [] if result.folds else [NAMES["simulated_coverage"]]
    header += [*quotes, *result.baselines, *(name for name, _ in sets)]
    rows = [header]
    for name, value in result.test.metrics.items():
        base = [shown_as(name)(b[name]) if name in b else "" for b in result.baselines.values()]
        own = [held(value, result.test.groups) for _ in quotes]
        shown = [show(each, shown_as(name))
                 for each in (value, *(scored.metrics[name] for _, scored in sets))]  # fmt: skip
        rows.append([metric_name(name, result), shown[0], *own, *base, *shown[1:]])
    lines = table(rows)
    if result.shuffled_auc is not None:
        lines.append(
            f"  the same probe on labels shuffled {SHUFFLES} times: AUC {show(result.shuffled_auc)}; chance is 0.500"
        )
    pooled = note_words(patients) if patients else []
    notes = [*note_words(result.test), *(f"by {result.request.group}: {note}" for note in pooled)]
    return lines + [f"  note: {note}" for note in notes]


def _classes(result: ProbeResult) -> list[str]:
    scored, show = result.test, plus_minus if result.folds else with_interval
    if not scored.classes:
        return []
    rows = [["class", "positives", "prevalence", "AUC", "average precision"]]
    rows += [
        [c.name, f"{c.positives} of {c.rows}", number(c.prevalence), show(c.auc), show(c.ap)]
        for c in scored.classes[:SHOWN_CLASSES]
    ]
    lines = table(rows)
    if len(scored.classes) > SHOWN_CLASSES:
        lines.append(f"  … and {len(scored.classes) - SHOWN_CLASSES} more (--json has all)")
    if scored.excluded:
        lines.append(f"  in no mean, as undefined: {', '.join(scored.excluded)}")
    return lines


def _folds(result: ProbeResult) -> list[str]:
    if not result.folds:
        return []
    if result.request.target != "classes":
        return folds_text(result)
    if result.folds[0].site:
        head = [result.request.left_out or "site", "rows", "groups", f"{NAMES['auc_macro']} (95 % interval)"]
        return table([head, *([f.site, str(f.rows), str(f.groups), with_interval(f.auc)] for f in result.folds)])
    chosen = "k" if result.request.probe == "knn" else "penalty"
    rows = [["outer fold", "rows", chosen, NAMES["auc_macro"], NAMES["balanced_accuracy"]]]
    for f in result.folds:
        numbers = [number(f.metrics[name]) for name in ("auc_macro", "balanced_accuracy")]
        rows.append([str(f.fold), str(f.rows), f"{f.penalty:.4g}", *numbers])
    return table(rows)


def _neighbours(result: ProbeResult) -> list[str]:
    if not result.neighbours:
        return []
    rows = [["k", "inner AUC", "test AUC", "test balanced accuracy"]]
    rows += [
        [str(n.k), number(n.val_auc_macro), number(n.auc_macro), number(n.balanced_accuracy)] for n in result.neighbours
    ]
    return table(rows)


def _operating(result: ProbeResult) -> list[str]:
    if len(result.operating) != 1:
        return _operating_table(result)
    point = result.operating[0]
    lines = [
        f"operating point for {point.column}: threshold {number(point.threshold, 4)}, chosen on held-out fitted rows "
        f"for specificity ≥ {point.target_specificity:g}",
        *table(
            (NAMES[name], rate(name, point.rates, with_interval), held(point.rates[name], result.test.groups))
            for name in point.rates
        ),
    ]
    if point.prevalence is not None:
        lines.append(f"  PPV at a prevalence of {point.prevalence:g}: {with_interval(point.ppv_at_prevalence)}")
    return lines


def _operating_table(result: ProbeResult) -> list[str]:
    if not result.operating:
        return []
    first = result.operating[0]
    rows = [["one against the rest", "threshold", "sensitivity", "specificity", "PPV"]]
    rows += [
        [
            o.column,
            number(o.threshold, 4),
            *(rate(r, o.rates, with_interval) for r in ("sensitivity", "specificity", "ppv")),
        ]
        for o in result.operating[:SHOWN_CLASSES]
    ]
    title = f"operating points for specificity ≥ {first.target_specificity:g}, thresholds from held-out fitted rows"
    return [title, *table(rows)]


def _subgroups(result: ProbeResult) -> list[str]:
    if not result.subgroups:
        return []
    positives = "positives" if len(result.test.classes) == 2 else "of the rarest class"
    rows = [["subgroup", "rows", positives, "AUC", "sensitivity", "specificity"]]
    for s in result.subgroups:
        numbers = [s.note, "", ""] if s.note else [with_interval(v) for v in (s.auc, s.sensitivity, s.specificity)]
        rows.append([f"{s.column} = {s.value}", str(s.rows), str(s.positives), *numbers])
    lines = table(rows)
    for gap in result.gaps:
        size = number(gap.gap) if gap.difference is None else with_interval(gap.difference)
        lines.append(f"  largest gap in {NAMES[gap.metric]} by {gap.column}: {size}, worst in {gap.worst}")
    return lines


def _calibration(result: ProbeResult) -> list[str]:
    if not result.calibration:
        return []
    rows = [["calibration", *(NAMES[key] for key in calibration_numbers(result.calibration["after"], result))]]
    for name, c in result.calibration.items():
        label = f"{name} temperature {result.temperature:.3g}" if name == "after" else f"{name} temperature"
        rows.append([label, *map(number, calibration_numbers(c, result).values())])
    return table(rows)


def _few_shot(result: ProbeResult) -> list[str]:
    if result.few_shot is None:
        return []
    named = units(result.request.group)
    rows = [[f"{named} a class", "test AUC, mean ± SD", "draws"]]
    for p in result.few_shot.points:
        size = str(p.patients_per_class) if p.draws > 1 else f"all (at most {p.patients_per_class})"
        spread = f" ± {number(p.auc_sd)}" if p.draws > 1 else ""
        rows.append([size, number(p.auc_mean) + spread, str(p.draws)])
    return [
        *table(rows),
        f"  {result.few_shot.penalty_rule}; mean AUC over log₂ {named} {number(result.few_shot.area)}",
    ]


def _foot(result: ProbeResult) -> list[str]:
    total = sum(result.seconds.values())
    return [f"{total:.1f} s; seed {result.request.seed}. Research use only, not for clinical use."]
