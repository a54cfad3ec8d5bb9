"""The accuracy of the probe on labelled images that were drawn at random, with an interval clustered by patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Int64


@dataclass(frozen=True)
class Accuracy:
    """A share of images that are right, and its 95 % interval; None where fewer than two groups were drawn."""

    value: float
    low: float | None
    high: float | None
    images: int
    groups: int


def accuracy(right: Bool, groups: Int64) -> Accuracy | None:
    """Of images (n,) and their groups; None without images.

    The interval is Clopper and Pearson's for the effective number of images: n divided by the design effect, which is
    the variance of the share between groups over that of independent images, and never more than n (Korn & Graubard,
    Survey Methodology 24, 1998). Where all images agree the design effect cannot be estimated, and each group counts
    as one.
    """
    from scipy.stats import beta, t

    n = len(right)
    if not n:
        return None
    value = float(right.mean())
    _, of_group = np.unique(groups, return_inverse=True)
    count = int(of_group.max()) + 1
    if count < 2:
        return Accuracy(value, None, None, n, count)
    effective = float(count)
    if 0 < value < 1:
        residuals = np.bincount(of_group, weights=right - value)
        variance = count / (count - 1) * float((residuals**2).sum()) / n**2
        design = variance / (value * (1 - value) / (n - 1))
        freedom = (t.ppf(0.975, n - 1) / t.ppf(0.975, count - 1)) ** 2
        effective = min(n / max(design, 1e-12) * freedom, n)
    hits = value * effective
    low = float(beta.ppf(0.025, hits, effective - hits + 1)) if hits > 0 else 0.0
    high = float(beta.ppf(0.975, hits + 1, effective - hits)) if hits < effective else 1.0
    return Accuracy(value, low, high, n, count)
