"""Kaplan & Meier's product-limit estimate for many weightings of the rows at once (D37)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64, Int64


@dataclass(frozen=True)
class Steps:
    """The distinct times at which something happened to n rows in ascending order of time."""

    times: Float64  # (k,) ascending
    observed: Int64  # (k,) first row that could still have it happen at each time
    happened: Int64  # (m,) rows to which it happened, in order
    starts: Int64  # (k,) first of these at each time


def steps_of(times: Float64, happened: Bool) -> Steps:
    """Of rows in ascending order of time, in which at one time events come before censored rows.

    `happened` are events, or, for the distribution of censoring, the censored rows: events of the same time are then no
    longer at risk of it.
    """
    rows = np.flatnonzero(happened)
    distinct, starts = np.unique(times[rows], return_index=True)
    # of censoring the first censored row of the time, of events the first row of the time: both are the first it befell
    return Steps(distinct, rows[starts] if len(rows) else rows, rows, starts)


def product_limit(steps: Steps, weights: Float64) -> Float64:
    """(b, k + 1) the estimate before the first time, and from each time on, for row weights (b, n)."""
    out = np.ones((len(weights), len(steps.times) + 1))
    if not len(steps.times):
        return out
    running = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=running[:, 1:])
    at_risk = running[:, -1:] - np.take(running, steps.observed, axis=1)
    count = np.add.reduceat(np.take(weights, steps.happened, axis=1), steps.starts, axis=1)
    factors = np.divide(at_risk - count, at_risk, out=np.ones_like(at_risk), where=at_risk > 0)
    np.cumprod(factors, axis=1, out=out[:, 1:])
    return out
