"""D31: the images that stand for a class, and those that are far from all others of it."""

from __future__ import annotations

import numpy as np

from indexer.types import Float32, Float64, Int64
from probes.compute.exact_search import top_k

NEIGHBOURS = 5  # whose mean cosine says how far from its class a row is


def typicality(unit: Float32, groups: Int64) -> Float64:
    """(n,) cosine of each unit row of one class to the mean of the other groups' rows: the highest are prototypes."""
    total = unit.sum(0, dtype=np.float64)
    names, ids = np.unique(groups, return_inverse=True)
    own = np.zeros((len(names), unit.shape[1]))
    np.add.at(own, ids, unit)
    rest = total - own[ids]
    length = np.maximum(np.linalg.norm(rest, axis=1), 1e-12)
    return np.asarray(np.einsum("ij,ij->i", unit.astype(np.float64), rest) / length)


def closeness(unit: Float32, groups: Int64) -> Float64:
    """(n,) mean cosine to the NEIGHBOURS nearest rows of the class in other groups: the lowest are outliers.

    NaN for a row whose class has no other group.
    """
    k = min(NEIGHBOURS, len(unit))
    cosine, found = top_k(unit, unit, k, base_groups=groups, query_groups=groups)
    there = found >= 0
    total = np.where(there, cosine, 0).sum(1, dtype=np.float64)
    return np.asarray(np.divide(total, there.sum(1), out=np.full(len(unit), np.nan), where=there.any(1)))
