"""D11: an operating point is chosen on validation rows, fixed, and evaluated on the test rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.evaluation.bootstrap import Evaluate, Interval
from probes.evaluation.metrics import Values

RATES = ("sensitivity", "specificity", "ppv", "npv", "lr_positive", "lr_negative")


@dataclass(frozen=True)
class OperatingPoint:
    """Positive iff score ≥ threshold."""

    column: str  # the positive class
    target_specificity: float
    threshold: float
    validation_sensitivity: float
    validation_specificity: float
    rates: dict[str, Interval]  # RATES on the test rows
    prevalence: float | None  # given by the user, for the last field
    ppv_at_prevalence: Interval | None


@dataclass(frozen=True)
class Threshold:
    """The threshold that D11 chose on the validation rows."""

    value: float
    sensitivity: float
    specificity: float


def choose_threshold(positive: Bool, scores: Float64, specificity: float) -> Threshold:
    """The threshold of highest sensitivity among those with at least this specificity; ties: the larger threshold.

    Candidates are the scores and the next number above the largest, at which no row is positive. NaN without positives
    or negatives.
    """
    high, low = np.sort(scores[positive]), np.sort(scores[~positive])
    if not len(high) or not len(low):
        return Threshold(float("nan"), float("nan"), float("nan"))
    candidates = np.append(np.unique(scores), np.nextafter(scores.max(), np.inf))
    spec = np.searchsorted(low, candidates, "left") / len(low)
    sens = 1 - np.searchsorted(high, candidates, "left") / len(high)
    allowed = np.flatnonzero(spec >= specificity)
    best = allowed[np.flatnonzero(sens[allowed] == sens[allowed].max())[-1]]
    return Threshold(float(candidates[best]), float(sens[best]), float(spec[best]))


def rates_evaluator(positive: Bool, called: Bool, groups: Int64, n_groups: int) -> Evaluate:
    """RATES of fixed predictions, for any group weights; NaN where a denominator is 0."""
    cells = [positive & called, positive & ~called, ~positive & called, ~positive & ~called]
    counts = np.stack([np.bincount(groups[cell], minlength=n_groups) for cell in cells], axis=1).astype(np.float64)

    def evaluate(weights: Int64) -> Values:
        tp, fn, fp, tn = (weights @ counts).T
        with np.errstate(invalid="ignore", divide="ignore"):
            sens, spec = tp / (tp + fn), tn / (tn + fp)
            values = (sens, spec, tp / (tp + fp), tn / (tn + fn), sens / (1 - spec), (1 - sens) / spec)
        return dict(zip(RATES, (np.where(np.isfinite(v), v, np.nan) for v in values), strict=True))

    return evaluate


def denominators(positive: Bool, called: Bool, groups: Int64) -> dict[str, tuple[int, int]]:
    """The numbers of groups and of rows in the denominator of each rate that is a share."""
    parts = {"sensitivity": positive, "specificity": ~positive, "ppv": called, "npv": ~called}
    return {name: (len(np.unique(groups[rows])), int(rows.sum())) for name, rows in parts.items()}
