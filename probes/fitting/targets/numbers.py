"""D36: fits a probe of numbers on an experiment's fit rows, and predicts its test rows, which affect no choice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.errors import ProbeError
from indexer.types import Float64, Int64, Progress
from probes.cohort.experiment import Experiment
from probes.cohort.scaling import BLOCK, ScaledRows, fit_scaler, rows_of
from probes.cohort.splits import FOLDS, grouped_folds
from probes.evaluation.ranks import mean
from probes.fitting.knn import group_ids, neighbour_features
from probes.fitting.models import Arrays, Model
from probes.fitting.sweep import ALIKE, Candidate, Selection, fixed
from probes.fitting.targets.ridge import ALPHAS, inner_errors, ridge_on
from probes.fitting.train import logits_of
from probes.fitting.trained import Trained
from probes.fitting.votes import Vote, clipped_ks, nearest, neighbour_means

DRAWS = 5
CHOSEN_FROM = 16  # groups from which alpha of a draw is chosen by folds


@dataclass(frozen=True)
class SizePoint:
    """The test error with so many fitted groups; the last point is all of train."""

    groups: int
    mae_mean: float
    mae_sd: float
    draws: int
    alphas: tuple[float, ...]


def train_numbers(experiment: Experiment, progress: Progress) -> Trained:
    """Fit a ridge regression or kNN. Raises ProbeError where the rows to fit on hold one number only."""
    numbers = numbers_of(experiment, experiment.fit_rows)
    if not np.ptp(numbers) > 0:
        label = experiment.request.labels[0]
        raise ProbeError(f"the rows to fit on hold one {label} only ({numbers[0]:g}). Choose another split or --where.")
    return (_train_knn if experiment.request.probe == "knn" else _train_ridge)(experiment, progress)


def numbers_of(experiment: Experiment, rows: Int64) -> Float64:
    numbers = experiment.data.truth.numbers
    assert numbers is not None  # of a request whose target is numeric
    return numbers[rows]


def _inner_name(experiment: Experiment) -> str:
    return "val split" if experiment.val_chooses else f"{FOLDS} grouped folds of train"


def _train_ridge(experiment: Experiment, progress: Progress) -> Trained:
    """Alpha of the lowest inner error, then the fit on train and val."""
    request, data, split = experiment.request, experiment.data, experiment.split
    rows = experiment.fit_rows
    scaler = fit_scaler(request.scaling, data.vectors, split.train)
    x, y = ScaledRows(data.vectors, rows, scaler), numbers_of(experiment, rows)
    ridge = ridge_on(x, y)
    with progress.stage("choosing alpha"):
        selection = (
            fixed("alpha", request.penalty)
            if request.penalty is not None
            else _lowest("alpha", ALPHAS, inner_errors(ridge, experiment.inner_folds()), _inner_name(experiment))
        )
    with progress.stage("final fit"):
        solved = ridge.fit(selection.value)
        model = Model("linear", {"W": solved.weights, "b": solved.intercepts})
        predicted = logits_of(model, data.vectors, split.test, scaler)
    return Trained(model, scaler, selection, True, rows[:0], np.empty((0, 1)), predicted)


def _lowest(parameter: str, values: Float64, errors: Float64, inner: str, *, larger: bool = True) -> Selection:
    """The value of the lowest inner error; ties (ALIKE) → the larger alpha, or the smaller k."""
    best = np.flatnonzero(errors <= errors.min() * (1 + ALIKE))
    at = int(best[-1] if larger else best[0])
    candidates = tuple(Candidate(float(v), float("nan"), error=float(e)) for v, e in zip(values, errors, strict=True))
    ends = (0, len(values) - 1) if larger else (len(values) - 1,)
    return Selection(parameter, float(values[at]), inner, len(values) > 1 and at in ends, candidates)


def _train_knn(experiment: Experiment, progress: Progress) -> Trained:
    """The weighted mean of the neighbours' numbers (D6's neighbours and weights), k of the lowest inner error."""
    request, data, split = experiment.request, experiment.data, experiment.split
    scaler = fit_scaler(request.scaling, data.vectors, split.train)
    rows, vote = experiment.fit_rows, Vote(request.vote, request.temperature)
    numbers = numbers_of(experiment, rows)
    asked = () if request.k is None else (min(request.k, len(rows)),)
    ks = tuple(sorted({*clipped_ks(len(rows)), *asked}))
    groups, euclidean = data.groups[rows], request.metric == "euclidean"
    train = len(split.train)
    held = np.arange(train, len(rows)) if experiment.val_chooses else np.arange(train)
    with progress.stage("choosing k", len(held)):
        x = neighbour_features(experiment, rows, scaler)
        found = nearest(x, rows_of(x, held), ks[-1], base_groups=groups, query_groups=groups[held],
                        euclidean=euclidean, progress=progress)  # fmt: skip
        inner = np.array(
            [np.sqrt(np.mean((neighbour_means(found, numbers, k, vote) - numbers[held]) ** 2)) for k in ks]
        )
    with progress.stage("neighbours of the test rows", len(split.test)):
        found = nearest(x, neighbour_features(experiment, split.test, scaler), ks[-1], base_groups=groups,
                        query_groups=data.groups[split.test], euclidean=euclidean, progress=progress)  # fmt: skip
    where = f"{'val' if experiment.val_chooses else 'train'} rows, each without its own group"
    chosen = _lowest("k", np.array(ks, np.float64), inner, where, larger=False)
    selection = chosen if request.k is None else fixed("k", min(request.k, ks[-1]))
    k = int(selection.value)
    arrays: Arrays = {"x": x, "numbers": numbers, "groups": group_ids(data.group_names)[groups]}
    settings = {"k": float(k), "temperature": request.temperature, "uniform": float(request.vote == "uniform"),
                "euclidean": float(euclidean)}  # fmt: skip
    model, predicted = Model("knn-numbers", arrays, settings), neighbour_means(found, numbers, k, vote)[:, None]
    return Trained(model, scaler, selection, True, rows[:0], np.empty((0, 1)), predicted)


def sizes(experiment: Experiment, alpha_of_all: float, progress: Progress) -> tuple[SizePoint, ...]:
    """D12 for numbers: the test mean absolute error with 2, 4, 8, … groups of train, five draws each, and with all.

    Draws are nested: the first groups of a seeded order. Below CHOSEN_FROM groups alpha is the mean squared length of
    the draw's centred rows; from there on that of five grouped folds of the draw.
    """
    request, data, split = experiment.request, experiment.data, experiment.split
    scaler = fit_scaler(request.scaling, data.vectors, split.train)
    y, groups = numbers_of(experiment, split.train), data.groups[split.train]
    test, true = ScaledRows(data.vectors, split.test, scaler).whole(), numbers_of(experiment, split.test)
    names = np.unique(groups)
    points = []
    for n in [2**i for i in range(1, len(names).bit_length()) if 2**i < len(names)]:
        found, alphas = [], []
        for seed in range(request.seed, request.seed + DRAWS):
            order = np.random.Generator(np.random.PCG64(seed)).permutation(names)
            rows = np.flatnonzero(np.isin(groups, order[:n]))
            own = ScaledRows(data.vectors, split.train[rows], scaler)
            alpha = request.penalty if request.penalty is not None else _alpha(own, y[rows], groups[rows], n, seed)
            found.append(_error(own, y[rows], alpha, (test, true)))
            alphas.append(alpha)
        progress.advance()
        points.append(SizePoint(n, mean(found), float(np.std(found, ddof=1)), DRAWS, tuple(alphas)))
    whole = _error(ScaledRows(data.vectors, split.train, scaler), y, alpha_of_all, (test, true))
    return (*points, SizePoint(len(names), whole, float("nan"), 1, (alpha_of_all,)))


def _alpha(x: ScaledRows, y: Float64, groups: Int64, n: int, seed: int) -> float:
    if n < CHOSEN_FROM:
        return mean_squared_length(x)
    folds = grouped_folds(np.zeros(len(y), np.int64), groups, seed)
    return _lowest("alpha", ALPHAS, inner_errors(ridge_on(x, y), folds), "").value


def mean_squared_length(x: ScaledRows) -> float:
    """Of the centred rows x (n, dim): an alpha of the size of the data; 1 where they do not vary."""
    n, first, second = len(x.rows), np.zeros(x.shape[1]), 0.0
    for start in range(0, n, BLOCK):
        block = x[start : start + BLOCK]
        first += block.sum(0)
        second += float((block**2).sum())
    found = second / n - float((first / n) @ (first / n))
    return found if found > 1e-9 * second / n else 1.0


def _error(x: ScaledRows, y: Float64, alpha: float, test: tuple[Float64, Float64]) -> float:
    """The test mean absolute error of one fit."""
    solved = ridge_on(x, y).fit(alpha)
    return float(np.abs(test[0] @ solved.weights[0] + solved.intercepts[0] - test[1]).mean())
