"""D40: how wrong a prediction of a time was, and which residuals are far out."""

from __future__ import annotations

import numpy as np

from indexer.types import Bool, Float64

FENCE = 3.0  # interquartile ranges above the upper quartile (Tukey 1977: far out)


def deviance_residuals(events: Bool, hazard: Float64) -> Float64:
    """(n,) of rows with cumulative hazards up to their time: sign(M) √(-2 (M + δ log(δ - M))), M = δ - hazard the
    martingale residual, δ the event (Therneau, Grambsch & Fleming 1990).

    Far above 0: the event came much earlier than its risk said; far below: it did not come although the risk was high.
    """
    happened = events.astype(np.float64)
    martingale = happened - hazard
    with np.errstate(divide="ignore"):
        inside = martingale + np.where(events, np.log(np.maximum(hazard, np.finfo(np.float64).tiny)), 0.0)
    return np.asarray(np.sign(martingale) * np.sqrt(np.maximum(-2 * inside, 0)))


def far_out(size: Float64) -> Bool:
    """(n,) which sizes lie more than FENCE interquartile ranges above the upper quartile."""
    if not len(size):
        return np.zeros(0, bool)
    low, high = np.percentile(size, [25, 75])
    return np.asarray(size > high + FENCE * (high - low))
