"""A report in short: each question that it answers, with the answer in a sentence."""

from __future__ import annotations

from html import escape

from probes.reporting.page import QUESTIONS, section
from probes.reporting.review.sentences import (
    confounder_sentence,
    decision_sentence,
    external_sentence,
    label_sets_sentence,
    sets_sentence,
    shift_sentence,
    spread_words,
)
from probes.reporting.targets import short as targets
from probes.reporting.targets.short import Answers
from probes.reporting.words import NAMES, headline, metric_key, number, plus_minus, shown_as, with_interval
from probes.runs.result import ProbeResult
from probes.runs.review.record import Review

MOST = 3  # classes or labels whose answers are given; the sections have all
HEADLINES = ("auc_macro", "balanced_accuracy")


def in_short(result: ProbeResult) -> str:
    """The first section of a report, which printed is one page."""
    said: dict[str, list[str]] = {}
    for name, sentences in _answers(result):
        said.setdefault(name, []).extend(sentences)
    lines = "".join(
        f"<dt><a href='#{name}'>{QUESTIONS[name]}</a></dt><dd>{escape(' '.join(sentences))}</dd>"
        for name, sentences in said.items()
        if sentences
    )
    use = "<p class='dim'>Research use only, not for clinical use.</p>"
    return section("short", "In short", f"<dl class='terms'>{lines}</dl>{use}")


def _answers(result: ProbeResult) -> Answers:
    classes = result.request.target == "classes"
    spread = ", mean ± SD of the folds" if result.folds else ""
    on = f"on {result.test.rows} test rows of {result.test.groups} groups"
    yield "results", [f"{_headline(result) if classes else targets.headline(result)}{spread}, {on}."]
    if result.audit is not None:
        yield (
            "audit",
            [
                f"{result.audit.flagged} of {result.audit.test_rows} test rows have a near copy (cosine ≥ "
                f"{result.audit.tau:g}) among the fitted rows of other groups."
            ],
        )
    yield from _of_classes(result) if classes else targets.own_answers(result)
    if result.review is not None:
        yield from _reviewed(result, result.review)


def _headline(result: ProbeResult) -> str:
    show = plus_minus if result.folds else with_interval
    return ", ".join(f"{NAMES[metric_key(n, result)]} {_tight(show(result.test.metrics[n]))}" for n in HEADLINES)


def _of_classes(result: ProbeResult) -> Answers:
    if len(result.operating) == 1:
        point = result.operating[0]
        rates = (f"{NAMES[name]} {_tight(with_interval(point.rates[name]))}" for name in ("sensitivity", "specificity"))
        yield "operating", [f"{point.column} at p ≥ {number(point.threshold)}: {', '.join(rates)}."]
    if result.gaps:
        worst = max(result.gaps, key=lambda gap: gap.gap)
        yield "subgroups", [f"The largest gap is {number(worst.gap)}, in {NAMES[worst.metric]} by {worst.column}; the "
                            f"lowest value is of {worst.worst}."]  # fmt: skip


def _reviewed(result: ProbeResult, review: Review) -> Answers:
    classes = result.request.target == "classes"
    if review.external is not None:
        shift = review.external.shift
        yield "external", [external_sentence(review.external), *([shift_sentence(shift)] if shift else [])]
    if review.confounders is not None:
        yield "confounders", [confounder_sentence(c) for c in review.confounders.columns]
    yield "usefulness", [decision_sentence(curve) for curve in review.decision[:MOST]]
    yield "certainty", _certain(review) if classes else targets.certain(review)
    if (found := review.examples) is not None:
        of_classes = f"{found.errors} errors among the test rows, and {found.suspects} labels that may be wrong."
        far_out = f"{found.suspects} of {found.scored} rows have an error so far out that the label may be wrong."
        yield "examples", [of_classes if classes else far_out]
    first = headline(result)
    moved = [
        f"Over {len(s.values)} further splits {NAMES[metric_key(s.metric, result)]} {spread_words(s)}."
        for s in review.repeats
        if s.metric == first
    ]
    values = [c.headline for c in review.multiverse if c.headline == c.headline]
    if values:
        show = shown_as(first)
        moved.append(f"Under {len(values)} combinations of choices from {show(min(values))} to {show(max(values))}.")
    yield "sensitivity", moved


def _certain(review: Review) -> list[str]:
    sure = [sets_sentence(review.conformal)] if review.conformal else []
    sure += [label_sets_sentence(sets) for sets in review.label_sets[:MOST]]
    if review.selective is not None:
        whole, kept = targets.whole_and_kept(review.selective)
        sure.append(f"The error rate is {number(whole.risk.value)}, and {number(kept.risk.value)} where the least "
                    f"certain {1 - kept.coverage:.0%} go to a person.")  # fmt: skip
    if review.trust:
        least, most = (pick(t.coverage for t in review.trust) for pick in (min, max))
        sure.append(f"Intervals like these held the truth in {least:.0f} to {most:.0f} % of simulated studies.")
    return sure


def _tight(words: str) -> str:
    return words.replace("  (", " (")
