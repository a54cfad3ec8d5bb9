"""D30: does a column raise the AUC? A permutation test, of which patients with all their images are the units.

Under the null the scores say nothing of the column beyond the class, so that groups of equal class may exchange its
values. The AUC of all rows stays as it is; the one within the column's values is then low only by chance. (The interval
of their difference is too wide for this question: without a confounder both have the same first-order terms, which
cancel, and the bootstrap overestimates the variance of what is left.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.cohort.truth import Truth
from probes.evaluation.ranks import EQUAL

PERMUTATIONS = 199


@dataclass(frozen=True)
class Ordered:
    """The known rows of one class or label, in ascending order of score."""

    rows: Int64
    positive: Bool
    tie: Int64  # equal for equal scores


@dataclass(frozen=True)
class Units:
    """What may be exchanged: the column's value of each item, a group or a row."""

    values: Int64  # (items,)
    item_of: Int64  # (n,) of each row
    blocks: tuple[Int64, ...]  # (units, items a unit): units whose values may take each other's places


def raises_p(
    p: Float64, truth: Truth, groups: Int64, stratum: Int64, seed: int, permutations: int = PERMUTATIONS
) -> float | None:
    """One-sided p of a column `stratum` (n,) that does not raise the macro AUC of p (n, c). None where no two groups
    can exchange values.

    Groups do so where the same classes occur in them. If some have rows of several values: where they have equally
    many rows of each class.
    """
    units = _units(_patterns(truth), np.unique(groups, return_inverse=True)[1], stratum)
    columns = [_ordered(p[:, j], truth.positive[:, j], truth.known[:, j]) for j in range(len(truth.classes))]
    observed = _macro(columns, stratum)
    if not units.blocks or np.isnan(observed):
        return None
    rng = np.random.Generator(np.random.PCG64(seed))
    low = 1  # the observed order
    for _ in range(permutations):
        drawn = units.values.copy()
        for block in units.blocks:
            drawn[block] = units.values[block[rng.permutation(len(block))]]
        low += not _macro(columns, drawn[units.item_of]) > observed + EQUAL
    return low / (permutations + 1)


def _patterns(truth: Truth) -> Int64:
    """(n,) equal for rows of the same class, or with the same labels."""
    if truth.codes is not None:
        return truth.codes
    return np.asarray(np.unique(truth.positive * 2 + truth.known, axis=0, return_inverse=True)[1].reshape(-1))


def _units(patterns: Int64, ids: Int64, stratum: Int64) -> Units:
    order = np.lexsort((patterns, ids))  # the rows of a group together, those of equal class in it together
    sizes = np.bincount(ids)
    starts = np.cumsum(sizes) - sizes
    value, owner, pattern = stratum[order], ids[order], patterns[order]
    constant = bool((value == np.repeat(value[starts], sizes)).all())
    # a group's key is the sum of random marks of its classes (or of its rows' classes): equal keys, equal classes
    mark = np.random.Generator(np.random.PCG64(0)).integers(1, 1 << 62, int(patterns.max()) + 1)
    counted = np.ones(len(ids), bool)
    if constant:
        counted = (np.diff(owner, prepend=-1) != 0) | (np.diff(pattern, prepend=-1) != 0)
    key = np.zeros(len(sizes), np.int64)
    np.add.at(key, owner[counted], mark[pattern[counted]])
    alike = np.argsort(key, kind="stable")
    values, item_of = (value[starts], ids) if constant else (stratum, np.arange(len(ids)))
    movable = []
    for groups in np.split(alike, np.flatnonzero(np.diff(key[alike])) + 1):
        block = groups[:, None] if constant else order[starts[groups][:, None] + np.arange(sizes[groups[0]])]
        if (values[block] != values[block[0]]).any():
            movable.append(block)
    return Units(values, item_of, tuple(movable))


def _ordered(score: Float64, positive: Bool, known: Bool) -> Ordered:
    rows = np.flatnonzero(known)
    rows = rows[np.argsort(score[rows], kind="stable")]
    return Ordered(rows, positive[rows], np.cumsum(np.diff(score[rows], prepend=score[rows[:1]]) != 0))


def _macro(columns: list[Ordered], stratum: Int64) -> float:
    """The mean over classes or labels of the AUC within the values (`strata.adjusted`), where it is defined."""
    defined = [area for area in (_within(column, stratum) for column in columns) if area == area]
    return float(np.mean(defined)) if defined else float("nan")


def _within(column: Ordered, stratum: Int64) -> float:
    """Σₛ nₛ⁺ AUCₛ / Σₛ nₛ⁺ over values with both sides."""
    value = stratum[column.rows]
    if not len(value):
        return float("nan")
    order = np.argsort(value.astype(np.int16), kind="stable")  # by value, then by score
    value, positive, tie = value[order], column.positive[order], column.tie[order]
    negatives = np.concatenate([[0], np.cumsum(~positive)])
    starts = np.diff(value, prepend=-1) != 0
    first = np.flatnonzero(starts | (np.diff(tie, prepend=-1) != 0))  # of each run of equal scores
    middle = (negatives[first] + negatives[np.append(first[1:], len(value))]) / 2
    below = np.repeat(middle, np.diff(np.append(first, len(value))))
    at = np.flatnonzero(starts)
    sizes = np.diff(np.append(at, len(value)))
    wins = np.add.reduceat(positive * (below - np.repeat(negatives[at], sizes)), at)
    cases = np.add.reduceat(positive.astype(np.int64), at)
    both = (cases > 0) & (cases < sizes)
    return float((wins[both] / (sizes - cases)[both]).sum() / cases[both].sum()) if both.any() else float("nan")
