"""The probe that orders images to label: a logistic one on the stored vectors, fitted anew after each batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Float32, Float64, Int64
from probes.fitting.objective import Task
from probes.fitting.softmax import minimise_all

FEWEST = 5  # labels of a class from which it is learnt
C = 1.0  # for features of mean squared length 1
TOLERANCE, ITERATIONS = 1e-2, 200  # W is then within 2 % of scikit-learn's minimum on digits and on drawn classes


@dataclass(frozen=True)
class Probe:
    """A logistic probe on unit vectors. `classes` are codes of the labels."""

    classes: Int64  # (c,)
    centre: Float64  # (dim,) subtracted from the vectors
    coef: Float64  # (c, dim), for the centred vectors
    intercept: Float64  # (c,)

    def probabilities(self, x: Float32) -> Float64:
        """(n, c) of unit vectors (n, dim)."""
        z = ((x - self.centre.astype(np.float32)) @ self.coef.T.astype(np.float32)).astype(np.float64) + self.intercept
        z -= z.max(axis=1, keepdims=True)
        np.exp(z, out=z)
        z /= z.sum(axis=1, keepdims=True)
        return z

    def predicted(self, x: Float32) -> Int64:
        """The most probable class (n,) of each vector."""
        best: Int64 = self.classes[self.probabilities(x).argmax(axis=1)]
        return best

    def column(self, code: int) -> int | None:
        """The column of a class; None where it was not learnt."""
        found = np.flatnonzero(self.classes == code)
        return int(found[0]) if len(found) else None


def fit(x: Float32, codes: Int64) -> Probe | None:
    """Of unit vectors (n, dim) and their codes (n,), from the classes with FEWEST labels; None for fewer than two."""
    counts = np.bincount(codes) if len(codes) else np.zeros(0, np.int64)
    classes = np.flatnonzero(counts >= FEWEST)
    if len(classes) < 2:
        return None
    rows = np.isin(codes, classes)
    own = x[rows]
    centre = own.mean(axis=0, dtype=np.float64)
    features = own - centre.astype(np.float32)
    scale = 1 / max(float(np.sqrt((features.astype(np.float64) ** 2).sum(axis=1).mean())), 1e-12)
    task = Task(features * np.float32(scale), np.searchsorted(classes, codes[rows]), len(classes), np.ones(len(own)), C)
    (found,) = minimise_all([task], [None], tol=TOLERANCE, iterations=ITERATIONS, proved=False)
    coef, intercept = found.coef * scale, found.intercept
    if len(classes) == 2:  # one row: the log odds of the second
        coef, intercept = np.concatenate([-coef / 2, coef / 2]), np.concatenate([-intercept / 2, intercept / 2])
    return Probe(classes, centre, coef, intercept)
