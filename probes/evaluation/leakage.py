"""D2: counts test rows with a near-duplicate among the fitted rows of other groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.types import Float32, Int64, Progress
from probes.cohort.truth import Truth
from probes.compute.exact_search import nearest_above

THRESHOLDS = (0.999, 0.995, 0.99, 0.98, 0.95)


@dataclass(frozen=True)
class Level:
    """Test rows with a fitted row of another group at or above this cosine."""

    cosine: float
    rows: int
    label_agreement: float  # share whose nearest fitted row has the same class; NaN without such rows or classes


@dataclass(frozen=True)
class Audit:
    """The near-duplicate audit of one split."""

    test_rows: int
    fitted_rows: int  # the maximum over several folds
    tau: float
    flagged: int  # test rows at or above tau
    chance_agreement: float  # Σ p_c² over the test classes
    levels: tuple[Level, ...]


def near_duplicates(
    base: Float32,
    queries: Float32,
    *,
    base_groups: Int64,
    query_groups: Int64,
    tau: float,
    progress: Progress | None = None,
) -> tuple[Float32, Int64]:
    """Highest cosine (q,) to a fitted row of another group, and that row (q,); -inf and -1 below every threshold."""
    floor = min(*THRESHOLDS, tau)
    return nearest_above(base, queries, floor, base_groups=base_groups, query_groups=query_groups, progress=progress)


def audit(cosine: Float32, nearest: Int64, test: Truth, fitted: Truth, tau: float) -> Audit:
    """Count the near-duplicates at each threshold and at tau, with the agreement of their classes."""
    levels, classes = [], test.numbers is None  # of numbers there is no agreement by chance
    for threshold in sorted({*THRESHOLDS, tau}, reverse=True):
        hit = np.flatnonzero(cosine >= threshold)
        agreement = float("nan")
        if len(hit) and classes and test.codes is not None and fitted.codes is not None:
            agreement = float(np.mean(test.codes[hit] == fitted.codes[nearest[hit]]))
        levels.append(Level(threshold, len(hit), agreement))
    chance = float("nan")
    if classes and test.codes is not None and test.n:
        chance = float(((np.bincount(test.codes) / test.n) ** 2).sum())
    return Audit(test.n, fitted.n, tau, int((cosine >= tau).sum()), chance, tuple(levels))


def combine(audits: Sequence[Audit]) -> Audit:
    """Several audits of disjoint test rows as one: counts added, agreements weighted by their rows."""
    levels = []
    for same in zip(*(found.levels for found in audits), strict=True):
        rows = sum(level.rows for level in same)
        agreeing = sum(level.rows * level.label_agreement for level in same if level.rows)
        levels.append(Level(same[0].cosine, rows, agreeing / rows if rows else float("nan")))
    tested = sum(found.test_rows for found in audits)
    return Audit(
        tested,
        max(found.fitted_rows for found in audits),
        audits[0].tau,
        sum(found.flagged for found in audits),
        sum(found.test_rows * found.chance_agreement for found in audits) / tested,
        tuple(levels),
    )
