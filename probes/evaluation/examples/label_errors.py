"""D31: rows whose label is probably wrong, by confident learning (Northcutt, Jiang & Chuang 2021)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Float64, Int64


@dataclass(frozen=True)
class Confident:
    """What out-of-sample probabilities say of the given labels."""

    thresholds: Float64  # (c,) mean probability of a class among the rows that are labelled with it; NaN without rows
    suggested: Int64  # (n,) the class that the row confidently belongs to, -1 for none
    joint: Int64  # (c, c) counts of confident rows: given label, suggested class

    def suspects(self, codes: Int64) -> Int64:
        """Rows whose suggested class differs from their label."""
        return np.flatnonzero((self.suggested >= 0) & (self.suggested != codes))


def confident(p: Float64, codes: Int64) -> Confident:
    """Confident joint of p (n, c), each row by a probe that was not fitted on it, and the given labels (n,).

    A row counts for class j if p_j ≥ t_j, t_j the mean of p_j over the rows labelled j; of several such classes for the
    most probable.
    """
    c = p.shape[1]
    thresholds = np.array([p[codes == j, j].mean() if (codes == j).any() else np.nan for j in range(c)])
    able = p >= np.where(np.isnan(thresholds), np.inf, thresholds) - 1e-12
    suggested = np.where(able.any(1), np.where(able, p, -1).argmax(1), -1)
    joint = np.zeros((c, c), np.int64)
    inside = suggested >= 0
    np.add.at(joint, (codes[inside], suggested[inside]), 1)
    return Confident(thresholds, suggested.astype(np.int64), joint)


def normalised_margin(p: Float64, codes: Int64) -> Float64:
    """(n,) p of the given label minus the largest other: the lowest is the most wrong (ranking of Northcutt 2021)."""
    rows = np.arange(len(p))
    others = p.copy()
    others[rows, codes] = -np.inf
    return np.asarray(p[rows, codes] - others.max(1))
