"""How far reduced-precision vectors are from fp32 ones, in cosines and in neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Float32
from indexer.vectors import unit_rows

NEIGHBOURS = 10


@dataclass(frozen=True)
class Agreement:
    """On one sample of images; `retention` is 1.0 where every image keeps its NEIGHBOURS nearest ones."""

    images: int
    lowest_cosine: float
    median_cosine: float
    retention: float


def agreement(vectors: Float32, reference: Float32) -> Agreement:
    """Of (n, dim) vectors with the fp32 ones of the same images. n must be larger than NEIGHBOURS.

    Retention of an image: the share of its NEIGHBOURS nearest other images by the reference, that are also among the
    NEIGHBOURS nearest by `vectors`. The mean over the images is given.
    """
    mine, theirs = (unit_rows(rows)[0].astype(np.float32) for rows in (vectors, reference))
    cosines = np.einsum("ij,ij->i", mine, theirs, dtype=np.float64)
    kept = (_nearest(mine)[:, :, None] == _nearest(theirs)[:, None, :]).any(axis=2)
    return Agreement(len(mine), float(cosines.min()), float(np.median(cosines)), float(kept.mean()))


def _nearest(rows: Float32) -> np.ndarray:
    """(n, NEIGHBOURS) positions of the nearest other rows by cosine."""
    scores = rows @ rows.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBOURS]
