"""D5: choosing a penalty by inner validation, never on the rows that are reported."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

COARSE = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0)  # log10
REFINE = (1.0, -1.0, 0.5, -0.5, 0.25, -0.25)  # decades around the best
EXTENSIONS = 2
HALVING = (-6.0, -4.0, -2.0, 0.0, 2.0, 4.0, 6.0)  # log10, where Radford 2021 (A.3) starts
FINEST = 0.125  # decades: eight steps a decade


@dataclass(frozen=True)
class Candidate:
    """One value tried."""

    value: float
    auc: float  # mean inner-validation macro AUC
    converged: bool = True


@dataclass(frozen=True)
class Selection:
    """What was tried, what was chosen, and by which rows."""

    parameter: str
    value: float
    inner: str  # "val split" | "5 grouped folds of train" | "fixed"
    at_edge: bool  # the best lies at the end of all that was tried, extensions included
    candidates: tuple[Candidate, ...]


def fixed(parameter: str, value: float) -> Selection:
    return Selection(parameter, value, "fixed", at_edge=False, candidates=())


def choose(candidates: list[Candidate]) -> Candidate:
    """Highest AUC; ties → smaller value. An undefined AUC is never best unless all are."""
    return max(candidates, key=lambda c: (-math.inf if math.isnan(c.auc) else c.auc, -c.value))


def sweep_decades(parameter: str, inner: str, evaluate: Callable[[float], Candidate]) -> Selection:
    """Coarse decades, then ±1, ±.5, ±.25 around the best; a best at the edge is followed two decades at most (D5)."""
    tried: dict[float, Candidate] = {}

    def at(exponent: float) -> None:
        if exponent not in tried:
            tried[exponent] = evaluate(10.0**exponent)

    def best() -> float:
        return math.log10(choose(list(tried.values())).value)

    for exponent in COARSE:
        at(exponent)
    centre = round(best(), 6)
    for step in REFINE:
        at(centre + step)
    for _ in range(EXTENSIONS):
        found = round(best(), 6)
        if found in (min(tried), max(tried)):
            at(found + (1 if found == max(tried) else -1))
    found = round(best(), 6)
    edge = found in (min(tried), max(tried))
    ordered = tuple(tried[e] for e in sorted(tried))
    return Selection(parameter, choose(list(ordered)).value, inner, edge, ordered)


def sweep_halving(parameter: str, inner: str, evaluate: Callable[[float], Candidate]) -> Selection:
    """Radford 2021, A.3: a grid of two decades, then the interval around the peak is halved down to 1/8 decade."""
    tried = {exponent: evaluate(10.0**exponent) for exponent in HALVING}
    step = 1.0
    while step >= FINEST:
        peak = round(math.log10(choose(list(tried.values())).value), 6)
        for exponent in (peak + step, peak - step):
            if HALVING[0] <= exponent <= HALVING[-1] and exponent not in tried:
                tried[exponent] = evaluate(10.0**exponent)
        step /= 2
    ordered = tuple(tried[e] for e in sorted(tried))
    best = choose(list(ordered))
    return Selection(parameter, best.value, inner, best in (ordered[0], ordered[-1]), ordered)


def sweep_values(
    parameter: str, inner: str, values: tuple[float, ...], evaluate: Callable[[float], Candidate]
) -> Selection:
    """Try each of a short list. The edge flag says that the best is the list's first or last."""
    ordered = tuple(evaluate(value) for value in sorted(values))
    best = choose(list(ordered))
    return Selection(
        parameter, best.value, inner, len(values) > 1 and best.value in (min(values), max(values)), ordered
    )


def mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
