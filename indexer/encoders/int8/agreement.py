"""How far reduced-precision vectors are from fp32 ones, in cosines and in neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Float32, Float64
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
    """Of the rows that a table would store of (n, dim) vectors with those of the same images' fp32 ones. n must be
    larger than NEIGHBOURS.

    Retention of an image: the share of its NEIGHBOURS nearest other images by the reference, that are also among the
    NEIGHBOURS nearest by `vectors`. The mean over the images is given.
    """
    mine, theirs = stored_directions(vectors), stored_directions(reference)
    cosines = np.einsum("ij,ij->i", mine, theirs)
    kept = (_nearest(mine)[:, :, None] == _nearest(theirs)[:, None, :]).any(axis=2)
    return Agreement(len(mine), float(cosines.min()), float(np.median(cosines)), float(kept.mean()))


def stored_directions(vectors: Float32) -> Float64:
    """Unit rows (n, dim) of what is stored. Rounding to float16 changes a row's length by up to 5e-4, which outweighs
    the differences between the cosines of an encoder whose vectors lie close together.
    """
    rows = unit_rows(vectors)[0].astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    directions: Float64 = rows / np.where(lengths > 0, lengths, 1)
    return directions


def _nearest(rows: Float64) -> np.ndarray:
    """(n, NEIGHBOURS) positions of the nearest other rows by cosine."""
    scores = rows @ rows.T
    np.fill_diagonal(scores, -np.inf)
    return np.argsort(-scores, axis=1, kind="stable")[:, :NEIGHBOURS]
