"""D25: the drop of a metric from one set of patients to another, which share none."""

from __future__ import annotations

import math

from probes.evaluation.bootstrap import Interval


def drop(internal: Interval, external: Interval) -> Interval:
    """Internal minus external, with the interval of two independent estimates (MOVER; Zou & Donner 2008).

    low = d - √((a - low_a)² + (high_b - b)²), high = d + √((high_a - a)² + (b - low_b)²): each side takes the distances
    of the two intervals that point that way, so that asymmetric intervals (of an AUC near 1) stay asymmetric. NaN where
    either has no interval, or one of width 0, which is no certainty.
    """
    value = internal.value - external.value
    parts = (internal.low, internal.high, external.low, external.high, value)
    dropped, reliable = internal.dropped + external.dropped, internal.reliable and external.reliable
    certain = internal.low == internal.high or external.low == external.high
    if certain or any(math.isnan(part) for part in parts):
        return Interval(value, math.nan, math.nan, dropped, reliable=False)
    down = math.hypot(internal.value - internal.low, external.high - external.value)
    up = math.hypot(internal.high - internal.value, external.value - external.low)
    return Interval(value, value - down, value + up, dropped, reliable)
