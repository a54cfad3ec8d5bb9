"""D25: calibration of frozen probabilities on other patients: calibration in the large, and the slope (Cox 1958)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.evaluation.bootstrap import Interval
from probes.evaluation.metrics import CLIP

STEPS = 50  # of Newton's method, which takes about six
SMALL_STEP = 1e-10
MOST_SLOPE = 1e3  # beyond it the rows are separated and no finite slope fits best


@dataclass(frozen=True)
class Recalibration:
    """One column. Perfect: ratio 1, intercept 0, slope 1."""

    name: str
    expected: float  # mean probability
    observed: float  # share of positive rows
    intercept: Interval  # of logit P(y = 1) = a + logit(p): above 0 the probabilities are too low
    slope: Interval  # of logit P(y = 1) = a + b · logit(p): below 1 they are too extreme


def recalibration(name: str, positive: Bool, p: Float64, groups: Int64) -> Recalibration:
    """Both fits by maximum likelihood, with standard errors by groups (the sandwich estimator; Liang & Zeger 1986).

    Intervals are estimate ∓ t · SE. For the intercept t has one degree of freedom fewer than the groups; for the slope,
    fewer than those on the smaller side, since else it is held too rarely where few are positive. NaN where no finite
    maximum exists: one class only, or rows that the probabilities separate; no interval with fewer than two groups on a
    side.
    """
    score = np.log(np.clip(p, CLIP, 1 - CLIP)) - np.log(np.clip(1 - p, CLIP, 1 - CLIP))
    ones = np.ones_like(score)
    y = positive.astype(np.float64)
    return Recalibration(
        name,
        float(p.mean()) if len(p) else float("nan"),
        float(y.mean()) if len(y) else float("nan"),
        _fitted(ones[:, None], y, score, groups)[0],
        _fitted(np.stack([ones, score], axis=1), y, np.zeros_like(score), groups)[-1],
    )


def _fitted(x: Float64, y: Float64, offset: Float64, groups: Int64) -> list[Interval]:
    """Each coefficient of a logistic regression of y (n,) on x (n, k), with its interval."""
    from scipy.special import expit
    from scipy.stats import t

    undefined = [Interval(float("nan"), float("nan"), float("nan"), 0, reliable=False)] * x.shape[1]
    if not len(y) or y.min() == y.max():
        return undefined
    beta = np.zeros(x.shape[1])
    for _ in range(STEPS):
        mean = expit(x @ beta + offset)
        curvature = x.T @ (x * (mean * (1 - mean))[:, None])
        try:
            step = np.linalg.solve(curvature, x.T @ (y - mean))
        except np.linalg.LinAlgError:
            return undefined
        beta = beta + step
        if not np.isfinite(beta).all() or np.abs(beta).max() > MOST_SLOPE:
            return undefined
        if np.abs(step).max() < SMALL_STEP:
            break
    else:
        return undefined
    ids = np.unique(groups, return_inverse=True)[1]
    count = int(ids.max()) + 1
    sides = min(len(np.unique(ids[y == side])) for side in (0, 1))
    if sides < 2:
        return [Interval(float(b), float("nan"), float("nan"), 0, reliable=False) for b in beta]
    by_group = np.zeros((count, x.shape[1]))
    np.add.at(by_group, ids, x * (y - expit(x @ beta + offset))[:, None])
    inverse = np.linalg.inv(curvature)
    variance = inverse @ (by_group.T @ by_group) @ inverse * count / (count - 1)
    half = float(t.ppf(0.975, (sides if x.shape[1] > 1 else count) - 1)) * np.sqrt(np.diag(variance))
    return [Interval(float(b), float(b - h), float(b + h)) for b, h in zip(beta, half, strict=True)]
