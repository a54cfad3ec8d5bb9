"""The answers of D25 to D32 as lines of plain text, for the terminal."""

from __future__ import annotations

from probes.reporting.review.sentences import (
    SHOWN,
    confounder_sentence,
    decision_sentence,
    external_sentence,
    label_sets_sentence,
    sets_sentence,
    shift_sentence,
    spread_words,
    together_sentence,
)
from probes.reporting.targets.sentences import ranges_sentence
from probes.reporting.words import NAMES, headline, metric_key, number, quantity, shown_as
from probes.runs.result import ProbeResult
from probes.runs.review.record import Review


def text_of(result: ProbeResult, review: Review) -> list[str]:
    out: list[str] = []
    if review.external is not None:
        out.append("external test: " + external_sentence(review.external))
        out += [shift_sentence(review.external.shift)] if review.external.shift else []
    if review.confounders is not None:
        out += [f"confounder {confounder_sentence(c)}" for c in review.confounders.columns]
        out.append(together_sentence(review.confounders))
    out += [f"decision curve: {decision_sentence(c)}" for c in review.decision[:SHOWN]]
    if review.conformal is not None:
        out.append(sets_sentence(review.conformal))
    out += [f"conformal, {label_sets_sentence(s)}" for s in review.label_sets[:SHOWN]]
    out += [ranges_sentence(each) for each in review.ranges]
    if review.selective is not None:
        of_kept, what = (quantity, NAMES["mae"]) if review.ranges else (number, "error rate")
        kept = ", ".join(f"{k.coverage:.0%} kept {of_kept(k.risk.value)}" for k in review.selective.kept)
        out.append(f"{what} when the least certain rows go to a person: {kept}")
    if review.trust:
        near = ", ".join(f"{NAMES[metric_key(t.metric, result)]} {t.coverage:.1f} %" for t in review.trust)
        out.append(f"intervals held the truth in simulations ({review.trust[0].words}): {near}")
    if review.examples is not None:
        e, classes = review.examples, result.request.target == "classes"
        what = f"{e.errors} errors, {e.suspects} suspect labels" if classes else f"{e.suspects} errors far out"
        out.append(f"{what} among {e.scored} rows: see examples.csv of --out")
    out += [f"over {len(s.values)} splits, {NAMES[metric_key(s.metric, result)]}: {spread_words(s)}"
            for s in review.repeats]  # fmt: skip
    if review.multiverse:
        areas = [c.headline for c in review.multiverse if c.headline == c.headline]
        show = shown_as(headline(result))
        spread = f"from {show(min(areas))} to {show(max(areas))}" if areas else number(None)
        named = "macro AUC" if result.request.target == "classes" else NAMES[headline(result)]
        out.append(f"multiverse of {len(review.multiverse)}: {named} {spread}")
    return out
