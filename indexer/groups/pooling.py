"""Pools the unit vectors of a group's rows to one vector, without attention: mean, maximum, mean of the largest."""

from __future__ import annotations

import re

import numpy as np

from indexer.errors import InputError
from indexer.types import Float16, Float32, Float64, Int64
from indexer.vectors import unit_rows

METHODS = "mean, max, mean+max, topK (as top5)"
MEAN = "mean"
_METHOD = re.compile(r"mean|max|mean\+max|top[1-9][0-9]{0,2}")
_ROWS = 8_192  # of one group pooled at once


def check_method(method: str, option: str) -> None:
    """Raise InputError, which names the option, where there is no such method."""
    if not _METHOD.fullmatch(method):
        raise InputError(f"{option} {method}: no such pooling. Choose one of {METHODS}.")


def width_of(method: str, dim: int) -> int:
    """The length of a pooled vector of rows of `dim` numbers."""
    return 2 * dim if method == "mean+max" else dim


class Pool:
    """Pools the rows of one group, which may come in several blocks.

    mean: of the unit rows; max: the largest value of each dimension; mean+max: both, one after the other; topK: the
    mean of the K largest values of each dimension (of all where there are fewer), so that top1 is max.
    """

    def __init__(self, method: str, dim: int) -> None:
        self._rows = 0
        self._sum = np.zeros(dim) if method.startswith("mean") else None
        self._kept = _kept(method)
        self._top = np.empty((0, dim))

    def add(self, rows: Float64) -> None:
        """Unit rows (m, dim)."""
        self._rows += len(rows)
        if self._sum is not None:
            self._sum += rows.sum(axis=0)
        if self._kept:
            both = np.concatenate([self._top, rows])
            out = len(both) - self._kept
            self._top = np.partition(both, out, axis=0)[out:] if out > 0 else both

    def pooled(self) -> Float64:
        """The pooled vector, which is not of length 1: the shorter a mean, the less alike are the group's rows."""
        mean = [] if self._sum is None else [self._sum / self._rows]
        largest = [self._top.mean(axis=0)] if self._kept else []
        return np.concatenate([*mean, *largest])


def _kept(method: str) -> int:
    """How many of the largest values of a dimension are kept."""
    if method.startswith("top"):
        return int(method.removeprefix("top"))
    return 0 if method == MEAN else 1


def held_numbers(method: str, dim: int) -> int:
    """How many float64 numbers a Pool of this method holds at most."""
    return dim * (_kept(method) + method.startswith(MEAN))


def directed(vectors: Float16) -> Float64:
    """Stored rows (m, dim) as unit rows: rounding to float16 left them of length 1 to 5e-4 only. A zero row stays."""
    rows = vectors.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    out: Float64 = rows / np.where(lengths > 0, lengths, 1.0)
    return out


def pool_rows(vectors: Float16, groups: Int64, count: int, method: str) -> tuple[Float16, Float32]:
    """Pool rows (n, dim) by their group's number (n,), below `count`; each group has a row.

    Returns the pooled vectors as unit rows (count, width) and their lengths before that (count,).
    """
    order = np.argsort(groups, kind="stable")
    ends = np.cumsum(np.bincount(groups, minlength=count))
    units = np.empty((count, width_of(method, vectors.shape[1])), np.float16)
    lengths = np.empty(count, np.float32)
    for number, (start, stop) in enumerate(zip(np.r_[0, ends[:-1]].tolist(), ends.tolist(), strict=True)):
        pool = Pool(method, vectors.shape[1])
        for first in range(start, stop, _ROWS):
            pool.add(directed(vectors[order[first : min(first + _ROWS, stop)]]))
        units[[number]], lengths[[number]], _ = unit_rows(pool.pooled()[None].astype(np.float32))
    return units, lengths
