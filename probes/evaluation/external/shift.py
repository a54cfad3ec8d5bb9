"""D26: do two sets of patients come from one distribution of vectors? Two permutation tests that keep patients whole.

A classifier two-sample test (Lopez-Paz & Oquab 2017) and the maximum mean discrepancy (Gretton 2012). Under the null
patients, each with all its images, are exchangeable between the sets, so that p values from permuting patients are
exact at any sample size; permuting images is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Float32, Float64, Int64

PERMUTATIONS = 199
MOST_ROWS = 1000  # of each set: the tests hold a matrix of all pairs; whole groups are drawn at random
FOLDS = 5
RIDGE = 0.1  # of the classifier, as a share of the mean variance; fixed, so that it sees no label
MEDIAN_ROWS = 500  # from which the kernel's width is taken


@dataclass(frozen=True)
class Shift:
    """Both tests; small p: the sets differ."""

    rows: tuple[int, int]  # used of each set
    groups: tuple[int, int]
    auc: float  # out-of-fold, of the classifier that tells the sets apart; near 0.5 where it cannot
    p_classifier: float
    mmd: float  # squared, biased estimate
    p_mmd: float
    permutations: int


def shift(
    one: tuple[Float32, Int64], other: tuple[Float32, Int64], seed: int, permutations: int = PERMUTATIONS
) -> Shift | None:
    """Test two sets, each of features (n, dim) and group ids (n,). None with fewer than FOLDS groups in a set."""
    rng = np.random.Generator(np.random.PCG64(seed))
    drawn = [_draw(groups, rng) for _, groups in (one, other)]
    x = np.concatenate([of[0][rows] for of, rows in zip((one, other), drawn, strict=True)]).astype(np.float64)
    ids = [np.unique(of[1][rows], return_inverse=True)[1] for of, rows in zip((one, other), drawn, strict=True)]
    counts = tuple(int(i.max()) + 1 if len(i) else 0 for i in ids)
    if min(counts) < FOLDS:
        return None
    owner = np.concatenate([ids[0], ids[1] + counts[0]])
    member = np.zeros((permutations + 1, sum(counts)), bool)  # whether each group is of the first set
    member[0, : counts[0]] = True
    for row in member[1:]:
        row[rng.permutation(len(row))[: counts[0]]] = True
    x -= x.mean(0)
    products = x @ x.T
    areas = _areas(products, owner, member, rng)
    squared = _discrepancies(products, owner, member, rng)
    return Shift(
        (len(drawn[0]), len(drawn[1])),
        (counts[0], counts[1]),
        float(areas[0]),
        _p(areas),
        float(squared[0]),
        _p(squared),
        permutations,
    )


def _draw(groups: Int64, rng: np.random.Generator) -> Int64:
    """Rows of whole groups in a random order, at most MOST_ROWS (or one group)."""
    if len(groups) <= MOST_ROWS:
        return np.arange(len(groups))
    names, ids = np.unique(groups, return_inverse=True)
    order = rng.permutation(len(names))
    sizes = np.cumsum(np.bincount(ids)[order])
    kept = order[: max(1, int(np.searchsorted(sizes, MOST_ROWS, "right")))]
    return np.flatnonzero(np.isin(ids, kept))


def _p(statistics: Float64) -> float:
    """(1 + permutations at least as large) / (1 + permutations), the observed one first (Phipson & Smyth 2010)."""
    return float((statistics >= statistics[0] - 1e-12).mean())


def _areas(products: Float64, owner: Int64, member: np.ndarray, rng: np.random.Generator) -> Float64:
    """Out-of-fold AUC (permutations + 1,) of ridge regression on each labelling; folds of groups, blind to the sets.

    The held-out scores are linear in the labels, so that one matrix serves every permutation.
    """
    from scipy.linalg import cho_factor, cho_solve
    from scipy.stats import rankdata

    n = len(owner)
    fold_of = rng.permutation(np.arange(int(owner.max()) + 1) % FOLDS)[owner]
    labels = member[:, owner].T.astype(np.float64)  # (n, permutations + 1)
    scores = np.empty_like(labels)
    for fold in range(FOLDS):
        held, fit = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        centre = products[fit].mean(0)  # (n,) of each row with the fit rows' mean
        own = products[np.ix_(fit, fit)] - centre[fit][:, None] - centre[fit][None, :] + centre[fit].mean()
        cross = products[np.ix_(held, fit)] - centre[held][:, None] - centre[fit][None, :] + centre[fit].mean()
        own[np.diag_indices_from(own)] += RIDGE * max(float(np.trace(own)), 1e-12) / len(fit) + 1e-12
        target = labels[fit] - labels[fit].mean(0)
        scores[held] = cross @ cho_solve(cho_factor(own), target)
    ranks = rankdata(scores, axis=0)
    positives = labels.sum(0)
    wins = (ranks * labels).sum(0) - positives * (positives + 1) / 2
    return np.asarray(wins / (positives * (n - positives)))


def _discrepancies(products: Float64, owner: Int64, member: np.ndarray, rng: np.random.Generator) -> Float64:
    """MMD² (permutations + 1,) with a Gaussian kernel whose width is the median distance of some pairs (both sets)."""
    norms = np.diag(products)
    squared = np.maximum(norms[:, None] + norms[None, :] - 2 * products, 0)
    some = rng.permutation(len(owner))[:MEDIAN_ROWS]
    apart = squared[np.ix_(some, some)][np.triu_indices(len(some), 1)]
    width = max(float(np.median(apart)), 1e-12)
    kernel = np.exp(-squared / width)
    g = int(owner.max()) + 1
    by_group = np.zeros((g, len(owner)))
    np.add.at(by_group, owner, kernel)
    pairs = np.zeros((g, g))
    np.add.at(pairs, owner, by_group.T)
    sizes = np.bincount(owner).astype(np.float64)
    first = (member * sizes).sum(1, keepdims=True)
    weights = np.where(member, 1 / first, -1 / (sizes.sum() - first))
    return np.asarray(((weights @ pairs) * weights).sum(1))
