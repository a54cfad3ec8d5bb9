"""D9: the difference of two tables in one metric, on the same rows and draws, with its interval and p.

The method was chosen by simulation under the null: see `probes/protocols.md`, D9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from indexer.types import Float64, Int64
from probes.evaluation.bootstrap import BLOCK, Interval, interval
from probes.evaluation.interval_kinds import degrees

LEFT_OUT = 1000  # most parts that the groups are divided into, each left out once


@dataclass(frozen=True)
class Difference:
    """First minus second on the same rows and draws."""

    first: str
    second: str
    delta: Interval
    p: float  # two-sided
    p_holm: float


def leave_out(evaluate: Callable[[Int64], Float64], groups: int) -> Float64:
    """(m,) a metric without each of the groups in turn, or each of LEFT_OUT parts of them where there are more."""
    part = np.arange(groups) % LEFT_OUT
    m = min(groups, LEFT_OUT)
    blocks = [np.arange(start, min(start + BLOCK, m)) for start in range(0, m, BLOCK)]
    found = [evaluate((part[None, :] != block[:, None]).astype(np.int64)) for block in blocks]
    return np.concatenate(found) if found else np.empty(0)


def paired_difference(value: float, replicates: Float64, left_out: Float64) -> tuple[Interval, float]:
    """The interval value ∓ t·SD, and the two-sided p of no difference by value / SD, t with `degrees` of freedom.

    `replicates` (b,) are the differences in the bootstrap's draws. P is 1 where nothing differs in any of them.
    """
    from scipy.stats import t

    plain = interval(value, replicates)
    if math.isnan(plain.low):
        return plain, float("nan")
    spread = float(replicates[~np.isnan(replicates)].std())
    if not spread > 0:
        return plain, 1.0 if value == 0 else float("nan")
    freedom = degrees(left_out)
    half = float(t.ppf(0.975, freedom)) * spread
    return replace(plain, low=value - half, high=value + half), 2 * float(t.sf(abs(value) / spread, freedom))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values, in the given order. NaN stays NaN and does not count as a test."""
    values = np.array(p, np.float64)
    order = [i for i in np.argsort(values, kind="stable") if not np.isnan(values[i])]
    out = np.full(len(values), np.nan)
    running = 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * values[i]))
        out[i] = running
    return out.tolist()
