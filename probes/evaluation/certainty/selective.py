"""D28: selective prediction: the error rate of the rows that are kept when the least certain go to a person.

Risk and coverage after Geifman & El-Yaniv 2017; a row's certainty is its highest probability.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Float64, Int64
from probes.cohort.truth import Truth
from probes.evaluation.bootstrap import Interval, replicate
from probes.evaluation.interval_kinds import proportion_interval
from probes.evaluation.metrics import Values
from probes.evaluation.scoring import CURVE_POINTS, Resampling, compact

SHOWN = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)  # shares of the rows that are kept


@dataclass(frozen=True)
class Kept:
    """The rows of highest certainty."""

    coverage: float  # their share, with all rows of equal certainty
    rows: int
    least: float  # their least certainty
    risk: Interval  # share of them that is called wrong


@dataclass(frozen=True)
class Selective:
    """The curve, and rows of it with intervals."""

    coverage: tuple[float, ...]  # at most CURVE_POINTS points, ascending
    risk: tuple[float, ...]
    area: float  # mean risk over all coverages (AURC)
    area_random: float  # of an order that says nothing: the error rate
    area_best: float  # of an order with all errors last
    kept: tuple[Kept, ...]


def selective(p: Float64, truth: Truth, groups: Int64, how: Resampling) -> Selective | None:
    """The risk of p (n, c) by coverage. None for labels, which have no one class a row, and without rows."""
    if truth.codes is None or not truth.n:
        return None
    certainty, wrong = p.max(1), p.argmax(1) != truth.codes
    order, ends, risk = risk_curve(certainty, wrong)
    n, errors = len(wrong), int(wrong.sum())
    best = np.maximum(np.arange(1, n + 1) - (n - errors), 0) / np.arange(1, n + 1)
    ids = compact(groups)
    kept = tuple(
        _kept(ids, wrong, order[: ends[np.searchsorted(ends, share * n - 1e-9)]], certainty, how) for share in SHOWN
    )
    shown = np.unique(np.linspace(0, n - 1, CURVE_POINTS).astype(int))
    return Selective(
        tuple(((shown + 1) / n).tolist()), tuple(risk[shown].tolist()),
        float(risk.mean()), errors / n, float(best.mean()), kept,
    )  # fmt: skip


def risk_curve(certainty: Float64, loss: np.ndarray) -> tuple[Int64, Int64, Float64]:
    """Rows in descending order of certainty; how many there are up to each different one; and the mean loss (n,) of
    keeping the first 1 … n rows, with all rows of equal certainty.
    """
    order = np.argsort(-certainty, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(certainty[order]) != 0, True)) + 1  # equal certainties stay together
    risk_at = np.cumsum(loss[order])[ends - 1] / ends
    return order, ends, np.repeat(risk_at, np.diff(np.concatenate([[0], ends])))


def _kept(ids: Int64, wrong: np.ndarray, rows: Int64, certainty: Float64, how: Resampling) -> Kept:
    """The risk of these rows, whose least certainty is taken as fixed, under resampling of groups."""
    own = compact(ids[rows])
    counts = np.stack([np.bincount(own, weights=wrong[rows]), np.bincount(own)], axis=1)

    def evaluate(weights: Int64) -> Values:
        errors, n = (weights @ counts).T
        return {"risk": errors / n}

    drawn = replicate(evaluate, len(counts), replicates=how.replicates, seed=how.seed)
    risk = proportion_interval(float(wrong[rows].mean()), drawn["risk"], (len(counts), len(rows)))
    return Kept(len(rows) / len(wrong), len(rows), float(certainty[rows].min()), risk)
