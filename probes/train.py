"""Fitting a probe on an experiment's fit rows and scoring its test rows. Test rows choose nothing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from indexer.errors import ProbeError
from indexer.store.store import EmbeddingStore
from indexer.types import Float32, Float64, Int64
from probes.experiment import Experiment, shuffled
from probes.fitting import FITTERS, Recipe, fit
from probes.knn import Neighbours, Vote, as_logits, clipped_ks, nearest, votes
from probes.metrics import evaluator, macro_auc
from probes.models import Model
from probes.progress import Progress
from probes.records import NeighbourResult, Request
from probes.scaling import Scaler, features, fit_scaler
from probes.scoring import hide_absent
from probes.select import choose_penalty
from probes.sweep import Candidate, Selection, fixed
from probes.truth import Truth, probabilities


@dataclass(frozen=True)
class Trained:
    """A fitted probe, with logits of rows that had no part in fitting it."""

    model: Model
    scaler: Scaler
    selection: Selection
    converged: bool
    inner_rows: Int64  # rows of the data that were held out while choosing
    inner_logits: Float64
    test_logits: Float64  # of Experiment.split.test, by the final model
    neighbours: tuple[NeighbourResult, ...] = ()
    shuffled_auc: float | None = None


def train(experiment: Experiment, store: EmbeddingStore, progress: Progress) -> Trained:
    """Fit what the request names."""
    probe = experiment.request.probe
    if probe == "knn":
        return _train_knn(experiment, progress)
    if probe == "zero-shot":
        return _train_text(experiment, store)
    return _train_estimator(experiment, progress)


def recipe_of(request: Request) -> Recipe:
    if request.probe not in FITTERS:
        raise ProbeError(f"no probe {request.probe!r}. There are: {', '.join(FITTERS)}, knn, zero-shot.")
    return Recipe(request.probe, request.class_weight, request.seed)


def _train_estimator(experiment: Experiment, progress: Progress) -> Trained:
    request, data, split = experiment.request, experiment.data, experiment.split
    recipe, rows = recipe_of(request), experiment.fit_rows
    scaler = fit_scaler(request.scaling, data.vectors, split.train)
    truth = data.truth.take(rows)
    with progress.stage("choosing the penalty"):
        x = features(data.vectors, rows, scaler)
        inner = choose_penalty(
            recipe, x, truth, experiment.inner_folds(), value=request.penalty, progress=progress.step
        )
    value = inner.selection.value
    control = None
    if request.shuffle_control:
        with progress.stage("shuffled control"):
            control = _shuffled_auc(experiment, recipe, x, (scaler, value))
    del x  # the final fit needs twice its room
    with progress.stage("final fit"):
        final = fit(
            recipe, features(data.vectors, rows, scaler, np.float64), truth, value, start=inner.start, final=True
        )
        logits = final.model.logits(features(data.vectors, split.test, scaler))
    return Trained(
        final.model, scaler, inner.selection, final.converged, rows[inner.rows], inner.logits, logits, (), control
    )


def _shuffled_auc(experiment: Experiment, recipe: Recipe, x: Float32, how: tuple[Scaler, float]) -> float:
    scaler, value = how
    data, test = experiment.data, experiment.split.test
    truth = shuffled(data.truth.take(experiment.fit_rows), experiment.request.seed)
    model = fit(recipe, x, truth, value).model
    held = hide_absent(data.truth.take(test), experiment.absent)
    return macro_auc(probabilities(model.logits(features(data.vectors, test, scaler)), held.multilabel), held)


def _train_text(experiment: Experiment, store: EmbeddingStore) -> Trained:
    """D14: nothing is fitted; the inner rows serve temperature and threshold alone."""
    data, split = experiment.data, experiment.split
    text = store.read_text(experiment.request.task or "")
    settings = {"logit_scale": text.logit_scale}
    if text.logit_bias is not None:
        settings["logit_bias"] = text.logit_bias
    model = Model("text", {"text": text.vectors}, settings)
    scaler = fit_scaler("none", data.vectors, split.train)
    inner_rows = split.val if len(split.val) else split.train
    return Trained(
        model,
        scaler,
        fixed("none", 0.0),
        True,
        inner_rows,
        model.logits(features(data.vectors, inner_rows, scaler)),
        model.logits(features(data.vectors, split.test, scaler)),
    )


def group_ids(names: tuple[str, ...]) -> Int64:
    """64-bit ids of group names, the same in every table: a bundle holds no name."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)


