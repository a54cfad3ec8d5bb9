"""D5: chooses a penalty by inner validation, without the rows that are reported.

Inner AUCs within one standard error of the best count as equal; among equals the lowest inner log-loss to two decimals
wins, then the smaller value. A value at which the probe is constant (its held-out scores hardly vary), or whose fit has
not converged, is chosen only where this holds for every value: with a weak signal the AUC of a constant probe may be
the best by chance, and on separable rows all AUCs are 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from probes.evaluation.ranks import EQUAL

COARSE = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0)  # log10
REFINE = (1.0, -1.0, 0.5, -0.5, 0.25, -0.25)  # decades around the best
EXTENSIONS = 2
FITS = len(COARSE) + len(REFINE)  # at most, without the extensions
HALVING = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)  # log10; the initial grid of Radford 2021 (A.3)
FINEST = 0.125  # decades, i.e. eight steps a decade


@dataclass(frozen=True)
class Candidate:
    """One value of the penalty and its inner scores."""

    value: float
    auc: float  # mean inner-validation macro AUC
    converged: bool = True
    log_loss: float = float("nan")  # mean inner-validation log-loss, without a temperature; NaN: not measured
    auc_error: float = 0.0  # standard error of `auc`; 0: only equal AUCs tie
    constant: bool = False  # the held-out scores hardly vary
    error: float = float("nan")  # of numbers the inner RMSE, of times the partial deviance; NaN for classes


@dataclass(frozen=True)
class Selection:
    """The values tried, the one chosen, and the rows used."""

    parameter: str
    value: float
    inner: str  # "val split" | "5 grouped folds of train" | "fixed" | UNCHOSEN
    at_edge: bool  # the best is the first or last of all values tried, including extensions
    candidates: tuple[Candidate, ...]


ALIKE = 1e-3  # inner errors of numbers, and deviances of times, that differ by a smaller share tie


Evaluate = Callable[[Sequence[float]], list[Candidate]]  # values of the penalty, tried together

UNCHOSEN = "the default: no inner rows show both classes"


def fixed(parameter: str, value: float) -> Selection:
    return Selection(parameter, value, "fixed", at_edge=False, candidates=())


def choose(candidates: list[Candidate]) -> Candidate:
    """Highest AUC; within one standard error → lower log-loss, to two decimals; ties → smaller value.

    A candidate with an undefined AUC, a constant probe or an unconverged fit is chosen only where all are such.
    """
    usable = [c for c in candidates if c.converged and not c.constant]
    usable = usable or [c for c in candidates if c.converged] or candidates
    highest = max(usable, key=_area)
    equal = [c for c in usable if _area(c) >= _area(highest) - _room(highest)]
    return min(equal, key=lambda c: (_loss(c), c.value))


def better(one: Candidate, other: Candidate) -> bool:
    """Whether `one` has the higher AUC, or an equal AUC and the lower log-loss. A smaller value alone is not better."""
    if choose([one, other]) is other:
        return False
    return _area(one) > _area(other) + _room(one) or _loss(one) < _loss(other)


def _room(best: Candidate) -> float:
    return max(EQUAL, best.auc_error)


def _area(candidate: Candidate) -> float:
    return -math.inf if math.isnan(candidate.auc) else candidate.auc


def _loss(candidate: Candidate) -> float:
    return math.inf if math.isnan(candidate.log_loss) else round(candidate.log_loss, 2)


def sweep_decades(parameter: str, inner: str, evaluate: Evaluate) -> Selection:
    """Coarse decades, then ±1, ±.5, ±.25 around the best; a best at the edge extends it up to two decades (D5).

    The range is extended only while each further decade is better.
    """
    tried: dict[float, Candidate] = {}

    def at(exponents: Sequence[float]) -> None:
        new = [exponent for exponent in dict.fromkeys(exponents) if exponent not in tried]
        tried.update(zip(new, evaluate([10.0**exponent for exponent in new]), strict=True))

    def best() -> float:
        return round(math.log10(choose(list(tried.values())).value), 6)

    at(COARSE)
    centre = best()
    at([centre + step for step in REFINE])
    found = best()
    for _ in range(EXTENSIONS):
        if found not in (min(tried), max(tried)):
            break
        beyond = found + (1 if found == max(tried) else -1)
        at([beyond])
        if better(tried[beyond], tried[found]):
            found = beyond
    edge = found in (min(tried), max(tried))
    ordered = tuple(tried[e] for e in sorted(tried))
    return Selection(parameter, tried[found].value, inner, edge, ordered)


def sweep_halving(parameter: str, inner: str, evaluate: Evaluate) -> Selection:
    """Radford 2021, A.3: a grid of two decades, then the interval around the peak is halved down to 1/8 decade."""
    tried = dict(zip(HALVING, evaluate([10.0**exponent for exponent in HALVING]), strict=True))
    step = 1.0
    while step >= FINEST:
        peak = round(math.log10(choose(list(tried.values())).value), 6)
        new = [e for e in (peak + step, peak - step) if HALVING[0] <= e <= HALVING[-1] and e not in tried]
        tried.update(zip(new, evaluate([10.0**exponent for exponent in new]), strict=True))
        step /= 2
    ordered = tuple(tried[e] for e in sorted(tried))
    best = choose(list(ordered))
    return Selection(parameter, best.value, inner, best in (ordered[0], ordered[-1]), ordered)


def sweep_values(parameter: str, inner: str, values: tuple[float, ...], evaluate: Evaluate) -> Selection:
    """Try each of a short list. `at_edge`: the best is the list's first or last."""
    ordered = tuple(evaluate(sorted(values)))
    best = choose(list(ordered))
    return Selection(
        parameter, best.value, inner, len(values) > 1 and best.value in (min(values), max(values)), ordered
    )
