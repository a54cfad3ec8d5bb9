"""D30: do neighbours agree in the class or in the confounder? The robustness index (Kömen et al. 2025, PathoROB)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float32, Int64
from probes.compute.exact_search import top_k

NEIGHBOURS = 10
MOST_ROWS = 5000  # whose neighbours are sought


@dataclass(frozen=True)
class Robustness:
    """Of the neighbours that share one of the two, the share that share the class."""

    index: float  # 1: class alone decides who is near, 0: the confounder alone
    chance: float  # of neighbours drawn at random among the other groups' rows
    class_only: int  # pairs with the same class and another value of the confounder
    confounder_only: int  # pairs with another class and the same value
    k: int


def robustness(unit: Float32, groups: Int64, codes: Int64, confounder: Int64, seed: int) -> Robustness | None:
    """The index over the k nearest rows of other groups. `unit` (n, dim) unit rows; None where no pair tells."""
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = np.sort(rng.permutation(len(unit))[:MOST_ROWS])
    k = min(NEIGHBOURS, len(unit) - 1)
    if k < 1:
        return None
    _, found = top_k(unit, unit[rows], k, base_groups=groups, query_groups=groups[rows])
    query, other = np.repeat(rows, k)[found.ravel() >= 0], found.ravel()[found.ravel() >= 0]
    class_only, confounder_only = _counts(codes[query] == codes[other], confounder[query] == confounder[other])
    by_chance = _counts_of_all(rows, groups, codes, confounder)
    if not class_only + confounder_only:
        return None
    chance = by_chance[0] / sum(by_chance) if sum(by_chance) else float("nan")
    return Robustness(class_only / (class_only + confounder_only), chance, class_only, confounder_only, k)


def _counts(same_class: Bool, same_value: Bool) -> tuple[int, int]:
    return int((same_class & ~same_value).sum()), int((~same_class & same_value).sum())


def _counts_of_all(rows: Int64, groups: Int64, codes: Int64, confounder: Int64) -> tuple[int, int]:
    """The same counts over all pairs of a row and a row of another group, from the sizes of the cells."""
    c, s = int(codes.max()) + 1, int(confounder.max()) + 1
    whole = np.bincount(codes * s + confounder, minlength=c * s).reshape(c, s)
    names, at = np.unique(groups[rows], return_inverse=True)
    of_them = np.flatnonzero(np.isin(groups, names))
    own = np.zeros((len(names), c, s), np.int64)
    np.add.at(own, (np.searchsorted(names, groups[of_them]), codes[of_them], confounder[of_them]), 1)
    rest = whole - own[at]  # (rows, c, s)
    each = np.arange(len(rows))
    both = rest[each, codes[rows], confounder[rows]]
    class_only = rest[each, codes[rows]].sum() - both.sum()
    return int(class_only), int(rest[each, :, confounder[rows]].sum() - both.sum())
