"""What the answers of D25 to D32 say, as one sentence each, shared by text and pages."""

from __future__ import annotations

from probes.evaluation.bootstrap import Interval
from probes.evaluation.certainty.conformal import ConformalSets
from probes.evaluation.external.shift import Shift
from probes.evaluation.usefulness.decision_curve import DecisionCurve
from probes.reporting.targets.sentences import (
    target_confounder_sentence,
    target_external_sentence,
    target_together_sentence,
)
from probes.reporting.words import number, p_value, shown_as, with_interval
from probes.runs.review.record import Confounder, Confounders, External, Spread

SHOWN = 8  # columns whose decision curves are shown
CHANCE = 0.5
ALPHA = 0.05
READABLE = {True: "can be read off", False: "is not shown to be on"}
NOT_SIMULATED = (
    "How often other intervals hold the truth was not simulated: those of gaps between subgroups, of costs and numbers "
    "needed to read, of the error rates of kept rows, and of the coverage of conformal sets."
)
SHIFT_CAVEAT = (
    "The coverage holds for new patients like the calibrating ones; at another site, scanner or prevalence it may not."
)


def external_sentence(found: External) -> str:
    if "auc_macro" not in found.drops:
        return target_external_sentence(found)
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
    """Whether the column raises the AUC by more than chance (D30): by permutation, else by the interval of the fall."""
    if found.raises_p is not None:
        return found.raises_p < ALPHA
    return found.adjusted is not None and found.adjusted.fall.low > 0


def confounder_sentence(found: Confounder) -> str:
    """The verdict first, then what it rests on."""
    if found.note:
        return f"{found.column}: {found.note}."
    if found.within is not None:
        return target_confounder_sentence(found, READABLE[above(found.readable)])
    readable, alone, inside = found.readable, found.alone, found.adjusted
    parts = []
    if inside is not None and inside.within.value == inside.within.value:
        verdict = "raises the AUC by more than chance, so that part of the result is the confounder's"
        verdict = verdict if is_confounded(found) else "does not raise the AUC by more than chance"
        tested = "" if found.raises_p is None else f" (p {p_value(found.raises_p)} by permutation)"
        parts.append(
            f"{found.column} {verdict}: within its values it is {number(inside.within.value)}, over all rows "
            f"{number(inside.plain.value)}{tested}"
        )
    elif inside is not None:
        parts.append(f"{found.column} cannot be told from the label: no value of it has rows of both sides")
    shown = f"{READABLE[above(readable)]} the vectors"
    shown += f", AUC {_plain(readable)}" if readable else ""
    parts.append(f"it {shown}" if parts else f"{found.column} {shown}")
    if alone is not None:
        parts.append(f"it alone gives AUC {_plain(alone)} for the label")
    near = found.robustness
    if near is not None:
        parts.append(
            f"of near images that share one of the two only, {near.index:.0%} share the class (by chance "
            f"{near.chance:.0%})"
        )
    return "; ".join(parts) + "."


def together_sentence(found: Confounders) -> str:
    if found.metric != "auc_macro":
        return target_together_sentence(found)
    if found.together is None or found.gain is None:
        return "A probe on these columns could not be fitted: the fitted rows show one class only."
    names = ", ".join(c.column for c in found.columns)
    they = "it does" if len(found.columns) == 1 else "they do"
    beyond = f"says more than {they}" if found.gain.low > 0 else f"is not shown to say more than {they}"
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
    fewer = ", fewer than promised," if found.coverage and found.coverage.high < found.wanted else ""
    return (
        f"Sets of {found.wanted:.0%} cover {_plain(found.coverage)}{fewer} of {found.rows} rows that did not "
        f"calibrate; one class in {single:.0%} of the sets ({number(found.single_right)} of them right), several in "
        f"{several:.0%}, none in {empty:.0%}."
    )


def label_sets_sentence(found: ConformalSets) -> str:
    """One label's line; the sets say whether the image has it."""
    return f"{found.label}: {sets_sentence(found)}"


def spread_words(found: Spread) -> str:
    values, show = [v for v in found.values if v == v], shown_as(found.metric)
    return f"{show(found.mean)} ± {show(found.sd)}, from {show(min(values))} to {show(max(values))}"


def above(value: Interval | None) -> bool:
    """Whether an AUC's interval lies above chance."""
    return value is not None and value.low > CHANCE


def _plain(value: Interval | None) -> str:
    return with_interval(value).replace("  (", " (")
