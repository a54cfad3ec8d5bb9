"""D9: intervals from resampling whole groups.

The kind of interval of each metric was chosen by simulation: see `probes/protocols.md`, D9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

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


def area_interval(value: float, replicates: Float64, sides: int) -> Interval:
    """Interval of an AUC: logit(A) ∓ t·SD/(A(1-A)), SD of the replicates, t with `sides` - 1 degrees of freedom.

    `sides` is the number of groups on the smaller side. Percentile intervals are too narrow where it is small, and miss
    on one side where the area is near 1. Where the replicates do not vary (A = 1) the interval has width 0, on which a
    note is added.
    """
    from scipy.stats import t

    plain = interval(value, replicates)
    if np.isnan(plain.low) or not 0 < value < 1 or sides < 2:
        return plain
    spread = float(replicates[~np.isnan(replicates)].std()) / (value * (1 - value))
    half = float(t.ppf(0.975, sides - 1)) * spread
    centre = np.log(value / (1 - value))
    low, high = (float(1 / (1 + np.exp(-(centre + sign * half)))) for sign in (-1, 1))
    return replace(plain, low=low, high=high)


def proportion_interval(value: float, replicates: Float64, groups: int) -> Interval:
    """Interval of a share of rows: percentiles; at 0 and 1, where resamples are constant, Clopper & Pearson's with
    `groups` trials.

    `groups` is the number of groups with rows in the denominator: rows of one patient may be right together, so that
    they count once (the design effect cannot be estimated where all rows agree).
    """
    plain = interval(value, replicates)
    if value not in (0.0, 1.0) or not groups:
        return plain
    bound = 0.025 ** (1 / groups)
    return replace(plain, low=bound, high=1.0) if value else replace(plain, low=0.0, high=1 - bound)


def centred_interval(value: float, replicates: Float64) -> Interval:
    """Interval of an error ≥ 0 whose replicates are biased by resampling noise: percentiles, centred on `value`.

    An estimate below 0 is reported as 0, which the interval then contains.
    """
    defined = replicates[~np.isnan(replicates)]
    plain = interval(value, replicates)
    if np.isnan(plain.low):
        return plain
    shift = value - float(defined.mean())
    return replace(
        plain,
        value=max(0.0, value),
        low=max(0.0, min(value, plain.low + shift)),
        high=max(0.0, value, plain.high + shift),
    )
