"""D7: every metric of a scored test set, as a function of group weights.

Point estimates use weight 1 for each group, bootstrap replicates the counts of their draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from indexer.types import Float64, Int64
from probes.cohort.truth import Truth
from probes.evaluation.ranks import RankedColumn, auc_and_ap, rank_column

if TYPE_CHECKING:
    from scipy import sparse

CLIP = 1e-12  # of probabilities in a log-loss
ECE_BINS = 15
Values = dict[str, Float64]  # metric → (b,), or (b, c) for per-class ones; recall of labels (b, 2c): with, without

HEADLINE = (
    "auc_macro", "auc_weighted", "ap_macro", "balanced_accuracy", "f1_macro", "accuracy", "kappa_quadratic",
    "brier", "log_loss", "ece_debiased",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluator:
    """Metrics of fixed scores, for any group weights."""

    truth: Truth
    columns: tuple[RankedColumn, ...]
    sums: sparse.csr_matrix  # (sums, g): contribution of each group to the counts and losses
    slots: dict[str, slice]  # name → its rows in `sums`
    groups: int
    bin_error: (
        Float64  # (ECE_BINS,) standard error by groups of each bin's share of the calibration error; () of labels
    )

    def __call__(self, weights: Int64) -> Values:
        """Metrics under group weights (b, g). NaN where a metric is undefined."""
        areas = [auc_and_ap(column, weights) for column in self.columns]
        auc = np.stack([a for a, _ in areas], axis=1)
        ap = np.stack([p for _, p in areas], axis=1)
        totals = np.asarray((self.sums @ weights.T.astype(np.float64)).T)
        parts = {name: totals[:, rows] for name, rows in self.slots.items()}
        values = {"auc": auc, "ap": ap, "auc_macro": nan_mean(auc), "ap_macro": nan_mean(ap)}
        with np.errstate(invalid="ignore", divide="ignore"):
            values["auc_weighted"] = _weighted_mean(auc, parts["positive"])
            if self.truth.multilabel:
                values.update(_label_metrics(parts))
            else:
                values.update(_class_metrics(parts, self.truth))
                values["ece_debiased"] = debiased(_bin_gaps(parts), self.bin_error).sum(1)
        return values

    def largest(self, loss: str) -> float:
        """The largest mean loss that there can be (D7)."""
        if loss == "log_loss":
            return -math.log(CLIP)
        return 1.0 if self.truth.multilabel else 2.0

    def influence(self) -> dict[str, Float64]:
        """Of each mean loss the deviation (g,) that each group adds, to first order; they sum to 0."""
        return {name: self._influence(name) for name in ("brier", "log_loss")}

    def _influence(self, name: str) -> Float64:
        """Σ (the group's losses - mean loss · its rows) / rows; of labels the mean over those with both sides."""
        positive, losses = self.sums[self.slots["positive"]], self.sums[self.slots[name]]
        known = positive + self.sums[self.slots["negative"]] if self.truth.multilabel else positive.sum(0)
        n = np.ravel(known.sum(1))
        used = np.full(len(n), True)
        if self.truth.multilabel:
            ill = np.ravel(positive.sum(1))
            used = (ill > 0) & (ill < n)
        share = np.divide(1.0, n * max(used.sum(), 1), out=np.zeros(len(n)), where=used)
        mean = np.divide(np.ravel(losses.sum(1)), n, out=np.zeros(len(n)), where=used)
        return np.ravel(losses.T @ share) - np.ravel(known.T @ (share * mean))

    def trials(self, name: str) -> list[tuple[int, int]]:
        """Groups and rows in the denominators of the values "recall", or (of TP / (TP + FP + FN)) "f1"."""
        positive = self.sums[self.slots["positive"]]
        if name == "f1":
            counted = [positive + self.sums[self.slots["called"]] - self.sums[self.slots["right"]]]
        else:
            counted = [positive, *([self.sums[self.slots["negative"]]] if self.truth.multilabel else [])]
        groups = [np.ravel((each > 0).sum(1)).astype(int).tolist() for each in counted]
        rows = [np.ravel(each.sum(1)).astype(int).tolist() for each in counted]
        return list(zip(chain(*groups), chain(*rows), strict=True))

    def sides(self) -> Int64:
        """(c,) the smaller of the numbers of groups with a positive row and with a negative row of each column."""
        return np.array(
            [min(len(np.unique(c.positive_groups)), len(np.unique(c.negative_groups))) for c in self.columns]
        )

    def point(self) -> Values:
        """Every metric with weight 1 for each group: (), or (c,)."""
        return {k: v[0] for k, v in self(np.ones((1, self.groups), np.int64)).items()}


def evaluator(p: Float64, truth: Truth, groups: Int64) -> Evaluator:
    """Prepare the metrics of probabilities p (n, c). `groups` are ids 0 … g-1 of the rows (n,)."""
    from scipy import sparse  # 20 MB, which a program that only reads results does not need

    n_groups = int(groups.max()) + 1 if len(groups) else 0
    columns = tuple(
        rank_column(p[:, j], truth.positive[:, j], truth.known[:, j], groups) for j in range(len(truth.classes))
    )
    blocks = _label_blocks(p, truth) if truth.multilabel else _class_blocks(p, truth)
    slots, start = {}, 0
    for name, block in blocks.items():
        slots[name] = slice(start, start + block.shape[1])
        start += block.shape[1]
    by_row = sparse.csr_matrix(np.concatenate(list(blocks.values()), axis=1)) if len(p) else None
    member = sparse.csr_matrix((np.ones(len(p)), (groups, np.arange(len(p)))), (n_groups, len(p)))
    sums = (member @ by_row).T.tocsr() if by_row is not None else sparse.csr_matrix((start, 0))
    error = np.empty(0) if truth.multilabel else _bin_error(sums, slots, len(p))
    return Evaluator(truth, columns, sums, slots, n_groups, error)


def _bin_error(sums: sparse.csr_matrix, slots: dict[str, slice], n: int) -> Float64:
    """Standard error (bins,) of each bin's gap as a share of all n rows, with groups as the independent units."""
    gaps = np.asarray((sums[slots["bin_correct"]] - sums[slots["bin_confidence"]]).todense())  # (bins, g)
    groups = gaps.shape[1]
    if groups < 2:
        return np.zeros(len(gaps))
    return np.asarray(gaps.std(axis=1, ddof=1) * np.sqrt(groups) / n)


def _bin_gaps(parts: Values) -> Float64:
    """(b, bins): accuracy minus confidence of each bin, times the bin's share of the rows."""
    return np.asarray((parts["bin_correct"] - parts["bin_confidence"]) / parts["positive"].sum(1, keepdims=True))


def debiased(gap: Float64, error: Float64) -> Float64:
    """Estimates of |true gap| from gaps with normal errors: |gap| - 2·√(2/π)·error·exp(-1.5·(gap/error)²).

    Where the true gap is 0, |gap| is too large by √(2/π)·error on average. The subtracted term has the same mean there,
    since E exp(-1.5 z²) = 1/2, and vanishes where the gap is larger than its error. The estimate may be below 0.
    """
    z = np.divide(gap, error, out=np.full(np.broadcast(gap, error).shape, np.inf), where=error > 0)
    return np.asarray(np.abs(gap) - 2 * np.sqrt(2 / np.pi) * error * np.exp(-1.5 * z**2))


def _class_blocks(p: Float64, truth: Truth) -> dict[str, Float64]:
    codes = truth.strata()
    called = p.argmax(1)
    own = np.clip(p[np.arange(len(p)), codes], CLIP, 1.0)
    confidence, correct = p.max(1), called == codes
    bins = np.eye(ECE_BINS)[ece_bin(confidence)]
    rows = {
        "positive": truth.positive,
        "called": np.eye(len(truth.classes))[called],
        "right": truth.positive & correct[:, None],
        "distance": ((called - codes) ** 2)[:, None],
        "brier": ((p - truth.positive) ** 2).sum(1)[:, None],
        "log_loss": 0.0 - np.log(own)[:, None],  # a plain minus would make 0 into -0
        "bin_confidence": bins * confidence[:, None],
        "bin_correct": bins * correct[:, None],
    }
    return {k: np.asarray(v, np.float64) for k, v in rows.items()}


def _label_blocks(p: Float64, truth: Truth) -> dict[str, Float64]:
    called, known = p >= 0.5, truth.known
    own = np.clip(np.where(truth.positive, p, 1 - p), CLIP, 1.0)
    rows = {
        "positive": truth.positive & known,
        "negative": ~truth.positive & known,
        "called": called & known,
        "right": called & truth.positive & known,
        "right_negative": ~called & ~truth.positive & known,
        "brier": np.where(known, (p - truth.positive) ** 2, 0.0),
        "log_loss": np.where(known, 0.0 - np.log(own), 0.0),
    }
    return {k: np.asarray(v, np.float64) for k, v in rows.items()}


def _class_metrics(parts: Values, truth: Truth) -> Values:
    positive, called, right = parts["positive"], parts["called"], parts["right"]
    n = positive.sum(1)
    usable = (positive > 0) & truth.known.any(0)  # a class without a fitted row is in no mean (D1)
    recall = np.where(usable, right / positive, np.nan)
    f1 = np.where(usable, 2 * right / (positive + called), np.nan)
    gap = np.abs(parts["bin_correct"] - parts["bin_confidence"])
    values = {
        "accuracy": right.sum(1) / n,
        "recall": recall,
        "f1": f1,
        "balanced_accuracy": nan_mean(recall),
        "f1_macro": nan_mean(f1),
        "brier": parts["brier"][:, 0] / n,
        "log_loss": parts["log_loss"][:, 0] / n,
        "ece": gap.sum(1) / n,
    }
    if truth.ordinal:
        values["kappa_quadratic"] = _kappa(positive, called, parts["distance"][:, 0])
    return values


def _label_metrics(parts: Values) -> Values:
    positive, negative, right = parts["positive"], parts["negative"], parts["right"]
    both = np.where((positive > 0) & (negative > 0), 1.0, np.nan)
    known = positive + negative
    sensitivity, specificity = both * right / positive, both * parts["right_negative"] / negative
    f1 = both * 2 * right / (positive + parts["called"])
    return {
        "recall": np.concatenate([sensitivity, specificity], axis=1),
        "f1": f1,
        "balanced_accuracy": nan_mean((sensitivity + specificity) / 2),
        "f1_macro": nan_mean(f1),
        "brier": nan_mean(both * parts["brier"] / known),
        "log_loss": nan_mean(both * parts["log_loss"] / known),
    }


def _kappa(positive: Float64, called: Float64, distance: Float64) -> Float64:
    """Quadratic-weighted kappa: 1 - Σ (i - j)² observed / Σ (i - j)² expected from the margins."""
    grades = np.arange(positive.shape[1])
    cost = (grades[:, None] - grades[None, :]) ** 2
    expected = np.einsum("bi,ij,bj->b", positive, cost, called) / positive.sum(1)
    return np.asarray(1 - distance / expected)


def _weighted_mean(values: Float64, weights: Float64) -> Float64:
    defined = ~np.isnan(values)
    total = np.where(defined, weights, 0).sum(1)
    return np.asarray(np.where(defined, values * weights, 0).sum(1) / total)


def nan_mean(values: Float64) -> Float64:
    """Mean of the defined values over the last axis; NaN where there are none. NaN classes are not replaced (D7)."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined, values, 0).sum(-1) / defined.sum(-1))


def ece_bin(confidence: Float64, bins: int = ECE_BINS) -> Int64:
    """The bin (k/B, (k+1)/B] of each confidence, 0 … B-1 (D8)."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def confusion(p: Float64, truth: Truth) -> Int64:
    """Counts (c, c): rows true, columns predicted (highest probability, ties to the first class)."""
    codes = truth.codes
    c = len(truth.classes)
    if codes is None or not len(p):
        return np.zeros((0, 0), np.int64) if codes is None else np.zeros((c, c), np.int64)
    return np.bincount(codes * c + p.argmax(1), minlength=c * c).reshape(c, c)


def macro_auc_error(area: float, truth: Truth) -> float:
    """Standard error of a macro AUC by Hanley & McNeil 1982 at the mean area, with independent columns; or NaN.

    SE² = (A(1-A) + (m-1)(Q₁-A²) + (n-1)(Q₂-A²)) / (m·n), Q₁ = A/(2-A), Q₂ = 2A²/(1+A), m positives and n negatives.
    """
    m = (truth.positive & truth.known).sum(0).astype(np.float64)
    n = truth.known.sum(0) - m
    if len(m) == 2 and not truth.multilabel:  # both columns have the same AUC
        m, n = m[1:], n[1:]
    m, n = m[(m > 0) & (n > 0)], n[(m > 0) & (n > 0)]
    if not len(m) or np.isnan(area):
        return float("nan")
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    squared = (area * (1 - area) + (m - 1) * (q1 - area**2) + (n - 1) * (q2 - area**2)) / (m * n)
    return float(np.sqrt(np.maximum(squared, 0).mean() / len(m)))


def macro_auc(p: Float64, truth: Truth) -> float:
    """Macro one-vs-rest AUC over the columns where it is defined."""
    one, zeros = np.ones((1, 1), np.int64), np.zeros(len(p), np.int64)
    areas = [
        auc_and_ap(rank_column(p[:, j], truth.positive[:, j], truth.known[:, j], zeros), one)[0][0]
        for j in range(len(truth.classes))
    ]
    return float(nan_mean(np.array(areas)))
