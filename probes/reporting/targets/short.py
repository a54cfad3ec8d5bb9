"""The answers of a report in short that only numbers and times have."""

from __future__ import annotations

from collections.abc import Iterator

from probes.evaluation.bootstrap import Interval
from probes.evaluation.certainty.selective import Kept, Selective
from probes.reporting.targets.sentences import (
    horizon_sentence,
    log_rank_sentence,
    named,
    plain,
    proportional_sentence,
    ranges_sentence,
)
from probes.reporting.words import NAMES, SITE_METRICS, number, plus_minus, quantity, shown_as
from probes.runs.result import ProbeResult
from probes.runs.review.record import Review

KEPT = 0.8  # share of the rows of which the error is given

Answers = Iterator[tuple[str, list[str]]]  # section and sentences, in the order of the report


def headline(result: ProbeResult) -> str:
    """The first two metrics of the target."""
    shown = []
    for name in SITE_METRICS[result.request.target][:2]:
        value = result.test.metrics[name]
        shown.append(f"{NAMES[name]} {plus_minus(value, shown_as(name)) if result.folds else plain(value, name)}")
    return ", ".join(shown)


def own_answers(result: ProbeResult) -> Answers:
    """What is asked of numbers, or of times, and of subgroups."""
    metrics, time = result.test.metrics, result.request.labels[0]
    if result.numbers is not None and not result.folds:
        limits = " to ".join(quantity(metrics[name].value) for name in ("limit_low", "limit_high"))
        yield (
            "agreement",
            [f"Predicted minus true: on average {plain(metrics['bias'], 'bias')}; limits of agreement {limits}."],
        )
    if (found := result.survival) is not None:
        said = [log_rank_sentence(found.log_rank)]
        said += [proportional_sentence(found.proportional)] if found.proportional else []
        yield "survival", said + ([horizon_sentence(found.calibration, time)] if found.calibration else [])
    if worst := _worst(result):
        yield ("agreement" if result.numbers else "survival"), [worst]


def certain(review: Review) -> list[str]:
    """Ranges, and the error of the rows that are kept."""
    said = [ranges_sentence(each) for each in review.ranges if not each.adaptive]
    if review.selective is not None:
        said.append(_kept(review.selective))
    return said


def whole_and_kept(found: Selective) -> tuple[Kept, Kept]:
    """All rows, and about the share KEPT of them."""
    return found.kept[0], min(found.kept, key=lambda k: abs(k.coverage - KEPT))


def _kept(found: Selective) -> str:
    whole, kept = whole_and_kept(found)
    return (
        f"{NAMES['mae'][:1].upper()}{NAMES['mae'][1:]} is {quantity(whole.risk.value)}, and "
        f"{quantity(kept.risk.value)} where the {1 - kept.coverage:.0%} of the largest predicted error go to a person."
    )


def _worst(result: ProbeResult) -> str:
    """The subgroup with the worst value of the first metric; "" where no two have one."""
    metric = SITE_METRICS[result.request.target][0]
    values: dict[str, Interval] = {}
    for s in result.numbers.subgroups if result.numbers else ():
        values |= {f"{s.column} = {s.value}": s.mae} if s.mae is not None else {}
    for t in result.survival.subgroups if result.survival else ():
        values |= {f"{t.column} = {t.value}": t.uno} if t.uno is not None else {}
    if len(values) < 2:
        return ""
    pick = max if metric == "mae" else min
    name = pick(values, key=lambda group: values[group].value)
    show = quantity if metric == "mae" else number
    return f"Of the subgroups, {named(metric)} is worst in {name}: {show(values[name].value)}."
