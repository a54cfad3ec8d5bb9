"""What the answers of D25 to D32 say, as one sentence each, shared by text and pages."""

from __future__ import annotations

from probes.evaluation.bootstrap import Interval
from probes.evaluation.certainty.conformal import ConformalSets
from probes.evaluation.external.shift import Shift
from probes.evaluation.usefulness.decision_curve import DecisionCurve
from probes.reporting.words import number, p_value, with_interval
from probes.runs.review.record import Confounder, Confounders, External, Spread

SHOWN = 8  # columns whose decision curves are shown
CHANCE = 0.5
ALPHA = 0.05
READABLE = {True: "can be read off", False: "is not shown to be on"}
SHIFT_CAVEAT = (
    "The coverage holds for new patients like the calibrating ones; at another site, scanner or prevalence it may not."
)


def external_sentence(found: External) -> str:
    fall = found.drops["auc_macro"]
    if fall.low != fall.low:
        return (
            f"On {_where(found)} the macro AUC is {_plain(found.test.metrics['auc_macro'])}: no interval of the drop."
        )
    more = "more than chance" if fall.low > 0 else "a gain" if fall.high < 0 else "no more than chance could make it"
    return f"On {_where(found)} the macro AUC falls by {_plain(fall)}: {more}."


def _where(found: External) -> str:
    return f"{found.test.rows} external rows of {found.test.groups} groups"


def shift_sentence(found: Shift) -> str:
    small = min(found.p_classifier, found.p_mmd) < ALPHA / 2  # two tests
    verdict = "the vectors of the two sets differ" if small else "no difference between the vectors was found"
    return (
        f"Shift: a classifier tells the sets apart with AUC {number(found.auc)} (p {p_value(found.p_classifier)}), "
        f"MMD² {number(found.mmd, 4)} (p {p_value(found.p_mmd)}): {verdict}. {found.permutations} permutations of "
        f"whole groups ({found.groups[0]} here, {found.groups[1]} there)."
    )


def is_confounded(found: Confounder) -> bool:
    """Whether the AUC within the strata is lower than the plain one by more than chance (D30)."""
    return found.adjusted is not None and found.adjusted.fall.low > 0


def confounder_sentence(found: Confounder) -> str:
    if found.note:
        return f"{found.column}: {found.note}."
    readable, alone, inside = found.readable, found.alone, found.adjusted
    parts = [f"{found.column} {READABLE[above(readable)]} the vectors"]
    parts[0] += f" (AUC {_plain(readable)})" if readable else ""
    if alone is not None:
        parts.append(f"it alone gives AUC {_plain(alone)} for the label")
    if inside is not None and inside.within.value == inside.within.value:
        verdict = "more than chance: part of the result is the confounder's" if is_confounded(found) else (
            "no more than chance"
        )  # fmt: skip
        parts.append(
            f"within its values the AUC is {number(inside.within.value)}, {_plain(inside.fall)} lower than overall, "
            f"{verdict}"
        )
    elif inside is not None:
        parts.append("no value of it has rows of both sides, so that it cannot be told from the label")
    return "; ".join(parts) + "."


def together_sentence(found: Confounders) -> str:
    if found.together is None or found.gain is None:
        return "A probe on these columns could not be fitted: the fitted rows show one class only."
    names = ", ".join(c.column for c in found.columns)
    beyond = "says more than they do" if found.gain.low > 0 else "is not shown to say more than they do"
    return (
        f"A probe on {names} alone: AUC {_plain(found.together)}; the vectors' probe {beyond} (difference "
        f"{_plain(found.gain)}, p {p_value(found.gain_p)})."
    )


def decision_sentence(found: DecisionCurve) -> str:
    if not found.useful:
        return (
            f"{found.name}: at no threshold is the net benefit shown to be above that of calling every row positive, "
            "or none."
        )
    ranges = ", ".join(f"{low:.2f} to {high:.2f}" if low < high else f"{low:.2f}" for low, high in found.useful)
    return f"{found.name}: the probe has more net benefit than calling all or none at thresholds {ranges}."


def sets_sentence(found: ConformalSets) -> str:
    if found.refused:
        return f"No conformal sets: {found.refused}."
    total = max(found.rows, 1)
    single = found.sizes[1] / total if len(found.sizes) > 1 else 0.0
    empty, several = found.sizes[0] / total, sum(found.sizes[2:]) / total
    return (
        f"Sets of {found.wanted:.0%} cover {_plain(found.coverage)} of {found.rows} rows that did not calibrate; one "
        f"class in {single:.0%} of the sets ({number(found.single_right)} of them right), several in {several:.0%}, "
        f"none in {empty:.0%}."
    )


def label_sets_sentence(found: ConformalSets) -> str:
    """One label's line; the sets say whether the image has it."""
    return f"{found.label}: {sets_sentence(found)}"


def spread_words(found: Spread) -> str:
    values = [v for v in found.values if v == v]
    return f"{number(found.mean)} ± {number(found.sd)}, from {number(min(values))} to {number(max(values))}"


def above(value: Interval | None) -> bool:
    """Whether an AUC's interval lies above chance."""
    return value is not None and value.low > CHANCE


def _plain(value: Interval | None) -> str:
    return with_interval(value).replace("  (", " (")
