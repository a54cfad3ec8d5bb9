"""A report in short: each question that it answers, with the answer in a sentence."""

from __future__ import annotations

from collections.abc import Iterator
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
from probes.reporting.words import NAMES, metric_key, number, plus_minus, with_interval
from probes.runs.result import ProbeResult
from probes.runs.review.record import Review

MOST = 3  # classes or labels whose answers are given; the sections have all
HEADLINES = ("auc_macro", "balanced_accuracy")
KEPT = 0.8  # share of the rows of which the error rate is given


def in_short(result: ProbeResult) -> str:
    """The first section of a report of classes, which printed is one page; nothing for other targets."""
    if result.request.target != "classes":
        return ""
    lines = "".join(
        f"<dt><a href='#{name}'>{QUESTIONS[name]}</a></dt><dd>{escape(' '.join(said))}</dd>"
        for name, said in _answers(result)
        if said
    )
    use = "<p class='dim'>Research use only, not for clinical use.</p>"
    return section("short", "In short", f"<dl class='terms'>{lines}</dl>{use}")


def _answers(result: ProbeResult) -> Iterator[tuple[str, list[str]]]:
    """Section and sentences, in the order of the report."""
    show = plus_minus if result.folds else with_interval
    parts = [f"{NAMES[metric_key(name, result)]} {_tight(show(result.test.metrics[name]))}" for name in HEADLINES]
    spread = ", mean ± SD of the folds" if result.folds else ""
    yield "results", [f"{', '.join(parts)}{spread}, on {result.test.rows} test rows of {result.test.groups} groups."]
    if result.audit is not None:
        yield (
            "audit",
            [
                f"{result.audit.flagged} of {result.audit.test_rows} test rows have a near copy (cosine ≥ "
                f"{result.audit.tau:g}) among the fitted rows of other groups."
            ],
        )
    if len(result.operating) == 1:
        point = result.operating[0]
        rates = (f"{NAMES[name]} {_tight(with_interval(point.rates[name]))}" for name in ("sensitivity", "specificity"))
        yield "operating", [f"{point.column} at p ≥ {number(point.threshold)}: {', '.join(rates)}."]
    if result.gaps:
        worst = max(result.gaps, key=lambda gap: gap.gap)
        yield "subgroups", [f"The largest gap is {number(worst.gap)}, in {NAMES[worst.metric]} by {worst.column}; the "
                            f"lowest value is of {worst.worst}."]  # fmt: skip
    if result.review is not None:
        yield from _reviewed(result, result.review)


def _reviewed(result: ProbeResult, review: Review) -> Iterator[tuple[str, list[str]]]:
    if review.external is not None:
        shift = review.external.shift
        yield "external", [external_sentence(review.external), *([shift_sentence(shift)] if shift else [])]
    if review.confounders is not None:
        yield "confounders", [confounder_sentence(c) for c in review.confounders.columns]
    yield "usefulness", [decision_sentence(curve) for curve in review.decision[:MOST]]
    sure = [sets_sentence(review.conformal)] if review.conformal else []
    sure += [label_sets_sentence(sets) for sets in review.label_sets[:MOST]]
    if review.selective is not None:
        whole, kept = review.selective.kept[0], min(review.selective.kept, key=lambda k: abs(k.coverage - KEPT))
        sure.append(f"The error rate is {number(whole.risk.value)}, and {number(kept.risk.value)} where the least "
                    f"certain {1 - kept.coverage:.0%} go to a person.")  # fmt: skip
    if review.trust:
        least, most = (pick(t.coverage for t in review.trust) for pick in (min, max))
        sure.append(f"Intervals like these held the truth in {least:.0f} to {most:.0f} % of simulated studies.")
    yield "certainty", sure
    if review.examples is not None:
        found = review.examples
        yield "examples", [f"{found.errors} errors among the test rows, and {found.suspects} labels that may be wrong."]
    spreads = [s for s in review.repeats if s.metric == HEADLINES[0]]
    moved = [
        f"Over {len(s.values)} further splits {NAMES[metric_key(s.metric, result)]} {spread_words(s)}." for s in spreads
    ]
    areas = [c.auc_macro for c in review.multiverse if c.auc_macro == c.auc_macro]
    if areas:
        moved.append(f"Under {len(areas)} combinations of choices from {number(min(areas))} to {number(max(areas))}.")
    yield "sensitivity", moved


def _tight(words: str) -> str:
    return words.replace("  (", " (")
