"""D27: net benefit over threshold probabilities (Vickers & Elkin 2006), with a band from resampling whole groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.evaluation.bootstrap import replicate
from probes.evaluation.metrics import Values
from probes.evaluation.ranks import EQUAL
from probes.evaluation.scoring import Resampling, compact

THRESHOLDS = np.arange(1, 100) / 100
SIMULTANEOUS = 95  # per cent


@dataclass(frozen=True)
class DecisionCurve:
    """One column: every tuple has one entry a threshold."""

    name: str
    prevalence: float
    thresholds: tuple[float, ...]
    model: tuple[float, ...]  # net benefit of calling positive at p ≥ threshold
    low: tuple[float, ...]  # pointwise 95 % band
    high: tuple[float, ...]
    treat_all: tuple[float, ...]  # treat-none is 0
    gain_low: tuple[float, ...]  # simultaneous lower band of net benefit minus the better of treat-all and treat-none
    useful: tuple[tuple[float, float], ...]  # ranges of thresholds in which `gain_low` is above 0
    held: float | None = None  # per cent of similar simulated studies whose band held the truth at a threshold (D29)


def decision_curve(name: str, positive: Bool, p: Float64, groups: Int64, how: Resampling) -> DecisionCurve:
    """NB(t) = TP/n - FP/n · t/(1 - t) of calling p (n,) ≥ t positive; of treat-all π - (1 - π)·t/(1 - t)."""
    ids = compact(groups)
    n_groups = int(ids.max()) + 1 if len(ids) else 0
    odds = THRESHOLDS / (1 - THRESHOLDS)
    hits, alarms = (_called(p[side], ids[side], n_groups) for side in (positive, ~positive))
    worth = hits - alarms * odds  # (g, thresholds)
    sizes = np.bincount(ids, minlength=n_groups).astype(np.float64)
    ill = np.bincount(ids[positive], minlength=n_groups).astype(np.float64)

    def evaluate(weights: Int64) -> Values:
        times = weights.astype(np.float64)
        n, positives = (times @ sizes)[:, None], (times @ ill)[:, None]
        net = (times @ worth) / n
        everyone = (positives - (n - positives) * odds) / n
        return {"model": net, "gain": net - np.maximum(everyone, 0)}

    point = {key: value[0] for key, value in evaluate(np.ones((1, n_groups), np.int64)).items()}
    share = float(positive.mean())
    drawn = replicate(evaluate, n_groups, replicates=how.replicates, seed=how.seed)
    low, high = np.percentile(drawn["model"], [2.5, 97.5], axis=0)
    gain_low = _lower_band(point["gain"], drawn["gain"])
    return DecisionCurve(
        name,
        share,
        tuple(THRESHOLDS.tolist()),
        tuple(point["model"].tolist()),
        tuple(low.tolist()),
        tuple(high.tolist()),
        tuple((share - (1 - share) * odds).tolist()),
        tuple(gain_low.tolist()),
        _ranges(gain_low > 0),
    )


def _lower_band(gain: Float64, drawn: Float64) -> Float64:
    """A band below `gain` (thresholds,) that lies above it anywhere in 5 of 100 studies only: gain - q·SD, q the 95th
    percentile of the replicates' largest (drawn - gain) / SD. A band at each threshold alone would find some use of
    useless probabilities at one of them far more often.
    """
    spread = drawn.std(axis=0)
    varies = spread > EQUAL
    away = (drawn[:, varies] - gain[varies]) / spread[varies]
    q = float(np.percentile(away.max(axis=1, initial=0.0), SIMULTANEOUS)) if varies.any() else 0.0
    return np.where(varies, gain - q * spread, np.minimum(gain, 0.0))


def _called(p: Float64, ids: Int64, n_groups: int) -> Float64:
    """(g, thresholds): each group's rows with p ≥ threshold."""
    at = np.searchsorted(THRESHOLDS, p, "right")  # thresholds that the row reaches
    cells = len(THRESHOLDS) + 1
    counts = np.bincount(ids * cells + at, minlength=n_groups * cells).reshape(n_groups, cells)
    return np.asarray(counts[:, ::-1].cumsum(1)[:, ::-1][:, 1:])


def _ranges(inside: Bool) -> tuple[tuple[float, float], ...]:
    """First and last threshold of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8)))
    return tuple((float(THRESHOLDS[a]), float(THRESHOLDS[b - 1])) for a, b in zip(edges[::2], edges[1::2], strict=True))
