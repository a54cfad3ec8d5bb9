"""D9: whole groups are resampled; a metric's replicates and their percentiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from indexer.cores import cores
from indexer.types import Float64, Int64
from probes.evaluation.metrics import Values

UNRELIABLE_SHARE = 0.05  # share of undefined replicates above which an interval is unreliable
BLOCK = 50  # replicates evaluated together

Evaluate = Callable[[Int64], Values]  # group weights (b, g) → metrics


@dataclass(frozen=True)
class Interval:
    """A metric and its 95 % interval; NaN where undefined."""

    value: float
    low: float
    high: float
    dropped: int = 0  # number of replicates in which the metric is undefined
    reliable: bool = True  # False where more than 5 % were
    held: float | None = None  # per cent of similar simulated studies whose interval held the truth (D29)


def draw(groups: int, replicates: int, seed: int) -> Iterator[Int64]:
    """Group weights (block, g) of bootstrap replicates: g groups drawn with replacement, PCG64(seed).

    The draws depend on `groups`, `replicates` and `seed` only, so two encoders scored on the same rows share them.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    for start in range(0, replicates, BLOCK):
        rows = min(BLOCK, replicates - start)
        drawn = rng.integers(0, groups, (rows, groups))
        yield np.stack([np.bincount(row, minlength=groups) for row in drawn])


def replicate(evaluate: Evaluate, groups: int, *, replicates: int, seed: int = 0) -> Values:
    """Every metric for each replicate: (replicates,) or (replicates, c). Independent of the number of threads."""
    if groups == 0:
        return {}
    if groups == 1:  # every resample equals it: an interval of width 0 would suggest certainty
        point = evaluate(np.ones((1, 1), np.int64))
        return {name: np.full((replicates, *value.shape[1:]), np.nan) for name, value in point.items()}
    workers = cores()
    blocks: list[Values] = []
    with ThreadPoolExecutor(workers) as pool:
        waiting = []
        for weights in draw(groups, replicates, seed):
            waiting.append(pool.submit(evaluate, weights))
            if len(waiting) > 2 * workers:  # a block of many groups is large: hold a few only
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
