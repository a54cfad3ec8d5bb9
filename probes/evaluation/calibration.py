"""D8: calibration errors and the temperature (Guo 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Float64
from probes.cohort.truth import Truth, probabilities
from probes.evaluation.metrics import CLIP, ECE_BINS, ece_bin

TEMPERATURES = (0.01, 100.0)  # range of the search
NEAR_BOUND = 1.001  # factor within which the result of the search counts as at a bound


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram."""

    low: float
    high: float
    rows: int
    confidence: float  # mean in the bin
    observed: float  # share of correct rows


@dataclass(frozen=True)
class Calibration:
    """Calibration errors of one set of probabilities; NaN where a form does not apply."""

    ece: float  # equal-width bins of the highest probability
    ece_adaptive: float  # equal-count bins
    ece_classwise: float  # mean over columns of the binary ECE of that column's probability
    log_loss: float
    brier: float
    bins: tuple[Bin, ...]  # of `ece`; of all labels together for multi-label


def calibration(p: Float64, truth: Truth, bins: int = ECE_BINS) -> Calibration:
    """All calibration errors of probabilities p (n, c); rows of a class task must sum to 1."""
    if truth.codes is None:
        confidence, correct = p[truth.known], truth.positive[truth.known]
        brier = float(np.mean((confidence - correct) ** 2)) if len(confidence) else float("nan")
    else:
        confidence, correct = p.max(1), p.argmax(1) == truth.codes
        brier = float(((p - truth.positive) ** 2).sum(1).mean()) if len(p) else float("nan")
    columns = [_binary_ece(p[k, j], truth.positive[k, j], bins) for j, k in enumerate(truth.known.T)]
    return Calibration(
        expected_error(confidence, correct, ece_bin(confidence, bins)),
        expected_error(confidence, correct, _equal_count(confidence, bins)),
        float(np.nanmean(columns)) if not np.isnan(columns).all() else float("nan"),
        log_loss(p, truth),
        brier,
        _bins(confidence, correct, bins),
    )


def expected_error(confidence: Float64, correct: np.ndarray, bin_of: np.ndarray) -> float:
    """Σ nₖ/N · |accuracyₖ - confidenceₖ| over bins."""
    if not len(confidence):
        return float("nan")
    gap = np.bincount(bin_of, weights=correct - confidence)
    return float(np.abs(gap).sum() / len(confidence))


def _binary_ece(p: Float64, positive: np.ndarray, bins: int) -> float:
    return expected_error(p, positive.astype(np.float64), ece_bin(p, bins))


def _equal_count(confidence: Float64, bins: int) -> np.ndarray:
    order = np.argsort(confidence, kind="stable")
    out = np.empty(len(order), np.int64)
    out[order] = np.arange(len(order)) * bins // max(len(order), 1)
    return out


def _bins(confidence: Float64, correct: np.ndarray, bins: int) -> tuple[Bin, ...]:
    bin_of = ece_bin(confidence, bins)
    rows = np.bincount(bin_of, minlength=bins)
    total = np.bincount(bin_of, weights=confidence, minlength=bins)
    right = np.bincount(bin_of, weights=correct.astype(np.float64), minlength=bins)
    return tuple(
        Bin(k / bins, (k + 1) / bins, int(rows[k]), float(total[k] / rows[k]), float(right[k] / rows[k]))
        for k in np.flatnonzero(rows)
    )


def log_loss(p: Float64, truth: Truth) -> float:
    """Mean -log of the true class's probability, clipped at 1e-12; for multi-label, over all known labels."""
    if truth.codes is None:
        return _binary_log_loss(p[truth.known], truth.positive[truth.known])
    own = np.clip(p[np.arange(len(p)), truth.codes], CLIP, 1.0)
    return float(0.0 - np.log(own).mean()) if len(own) else float("nan")  # unary minus would give -0


def _binary_log_loss(p: Float64, positive: np.ndarray) -> float:
    own = np.clip(np.where(positive, p, 1 - p), CLIP, 1.0)
    return float(0.0 - np.log(own).mean()) if len(own) else float("nan")


def fit_temperature(logits: Float64, truth: Truth) -> float:
    """The temperature of least log-loss on held-out fitted rows; 1 where no column has both kinds of rows there."""
    from scipy.optimize import minimize_scalar

    positive = (truth.positive & truth.known).sum(0)
    if not ((positive > 0) & (positive < truth.known.sum(0))).any():
        return 1.0

    def loss(log_temperature: float) -> float:
        return log_loss(probabilities(logits, truth.multilabel, float(np.exp(log_temperature))), truth)

    bounds = np.log(TEMPERATURES[0]), np.log(TEMPERATURES[1])
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-10})
    return float(np.exp(found.x))


def at_bound(temperature: float) -> bool:
    """Whether the temperature is at a bound of the search, beyond which the log-loss would decrease further."""
    return temperature <= TEMPERATURES[0] * NEAR_BOUND or temperature >= TEMPERATURES[1] / NEAR_BOUND
