"""D38: selective prediction of numbers: the error of the rows that are kept when the least certain go to a person."""

from __future__ import annotations

import numpy as np

from indexer.types import Float64, Int64
from probes.evaluation.bootstrap import replicate
from probes.evaluation.certainty.selective import SHOWN, Kept, Selective, risk_curve
from probes.evaluation.metrics import Values
from probes.evaluation.paired import leave_out
from probes.evaluation.scoring import CURVE_POINTS, Resampling, compact
from probes.evaluation.targets.agreement import number_interval


def selective_errors(errors: Float64, doubt: Float64, groups: Int64, how: Resampling) -> Selective | None:
    """The mean absolute error by coverage, rows of the largest predicted error `doubt` (n,) left out first.

    A `Kept` row's `least` is minus the largest predicted error that is kept. None without rows.
    """
    if not len(errors):
        return None
    size = np.abs(errors)
    order, ends, risk = risk_curve(-doubt, size)
    n, ids = len(size), compact(groups)
    best = np.cumsum(np.sort(size)) / np.arange(1, n + 1)
    kept = tuple(
        _kept(ids, size, order[: ends[np.searchsorted(ends, share * n - 1e-9)]], doubt, how) for share in SHOWN
    )
    shown = np.unique(np.linspace(0, n - 1, CURVE_POINTS).astype(int))
    return Selective(
        tuple(((shown + 1) / n).tolist()), tuple(risk[shown].tolist()),
        float(risk.mean()), float(size.mean()), float(best.mean()), kept,
    )  # fmt: skip


def _kept(ids: Int64, size: Float64, rows: Int64, doubt: Float64, how: Resampling) -> Kept:
    """The mean absolute error of these rows, whose largest doubt is taken as fixed, with D36's interval."""
    own = compact(ids[rows])
    sums = np.stack([np.bincount(own, weights=size[rows]), np.bincount(own)], axis=1)

    def evaluate(weights: Int64) -> Values:
        total, n = (weights @ sums).T
        return {"mae": total / n}

    groups = len(sums)
    drawn = replicate(evaluate, groups, replicates=how.replicates, seed=how.seed)["mae"]
    without = leave_out(lambda weights: evaluate(weights)["mae"], groups) if groups > 1 else np.empty(0)
    value = number_interval("mae", float(size[rows].mean()), drawn, without, groups)
    return Kept(len(rows) / len(size), len(rows), -float(doubt[rows].max()), value)
