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


@dataclass(frozen=True)
class Near:
    """The k nearest rows of other groups, which are the same for every confounder."""

    rows: Int64  # whose neighbours were sought
    query: Int64  # (m,) a row, as often as it has a neighbour
    other: Int64  # (m,) that neighbour
    k: int


def neighbours(unit: Float32, groups: Int64, seed: int) -> Near | None:
    """`unit` (n, dim) unit rows; None with one row."""
    rng = np.random.Generator(np.random.PCG64(seed))
    rows = np.sort(rng.permutation(len(unit))[:MOST_ROWS])
    k = min(NEIGHBOURS, len(unit) - 1)
    if k < 1:
        return None
    _, found = top_k(unit, unit[rows], k, base_groups=groups, query_groups=groups[rows])
    there = found.ravel() >= 0
    return Near(rows, np.repeat(rows, k)[there], found.ravel()[there], k)


def robustness(near: Near, groups: Int64, codes: Int64, confounder: Int64) -> Robustness | None:
    """The index over the neighbours; `groups`, `codes` and `confounder` (n,). None where no pair tells."""
    query, other = near.query, near.other
    class_only, confounder_only = _counts(codes[query] == codes[other], confounder[query] == confounder[other])
    by_chance = _counts_of_all(near.rows, groups, codes, confounder)
    if not class_only + confounder_only:
        return None
    chance = by_chance[0] / sum(by_chance) if sum(by_chance) else float("nan")
    return Robustness(class_only / (class_only + confounder_only), chance, class_only, confounder_only, near.k)


def _counts(same_class: Bool, same_value: Bool) -> tuple[int, int]:
    return int((same_class & ~same_value).sum()), int((~same_class & same_value).sum())


def _counts_of_all(rows: Int64, groups: Int64, codes: Int64, confounder: Int64) -> tuple[int, int]:
    """The same counts over all pairs of a row and a row of another group."""
    both = _alike(codes * (int(confounder.max()) + 1) + confounder, groups)[rows].sum()
    return int(_alike(codes, groups)[rows].sum() - both), int(_alike(confounder, groups)[rows].sum() - both)


def _alike(values: Int64, groups: Int64) -> Int64:
    """(n,) how many rows of other groups have each row's value."""
    _, ids, counts = np.unique(values, return_inverse=True, return_counts=True)
    _, owners = np.unique(groups, return_inverse=True)
    _, own, of_group = np.unique(owners * len(counts) + ids, return_inverse=True, return_counts=True)
    return np.asarray(counts[ids] - of_group[own], np.int64)
