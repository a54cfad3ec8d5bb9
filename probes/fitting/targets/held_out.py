"""D38: predicted numbers of fitted rows by fits without their groups, and the errors that a row's neighbours had."""

from __future__ import annotations

import numpy as np

from indexer.types import Float32, Float64, Int64
from probes.cohort.experiment import Experiment
from probes.cohort.scaling import ScaledRows
from probes.cohort.splits import FOLDS, grouped_folds
from probes.compute.exact_search import top_k
from probes.fitting.knn import neighbour_features
from probes.fitting.targets.numbers import numbers_of
from probes.fitting.targets.ridge import ridge_on
from probes.fitting.trained import Trained
from probes.fitting.votes import Vote, nearest, neighbour_means

NEIGHBOURS = 10  # whose errors predict a row's


def held_out_numbers(experiment: Experiment, trained: Trained) -> Float64:
    """(m,) of the fit rows, at the chosen alpha by five grouped folds of them, or of kNN by the other groups' rows."""
    request, data, rows = experiment.request, experiment.data, experiment.fit_rows
    y, groups = numbers_of(experiment, rows), data.groups[rows]
    if request.probe == "knn":
        x = neighbour_features(experiment, rows, trained.scaler)
        k = int(trained.selection.value)
        found = nearest(x, x, k, base_groups=groups, query_groups=groups, euclidean=request.metric == "euclidean")
        return neighbour_means(found, y, k, Vote(request.vote, request.temperature))
    scaled = ScaledRows(data.vectors, rows, trained.scaler)
    ridge = ridge_on(scaled, y)
    out = np.empty(len(rows))
    folds = grouped_folds(
        data.truth.take(rows).strata(), groups, request.seed, max(2, min(FOLDS, len(np.unique(groups))))
    )
    for fit, held in folds:
        path = ridge.path(fit, [trained.selection.value])
        out[held] = (scaled.take(held).whole() - ridge.shift[0]) @ path.weights[0] + path.intercepts[0] + ridge.shift[1]
    return out


def neighbours_errors(unit: tuple[Float32, Float32], errors: Float64, groups: tuple[Int64, Int64]) -> Float64:
    """(q,) mean absolute held-out error of the nearest fitted rows of other groups.

    `unit`: fitted unit rows (m, dim) and those asked for (q, dim); `groups`: of both. A row without any neighbour has
    the mean of all.
    """
    k = min(NEIGHBOURS, len(errors))
    _, found = top_k(unit[0], unit[1], k, base_groups=groups[0], query_groups=groups[1])
    there = found >= 0
    size = np.abs(errors)
    total = np.where(there, size[found], 0).sum(1)
    return np.asarray(np.divide(total, there.sum(1), out=np.full(len(found), size.mean()), where=there.any(1)))
