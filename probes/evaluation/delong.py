"""D10: DeLong's variance of AUCs, fast form by midranks (DeLong 1988; Sun & Xu 2014)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64


@dataclass(frozen=True)
class DeLong:
    """AUCs (k,) of k scores of the same rows and their covariance (k, k)."""

    auc: Float64
    covariance: Float64

    def interval(self, which: int = 0) -> tuple[float, float]:
        """95 % interval on the logit scale; at AUC 0 or 1 the logit is undefined and so is the interval (NaN)."""
        area, variance = float(self.auc[which]), float(self.covariance[which, which])
        if math.isnan(area) or not 0 < area < 1:
            return float("nan"), float("nan")
        centre = math.log(area / (1 - area))
        half = 1.959963984540054 * math.sqrt(max(variance, 0.0)) / (area * (1 - area))
        low, high = (1 / (1 + math.exp(-(centre + s * half))) for s in (-1, 1))
        return max(0.0, low), min(1.0, high)

    def test(self, first: int = 0, second: int = 1) -> tuple[float, float]:
        """Z and two-sided p of auc[first] - auc[second]; NaN where the variance of the difference is 0."""
        step = np.zeros(len(self.auc))
        step[first], step[second] = 1, -1
        variance = float(step @ self.covariance @ step)
        if not variance > 0:
            return float("nan"), float("nan")
        z = float(step @ self.auc) / math.sqrt(variance)
        return z, math.erfc(abs(z) / math.sqrt(2))


def delong(positive: Bool, scores: Float64) -> DeLong:
    """AUC and covariance of scores (k, n) for truth (n,). All NaN with fewer than 2 positives or 2 negatives.

    V10 = (R_all,pos - R_pos) / n, V01 = 1 - (R_all,neg - R_neg) / m, with midranks R, m positives and n negatives;
    AUC = mean V10; covariance = cov(V10)/m + cov(V01)/n. Rows must be independent: one for each group.
    """
    from scipy.stats import rankdata

    scores = np.atleast_2d(np.asarray(scores, np.float64))
    k, m, n = len(scores), int(positive.sum()), int((~positive).sum())
    if m < 2 or n < 2:
        return DeLong(np.full(k, np.nan), np.full((k, k), np.nan))
    ranks = rankdata(scores, axis=1)
    v10 = (ranks[:, positive] - rankdata(scores[:, positive], axis=1)) / n
    v01 = 1 - (ranks[:, ~positive] - rankdata(scores[:, ~positive], axis=1)) / m
    covariance = np.atleast_2d(np.cov(v10)) / m + np.atleast_2d(np.cov(v01)) / n
    return DeLong(np.clip(v10.mean(axis=1), 0, 1), covariance)
