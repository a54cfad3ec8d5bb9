"""What the answers to reviewers say of numbers and times, as one sentence each, shared by text and pages."""

from __future__ import annotations

from probes.evaluation.bootstrap import Interval
from probes.evaluation.certainty.ranges import ConformalRanges
from probes.reporting.words import NAMES, number, p_value, quantity, shown_as, with_interval
from probes.runs.review.record import Confounder, Confounders, External
from probes.runs.targets.record import HorizonCalibration

ERRORS = ("mae", "rmse")  # of which less is better


def target_external_sentence(found: External) -> str:
    """The headline there, and how far it is from here."""
    metric = "mae" if "mae" in found.drops else "uno"
    here = f"On {found.test.rows} external rows of {found.test.groups} groups {named(metric)} is "
    there, fall = found.test.metrics[metric], found.drops[metric]
    value = shown_as(metric)(there.value)
    if fall.low != fall.low:
        return f"{here}{plain(there, metric)}: no interval of the drop."
    worse, better = ("larger", "smaller") if metric in ERRORS else ("lower", "higher")
    lost = Interval(-fall.value, -fall.high, -fall.low) if metric in ERRORS else fall
    verdict = "more than chance" if lost.low > 0 else "a gain" if lost.high < 0 else "no more than chance could make it"
    if lost.value < 0:
        worse, lost = better, Interval(-lost.value, -lost.high, -lost.low)
    return f"{here}{value}, by {plain(lost, metric)} {worse} than here: {verdict}."


def horizon_sentence(found: HorizonCalibration, time: str) -> str:
    """Predicted against observed events."""
    apart = found.difference
    verdict = "too low" if apart.low > 0 else "too high" if apart.high < 0 else "not shown to be wrong on average"
    return (
        f"Up to {time} {quantity(found.time)} the event is predicted for {number(found.expected)} of {found.rows} rows "
        f"and was observed in {plain(found.observed)} (Kaplan-Meier): the probabilities are {verdict}."
    )


def proportional_sentence(found: Interval) -> str:
    """Whether the risk keeps its meaning over time."""
    if found.high < 0:
        verdict = "the higher risks lose their meaning with time"
    elif found.low > 0:
        verdict = "the higher risks count for more with time"
    else:
        verdict = "no sign that hazards are not proportional"
    return f"Schoenfeld's residuals of the risk correlate with time by {plain(found)}: {verdict}."


def log_rank_sentence(p: float) -> str:
    """The test of the thirds' curves, or why there is none."""
    if p != p:
        return "No log-rank p of the thirds: it takes rows as independent, and groups have several."
    return f"Log-rank p of the thirds, whose bounds are of fitted rows: {p_value(p)}."


def target_confounder_sentence(found: Confounder, readable: str) -> str:
    """One column; `readable` says whether it can be read off the vectors."""
    parts = [f"{found.column} {readable} the vectors"]
    parts[0] += f" (AUC {plain(found.readable)})" if found.readable else ""
    inside = found.within
    if found.alone is not None:
        explains = "explains R²" if inside is not None and inside.metric == "spearman" else "gives Uno's C"
        parts.append(f"it alone {explains} {plain(found.alone)}")
    if inside is not None and inside.within.value == inside.within.value:
        verdict = "the prediction holds within them" if inside.left else (
            "no more than chance: what is predicted may be the column"
        )  # fmt: skip
        parts.append(
            f"within its values {named(inside.metric)} is {plain(inside.within)}, overall "
            f"{number(inside.plain.value)}: {verdict}"
        )
    elif inside is not None:
        parts.append("no value of it has rows that can be ranked, so that it cannot be told from the label")
    return "; ".join(parts) + "."


def target_together_sentence(found: Confounders) -> str:
    names = ", ".join(c.column for c in found.columns)
    if found.together is None or found.gain is None:
        return f"A probe on {names} alone could not be fitted."
    beyond = "says more than they do" if found.gain.low > 0 else "is not shown to say more than they do"
    return (
        f"A probe on {names} alone: {NAMES[found.metric]} {plain(found.together)}; the vectors' probe {beyond} "
        f"(difference {plain(found.gain)}, p {p_value(found.gain_p)})."
    )


def ranges_sentence(found: ConformalRanges) -> str:
    kind = "of a width that grows with the predicted error" if found.adaptive else "of one width"
    if found.refused:
        return f"No ranges {kind}: {found.refused}."
    mean = f"on average {quantity(found.mean_width)} wide" if found.adaptive else f"{quantity(found.mean_width)} wide"
    return (
        f"Ranges of {found.wanted:.0%} {kind}, {mean}, hold the number of {plain(found.coverage)} of {found.rows} rows "
        "that did not calibrate."
    )


def named(metric: str) -> str:
    """The metric's name within a sentence."""
    return NAMES[metric] if NAMES[metric][0].isupper() else f"the {NAMES[metric]}"


def plain(value: Interval | None, metric: str = "") -> str:
    """A value with its interval, in the label's unit where the metric has it."""
    return with_interval(value, shown_as(metric)).replace("  (", " (")
