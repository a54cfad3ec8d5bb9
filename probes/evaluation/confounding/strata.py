"""D30: AUCs that a confounder cannot raise: within its strata, and with rows weighted so that it is balanced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.cohort.truth import Truth
from probes.evaluation.bootstrap import Interval, replicate
from probes.evaluation.interval_kinds import area_interval, varied_interval
from probes.evaluation.metrics import Values, nan_mean
from probes.evaluation.ranks import auc_and_ap, rank_column
from probes.evaluation.scoring import Resampling, compact

Area = Callable[[Int64], Float64]  # group weights (b, g) → AUC (b,)


@dataclass(frozen=True)
class Adjusted:
    """Macro AUCs of the same scores."""

    plain: Interval
    within: Interval  # pairs of rows of one stratum only
    balanced: Interval  # all pairs, weighted so that class and confounder are independent
    fall: Interval  # plain minus within, on common draws
    strata: int  # with positives and negatives of some column


def adjusted(p: Float64, truth: Truth, groups: Int64, stratum: Int64, how: Resampling) -> Adjusted:
    """Adjusted AUCs of p (n, c); `stratum` (n,) ids of the confounder's values.

    Within: Σₛ nₛ⁺ AUCₛ / Σₛ nₛ⁺ over strata with both sides, nₛ⁺ positives (the covariate-adjusted AUC of Janes & Pepe
    2009). Balanced: a row weighs P(class)·P(stratum)/P(class, stratum), shares among the rows, fixed in the resamples.
    """
    ids = compact(groups)
    n_groups = int(ids.max()) + 1
    columns = range(len(truth.classes))
    inside = [_within(p[:, j], truth.positive[:, j], truth.known[:, j], (ids, stratum)) for j in columns]
    weighted = [_balanced(p[:, j], truth.positive[:, j], truth.known[:, j], (ids, stratum)) for j in columns]
    ranked = [rank_column(p[:, j], truth.positive[:, j], truth.known[:, j], ids) for j in columns]

    def evaluate(weights: Int64) -> Values:
        plain = nan_mean(np.stack([auc_and_ap(column, weights)[0] for column in ranked], axis=1))
        within = nan_mean(np.stack([each(weights) for each in inside], axis=1))
        balanced = nan_mean(np.stack([each(weights) for each in weighted], axis=1))
        return {"plain": plain, "within": within, "balanced": balanced, "fall": plain - within}

    point = {name: float(value[0]) for name, value in evaluate(np.ones((1, n_groups), np.int64)).items()}
    drawn = replicate(evaluate, n_groups, replicates=how.replicates, seed=how.seed)
    sides = [min(len(np.unique(c.positive_groups)), len(np.unique(c.negative_groups))) for c in ranked]
    fewest = min((s for s in sides if s), default=0)
    found = {name: area_interval(point[name], drawn[name], fewest) for name in ("plain", "within", "balanced")}
    return Adjusted(
        found["plain"], found["within"], found["balanced"], varied_interval(point["fall"], drawn["fall"]),
        _usable(truth, stratum),
    )  # fmt: skip


def _usable(truth: Truth, stratum: Int64) -> int:
    count = 0
    for s in np.unique(stratum):
        rows = stratum == s
        sides = [(truth.positive[rows, j][k], k) for j, k in enumerate(truth.known[rows].T)]
        count += any(own.any() and not own.all() for own, k in sides if k.any())
    return count


def _within(score: Float64, positive: Bool, known: Bool, where: tuple[Int64, Int64]) -> Area:
    ids, stratum = where
    parts = []
    for s in np.unique(stratum):
        rows = (stratum == s) & known
        if positive[rows].any() and not positive[rows].all():
            parts.append(rank_column(score, positive, rows, ids))

    def evaluate(weights: Int64) -> Float64:
        total, mass = np.zeros(len(weights)), np.zeros(len(weights))
        for column in parts:
            area = auc_and_ap(column, weights)[0]
            cases = weights[:, column.positive_groups].sum(1).astype(np.float64)
            defined = ~np.isnan(area)
            total += np.where(defined, area * cases, 0)
            mass += np.where(defined, cases, 0)
        return np.asarray(np.divide(total, mass, out=np.full(len(mass), np.nan), where=mass > 0))

    return evaluate


def _balanced(score: Float64, positive: Bool, known: Bool, where: tuple[Int64, Int64]) -> Area:
    ids, stratum = where
    rows = np.flatnonzero(known & np.isin(stratum, _shared(positive, known, stratum)))
    weight = balancing(positive[rows], stratum[rows])
    order = np.argsort(score[rows], kind="stable")
    rows, weight = rows[order], weight[order]
    high, own, s = positive[rows], ids[rows], score[rows]
    lower, upper = np.searchsorted(s, s, "left"), np.searchsorted(s, s, "right")

    def evaluate(weights: Int64) -> Float64:
        w = weights[:, own] * weight
        negative = np.concatenate([np.zeros((len(w), 1)), np.cumsum(w * ~high, axis=1)], axis=1)
        wins = (w[:, high] * (negative[:, lower[high]] + negative[:, upper[high]])).sum(1) / 2
        pairs = w[:, high].sum(1) * negative[:, -1]
        return np.asarray(np.divide(wins, pairs, out=np.full(len(w), np.nan), where=pairs > 0))

    return evaluate


def _shared(positive: Bool, known: Bool, stratum: Int64) -> Int64:
    """Strata with positives and negatives: in the others class and confounder cannot be made independent."""
    return np.intersect1d(stratum[known & positive], stratum[known & ~positive])


def balancing(positive: Bool, stratum: Int64) -> Float64:
    """(n,) P(class)·P(stratum)/P(class, stratum) of each row."""
    n = len(positive)
    out = np.ones(n)
    for s in np.unique(stratum):
        for side in (False, True):
            cell = (stratum == s) & (positive == side)
            if cell.any():
                out[cell] = (positive == side).sum() * (stratum == s).sum() / (n * cell.sum())
    return out