def neighbour_features(experiment: Experiment, rows: Int64, scaler: Scaler) -> Float32:
    """Rows of unit length for the cosine; as they are for Euclidean distance."""
    x: Float32 = features(experiment.data.vectors, rows, scaler)
    if experiment.request.metric == "cosine":
        x /= np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
    return x


def _train_knn(experiment: Experiment, progress: Progress) -> Trained:
    """D6: val rows among train choose k; test rows are looked up among train and val, all k from that search."""
    request, data, split = experiment.request, experiment.data, experiment.split
    scaler = fit_scaler(request.scaling, data.vectors, split.train)
    rows, vote = experiment.fit_rows, Vote(request.vote, request.temperature)
    x = neighbour_features(experiment, rows, scaler)
    ks = clipped_ks(len(rows)) if request.k is None else (min(request.k, len(rows)),)
    with progress.stage("choosing k"):
        inner_rows, inner = _inner_votes(experiment, x, ks, vote)
    truth = hide_absent(data.truth.take(inner_rows), experiment.classless)
    areas = {k: macro_auc(p, truth) for k, p in inner.items()}
    with progress.stage("neighbours of the test rows"):
        groups = data.groups
        found = nearest(
            x, neighbour_features(experiment, split.test, scaler), ks[-1],
            base_groups=groups[rows], query_groups=groups[split.test],
            euclidean=request.metric == "euclidean", progress=progress.share,
        )  # fmt: skip
    base, test = data.truth.take(rows), data.truth.take(split.test)
    chosen = max(ks, key=lambda k: (-np.inf if np.isnan(areas[k]) else areas[k], -k))
    inner_name = "val split" if len(split.val) else "5 grouped folds of train"
    selection = Selection(
        "k", chosen, "fixed" if request.k else inner_name, len(ks) > 1 and chosen == ks[-1],
        tuple(Candidate(k, areas[k]) for k in ks) if request.k is None else (),
    )  # fmt: skip
    by_k = {k: votes(found, base, k, vote) for k in ks}
    hidden = hide_absent(test, experiment.absent)
    results = tuple(_neighbour_result(k, by_k[k], hidden, areas[k]) for k in ks)
    arrays = {
        "x": x,
        "positive": base.positive,
        "known": base.known,
        "groups": group_ids(data.group_names)[groups[rows]],
    }
    settings = {
        "k": float(chosen), "temperature": vote.temperature, "uniform": float(vote.kind == "uniform"),
        "euclidean": float(request.metric == "euclidean"), "multilabel": float(base.multilabel),
    }  # fmt: skip
    return Trained(
        Model("knn", arrays, settings), scaler, selection, True, inner_rows,
        as_logits(inner[chosen], multilabel=base.multilabel),
        as_logits(by_k[chosen], multilabel=base.multilabel), results,
    )  # fmt: skip


def _inner_votes(
    experiment: Experiment, x: Float32, ks: tuple[int, ...], vote: Vote
) -> tuple[Int64, dict[int, Float64]]:
    """Held-out rows of the inner folds and their probabilities at each k."""
    rows, data = experiment.fit_rows, experiment.data
    held_rows: list[Int64] = []
    parts: dict[int, list[Float64]] = {k: [] for k in ks}
    for fit_at, held_at in experiment.inner_folds():
        found: Neighbours = nearest(
            x[fit_at], x[held_at], ks[-1],
            base_groups=data.groups[rows[fit_at]], query_groups=data.groups[rows[held_at]],
            euclidean=experiment.request.metric == "euclidean",
        )  # fmt: skip
        base = data.truth.take(rows[fit_at])
        for k in ks:
            parts[k].append(votes(found, base, k, vote))
        held_rows.append(rows[held_at])
    return np.concatenate(held_rows), {k: np.concatenate(p) for k, p in parts.items()}


def _neighbour_result(k: int, p: Float64, truth: Truth, val_auc: float) -> NeighbourResult:
    point = evaluator(p, truth, np.arange(len(p))).point()
    return NeighbourResult(k, float(point["auc_macro"]), float(point["balanced_accuracy"]), val_auc)
