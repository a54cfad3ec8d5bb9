"""L-BFGS (Nocedal & Wright 2006, algorithm 7.4) for a convex objective, as a generator, so that many run in step.

The line search looks at the slope along the line alone, which grows from left to right as the objective is convex:
near the minimum, values of the objective no longer differ in float64, while slopes still have their sign. scipy's
searches compare values, and stop there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from indexer.types import Float64

MEMORY = 30  # correction pairs; their cost is small beside a pass over the rows
STEPS = 20  # most evaluations on one line
SHORT, LONG = 0.9, 0.5  # a slope between -SHORT and +LONG of the first one's size ends the search
PATIENCE = 30  # evaluations within which the excess must halve, or the objective fall by more than its rounding


@dataclass(frozen=True)
class Seen:
    """A point of the search."""

    flat: Float64  # (m,)
    value: float
    gradient: Float64  # (m,)
    excess: float  # what the search brings below its goal


Search = Generator[Float64, Seen, Seen]  # yields a point, is sent what was seen there


def lbfgs(first: Seen, goal: float, evaluations: int, rounding: float) -> Search:
    """A point whose excess is at most `goal`, or where the search stalls; `rounding` is that of the objective."""
    now = first
    pairs: deque[tuple[Float64, Float64]] = deque(maxlen=MEMORY)
    mark, since = (first.excess, first.value), 0
    while now.excess > goal and evaluations > 0:
        direction = -_inverse(now.gradient, pairs)
        if not now.gradient @ direction < 0:
            pairs.clear()
            direction = -now.gradient
        ahead, used = yield from _line(now, direction, goal)
        evaluations, since = evaluations - used, since + used
        moved, bent = ahead.flat - now.flat, ahead.gradient - now.gradient
        if not np.isfinite(bent).all() or not bent.any():
            break
        if moved @ bent > 1e-14 * float(np.linalg.norm(moved) * np.linalg.norm(bent)):
            pairs.append((moved, bent))
        now = ahead
        if now.excess < mark[0] / 2 or now.value < mark[1] - rounding * abs(mark[1]):
            mark, since = (min(mark[0], now.excess), min(mark[1], now.value)), 0
        elif since >= PATIENCE:
            break
    return now


def _line(start: Seen, direction: Float64, goal: float) -> Generator[Float64, Seen, tuple[Seen, int]]:
    """A point on the line whose slope is small beside that of the start, and the number of evaluations."""
    first = float(start.gradient @ direction)
    low, high = (0.0, first), (np.inf, np.inf)  # (step, slope)
    step, used = 1.0, 0
    while True:
        seen = yield start.flat + step * direction
        used += 1
        slope = float(seen.gradient @ direction)
        if seen.excess <= goal or SHORT * first <= slope <= -LONG * first or used == STEPS:
            return seen, used
        if slope < 0:
            low = step, slope
        else:  # NaN too
            high = step, slope
        step = _between(low, high)


def _between(low: tuple[float, float], high: tuple[float, float]) -> float:
    """Where the straight line through the two slopes is 0, kept off the ends; beyond `low` where there is no `high`."""
    if high[0] == np.inf:
        return 4 * low[0]
    share = low[1] / (low[1] - high[1])
    return low[0] + (high[0] - low[0]) * (min(max(share, 0.1), 0.9) if np.isfinite(share) else 0.1)


def _inverse(gradient: Float64, pairs: deque[tuple[Float64, Float64]]) -> Float64:
    """The inverse Hessian that the pairs suggest, times the gradient."""
    out, weights = gradient.copy(), []
    for moved, bent in reversed(pairs):
        weights.append(float(moved @ out) / float(moved @ bent))
        out -= weights[-1] * bent
    if pairs:
        moved, bent = pairs[-1]
        out *= float(moved @ bent) / float(bent @ bent)
    for (moved, bent), weight in zip(pairs, reversed(weights), strict=True):
        out += (weight - float(bent @ out) / float(moved @ bent)) * moved
    return out
