"""Fits a probe on an experiment's fit rows and scores its test rows, which affect no choice (D4, D5, D14)."""

from __future__ import annotations

import numpy as np

from indexer.errors import ProbeError
from indexer.store.table import EmbeddingStore
from indexer.store.text import read_text
from indexer.types import Float32, Float64, Int64, Progress
from probes.cohort.experiment import SHUFFLES, Experiment, shuffled
from probes.cohort.scaling import BLOCK, ScaledRows, Scaler, Vectors, features, fit_scaler
from probes.cohort.splits import FOLDS, counted, grouped_folds
from probes.cohort.truth import Truth, hide_absent, probabilities
from probes.evaluation.metrics import macro_auc
from probes.fitting.estimators import (
    FINAL_TOL,
    NEAR_TOL,
    PROBES,
    Features,
    Recipe,
    check_two_classes,
    fit,
    fit_all,
    shows_two_classes,
)
from probes.fitting.knn import train_knn
from probes.fitting.linear import Job
from probes.fitting.models import Model
from probes.fitting.selection import choose_penalty
from probes.fitting.sweep import FITS, fixed
from probes.fitting.trained import Trained
from probes.request import ProbeRequest


def train(experiment: Experiment, store: EmbeddingStore, progress: Progress) -> Trained:
    """Fit the request's probe. Raises ProbeError where train has one class only."""
    probe = experiment.request.probe
    if probe == "zero-shot":
        return _train_text(experiment, store)
    rows, data = experiment.split.train, experiment.data
    whose = f"{len(np.unique(data.groups[rows]))} of {counted(data.flow.groups)}"
    check_two_classes(data.truth.take(rows), whose)
    return train_knn(experiment, progress) if probe == "knn" else _train_estimator(experiment, progress)


def recipe_of(request: ProbeRequest) -> Recipe:
    if request.probe not in PROBES:
        raise ProbeError(f"no probe {request.probe!r}. There are: {', '.join(PROBES)}, knn, zero-shot.")
    return Recipe(request.probe, request.class_weight, request.seed)


def _train_estimator(experiment: Experiment, progress: Progress) -> Trained:
    """D5's choice on inner rows in float32, D11's cross-fit with that choice, then D4's final fit in float64."""
    request, data, split = experiment.request, experiment.data, experiment.split
    recipe, rows = recipe_of(request), experiment.fit_rows
    scaler = fit_scaler(request.scaling, data.vectors, split.train)
    truth = data.truth.take(rows)
    with progress.stage("choosing the penalty", None if request.penalty else FITS):
        x = features(data.vectors, rows, scaler)
        inner = choose_penalty(
            recipe, x, truth, experiment.inner_folds(),
            value=request.penalty, search=request.search, progress=progress,
        )  # fmt: skip
    value = inner.selection.value
    held = inner.rows, inner.logits
    if experiment.val_chooses:  # otherwise folds of train have held out every fitted row
        with progress.stage("held-out scores"):
            held = cross_fit(recipe, x, truth, (data.groups[rows], request.seed), (value, inner.start))
    control: tuple[float, ...] = ()
    if request.shuffle_control:
        with progress.stage("shuffled control", SHUFFLES):
            control = _control(experiment, recipe, x, (scaler, value), progress)
    with progress.stage("final fit"):
        near = fit(recipe, x, truth, value, start=inner.start, tol=NEAR_TOL).model if recipe.probe == "linear" else None
        del x  # the rest of the way in float64, with rows that are computed block by block
        final = fit(recipe, ScaledRows(data.vectors, rows, scaler), truth, value, start=near, tol=FINAL_TOL)
        logits = logits_of(final.model, data.vectors, split.test, scaler)
    return Trained(final.model, scaler, inner.selection, final.converged, rows[held[0]], held[1], logits, (), control)


def cross_fit(
    recipe: Recipe, x: Features, truth: Truth, folding: tuple[Int64, int], how: tuple[float, Model | None]
) -> tuple[Int64, Float64]:
    """Row indices and logits of x (n, dim), each by a probe fitted at the same penalty without the row's group (D11).

    `folding`: the rows' groups and the seed; `how`: the penalty and a start. Folds without two classes are left out.
    """
    groups, seed = folding
    folds = grouped_folds(truth.strata(), groups, seed, min(FOLDS, len(np.unique(groups))))
    folds = [(fit_at, held_at) for fit_at, held_at in folds if shows_two_classes(truth.take(fit_at))]
    if not folds:
        return np.empty(0, np.int64), np.empty((0, len(truth.classes)))
    fits = fit_all(recipe, x, [Job(fit_at, truth.take(fit_at), *how) for fit_at, _ in folds])
    logits = [fitted.model.logits(x[held_at]) for fitted, (_, held_at) in zip(fits, folds, strict=True)]
    return np.concatenate([held_at for _, held_at in folds]), np.concatenate(logits)


def logits_of(model: Model, vectors: Vectors, rows: Int64, scaler: Scaler) -> Float64:
    """Logits (len(rows), c) in float64, block by block, equal to those of the bundle (D16)."""
    blocks = [rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK)]
    return np.concatenate([model.logits(features(vectors, block, scaler, np.float64)) for block in blocks])


def _control(
    experiment: Experiment, recipe: Recipe, x: Float32, how: tuple[Scaler, float], progress: Progress
) -> tuple[float, ...]:
    scaler, value = how
    data, test = experiment.data, experiment.split.test
    held = hide_absent(data.truth.take(test), experiment.absent)
    every = np.arange(len(x))
    truths = shuffled(data.truth.take(experiment.fit_rows), experiment.request.seed)
    areas = []
    for fitted in fit_all(recipe, x, [Job(every, truth, value) for truth in truths]):
        logits = logits_of(fitted.model, data.vectors, test, scaler)
        areas.append(macro_auc(probabilities(logits, held.multilabel), held))
        progress.advance()
    return tuple(areas)


def _train_text(experiment: Experiment, store: EmbeddingStore) -> Trained:
    """D14: nothing is fitted; val (or train) rows are used for temperature and thresholds only."""
    data, split = experiment.data, experiment.split
    text = read_text(store, experiment.request.task or "")
    settings = {"logit_scale": text.logit_scale}
    if text.logit_bias is not None:
        settings["logit_bias"] = text.logit_bias
    order = [text.classes.index(name) for name in data.truth.classes]
    model = Model("text", {"text": text.vectors[order]}, settings)
    scaler = fit_scaler("none", data.vectors, split.train)
    inner_rows = split.val if experiment.val_chooses else split.train
    inner, test = (logits_of(model, data.vectors, rows, scaler) for rows in (inner_rows, split.test))
    return Trained(model, scaler, fixed("none", 0.0), True, inner_rows, inner, test)
