"""D9: percentile intervals from resampling whole groups, and paired differences from the same draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from indexer.cores import cores
from indexer.types import Float64, Int64
from probes.evaluation.metrics import Values

UNRELIABLE_SHARE = 0.05  # of undefined replicates
BLOCK = 50  # replicates evaluated together

Evaluate = Callable[[Int64], Values]  # group weights (b, g) → metrics


@dataclass(frozen=True)
class Interval:
    """A metric and its 95 % percentile interval; NaN where undefined."""

    value: float
    low: float
    high: float
    dropped: int = 0  # replicates in which the metric is undefined
    reliable: bool = True  # False where more than 5 % were


def draw(groups: int, replicates: int, seed: int) -> Iterator[Int64]:
    """Group weights (block, g) of bootstrap replicates: g groups drawn with replacement, PCG64(seed).

    The draws depend on `groups`, `replicates` and `seed` alone, so two encoders scored on the same rows share them.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    for start in range(0, replicates, BLOCK):
        rows = min(BLOCK, replicates - start)
        drawn = rng.integers(0, groups, (rows, groups))
        yield np.stack([np.bincount(row, minlength=groups) for row in drawn])


def replicate(evaluate: Evaluate, groups: int, *, replicates: int, seed: int = 0) -> Values:
    """Every metric under each replicate: (replicates,) or (replicates, c). The same for any number of threads."""
    if groups == 0:
        return {}
    if groups == 1:  # resampled it is itself: an interval of zero width would be taken for certainty
        point = evaluate(np.ones((1, 1), np.int64))
        return {name: np.full((replicates, *value.shape[1:]), np.nan) for name, value in point.items()}
    workers = cores()
    blocks: list[Values] = []
    with ThreadPoolExecutor(workers) as pool:
        waiting = []
        for weights in draw(groups, replicates, seed):
            waiting.append(pool.submit(evaluate, weights))
            if len(waiting) > 2 * workers:  # a block of many groups is large: never hold them all
                blocks.append(waiting.pop(0).result())
        blocks.extend(job.result() for job in waiting)
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def interval(value: float, replicates: Float64) -> Interval:
    """Percentiles 2.5 and 97.5 of the defined replicates (b,)."""
    defined = replicates[~np.isnan(replicates)]
    dropped = len(replicates) - len(defined)
    if not len(defined) or np.isnan(value):
        return Interval(float(value), float("nan"), float("nan"), dropped, reliable=False)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(float(value), float(low), float(high), dropped, dropped <= UNRELIABLE_SHARE * len(replicates))


@dataclass(frozen=True)
class Difference:
    """First minus second on the same rows and draws."""

    first: str
    second: str
    delta: Interval
    p: float  # two-sided, bootstrap
    p_holm: float


def paired_p(differences: Float64) -> float:
    """P = 2·min(share of Δ ≤ 0, share of Δ ≥ 0), each count + 1 over replicates + 1, at most 1. NaN if none defined."""
    defined = differences[~np.isnan(differences)]
    if not len(defined):
        return float("nan")
    low = ((defined <= 0).sum() + 1) / (len(defined) + 1)
    high = ((defined >= 0).sum() + 1) / (len(defined) + 1)
    return float(min(1.0, 2 * min(low, high)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the order given. NaN stays NaN and is not counted as a test."""
    values = np.array(p, np.float64)
    order = [i for i in np.argsort(values, kind="stable") if not np.isnan(values[i])]
    out = np.full(len(values), np.nan)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * values[i]))
        out[i] = running
    return out.tolist()
