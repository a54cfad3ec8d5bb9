"""D36: errors, agreement and rank correlation of predicted numbers, for many integer group weightings at once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from indexer.types import Float64, Int64
from probes.evaluation.bootstrap import Interval, interval, replicate
from probes.evaluation.interval_kinds import degrees
from probes.evaluation.metrics import Values
from probes.evaluation.paired import leave_out
from probes.evaluation.ranks import CACHE_ROWS
from probes.evaluation.scoring import Resampling, Scored, compact

LIMITS = 1.959964  # SDs on either side of the bias (Bland & Altman 1986)
FEW_GROUPS = 30  # below which intervals, above all of the limits, hold the truth in fewer than 93 % (D36)
MOST = 100.0  # half of an interval on a logarithmic scale, so that its ends are finite
METRICS = ("mae", "rmse", "r2", "spearman", "bias", "limit_low", "limit_high", "number_slope")


@dataclass(frozen=True)
class NumberEvaluator:
    """Metrics of n predicted numbers as a function of group weights. Rows are in ascending order of prediction."""

    groups: int
    sums: Float64  # (9, g) of each group, in the order of `_sums`
    centre: float  # subtracted from both numbers before the sums, so that no digits are lost
    owners: Int64  # (n,) the rows' groups
    predicted_ties: tuple[Int64, Int64]  # (n,) first and one past the last row of an equal prediction
    true_owners: Int64  # (n,) groups in ascending order of the true number
    true_ties: tuple[Int64, Int64]  # (n,) of each row's true number, places in that order

    def __call__(self, weights: Int64) -> Values:
        """Every metric (b,) for group weights (b, g)."""
        out = self._of_sums(weights)
        step = max(1, CACHE_ROWS // max(len(self.owners), 1))
        blocks = [weights[start : start + step] for start in range(0, len(weights), step)]
        out["spearman"] = np.concatenate([self._spearman(block) for block in blocks])
        return {name: out[name] for name in METRICS}

    def point(self) -> dict[str, float]:
        return {name: float(value[0]) for name, value in self(np.ones((1, self.groups), np.int64)).items()}

    def _of_sums(self, weights: Int64) -> Values:
        n, absolute, e, ee, y, yy, p, pp, py = (weights.astype(np.float64) @ self.sums.T).T
        with np.errstate(invalid="ignore", divide="ignore"):
            bias, mse = e / n, ee / n
            spread = np.sqrt(np.maximum(ee - n * bias**2, 0) / (n - 1))
            of_true, of_predicted = yy - y**2 / n, pp - p**2 / n
            varies = of_true > 1e-12 * yy
            r2 = np.where(varies, 1 - ee / of_true, np.nan)
            slope = np.where(of_predicted > 1e-12 * pp, (py - p * y / n) / of_predicted, np.nan)
        return {
            "mae": absolute / n, "rmse": np.sqrt(mse), "r2": r2, "bias": bias,
            "limit_low": bias - LIMITS * spread, "limit_high": bias + LIMITS * spread, "number_slope": slope,
        }  # fmt: skip

    def _spearman(self, weights: Int64) -> Float64:
        """Pearson's correlation of midranks, where a row of weight w counts as w equal rows."""
        w = np.take(weights, self.owners, axis=1).astype(np.float64)
        x = _midranks(w, self.predicted_ties)
        y = _midranks(np.take(weights, self.true_owners, axis=1).astype(np.float64), self.true_ties)
        total = w.sum(1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            x, y = (ranks - (w * ranks).sum(1, keepdims=True) / total for ranks in (x, y))
            along = np.sqrt((w * x**2).sum(1) * (w * y**2).sum(1))
            return np.asarray(np.where(along > 0, (w * x * y).sum(1) / along, np.nan))


def _midranks(weights: Float64, ties: tuple[Int64, Int64]) -> Float64:
    """Midranks (b, n), less a constant, of rows whose value has these places in the order of `weights` (b, n)."""
    running = np.zeros((len(weights), weights.shape[1] + 1))
    np.cumsum(weights, axis=1, out=running[:, 1:])
    return np.asarray((np.take(running, ties[0], axis=1) + np.take(running, ties[1], axis=1)) / 2)


def number_evaluator(predicted: Float64, true: Float64, groups: Int64) -> NumberEvaluator:
    """Of predicted and true numbers (n,) and group ids 0 … g-1 (n,)."""
    order = np.argsort(predicted, kind="stable")
    predicted, true, groups = predicted[order], true[order], groups[order]
    by_true = np.argsort(true, kind="stable")
    count = int(groups.max()) + 1 if len(groups) else 0
    centre = float(true.mean()) if len(true) else 0.0
    return NumberEvaluator(
        count, _sums(predicted - centre, true - centre, groups, count), centre, groups,
        (np.searchsorted(predicted, predicted, "left"), np.searchsorted(predicted, predicted, "right")),
        groups[by_true],
        (np.searchsorted(true[by_true], true, "left"), np.searchsorted(true[by_true], true, "right")),
    )  # fmt: skip


def _sums(p: Float64, y: Float64, groups: Int64, count: int) -> Float64:
    e = p - y
    columns = (np.ones_like(e), np.abs(e), e, e**2, y, y**2, p, p**2, p * y)
    return np.stack([np.bincount(groups, column, count) for column in columns])


def score_numbers(predicted: Float64, true: Float64, groups: Int64, how: Resampling) -> Scored:
    """Every metric with its interval. `groups` (n,) with any ids."""
    groups = compact(groups)
    measured = number_evaluator(predicted, true, groups)
    point = measured.point()
    drawn = replicate(measured, measured.groups, replicates=how.replicates, seed=how.seed)
    without = leave_out(lambda weights: np.stack(list(measured(weights).values()), axis=1), measured.groups)
    metrics = {
        name: number_interval(name, point[name], drawn[name], without[:, j], measured.groups)
        for j, name in enumerate(METRICS)
    }
    loose = [name for name, value in metrics.items() if not value.reliable and not math.isnan(value.value)]
    notes = [f"interval unreliable (over 5 % of replicates undefined): {', '.join(loose)}"] if loose else []
    if measured.groups < FEW_GROUPS:
        notes.append(f"{measured.groups} groups only: the intervals are too narrow, above all those of the limits")
    return Scored(len(true), measured.groups, metrics, (), (), tuple(notes))


def number_interval(name: str, value: float, replicates: Float64, left_out: Float64, groups: int) -> Interval:
    """Symmetric on the metric's scale (log of an error and of 1 - R², Fisher's z of a correlation, else its own):
    value ∓ t·SD·√(g / (g - 1))·(derivative of the scale), SD of the replicates (b,), t with `degrees` of freedom of
    `left_out` (m,).
    """
    plain = interval(value, replicates)
    if math.isnan(plain.low):
        return plain
    half = half_width(replicates, left_out, groups)
    if name in ("mae", "rmse") and value > 0:
        away = min(half / value, MOST)
        low, high = value * math.exp(-away), value * math.exp(away)
    elif name == "r2" and value < 1:
        away = min(half / (1 - value), MOST)
        low, high = (1 - (1 - value) * math.exp(sign * away) for sign in (1, -1))
    elif name == "spearman" and abs(value) < 1:
        low, high = (math.tanh(math.atanh(value) + sign * half / (1 - value**2)) for sign in (-1, 1))
    else:
        low, high = value - half, value + half
    return replace(plain, low=low, high=high)


def half_width(replicates: Float64, left_out: Float64, groups: int) -> float:
    """t·SD·√(g / (g - 1)), SD of the defined replicates (b,), t with `degrees` of freedom of `left_out` (m,)."""
    from scipy.stats import t

    spread = float(replicates[~np.isnan(replicates)].std())
    return float(t.ppf(0.975, degrees(left_out))) * spread * math.sqrt(groups / (groups - 1))
