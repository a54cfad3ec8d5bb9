"""D6: the kNN probe on an experiment: k is chosen on val rows, and one search of the test rows serves every k."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from indexer.types import Float32, Float64, Int64, Progress
from probes.cohort.experiment import Experiment, shuffled
from probes.cohort.scaling import Scaler, features, fit_scaler, make_unit, rows_of
from probes.cohort.truth import Truth, hide_absent
from probes.evaluation.metrics import evaluator, macro_auc
from probes.fitting.models import Model
from probes.fitting.sweep import UNCHOSEN, Candidate, Selection
from probes.fitting.trained import NeighbourResult, Trained
from probes.fitting.votes import Neighbours, Vote, as_logits, clipped_ks, nearest, votes
from probes.request import ProbeRequest

K = 20  # D6


@dataclass(frozen=True)
class _Look:
    """The fitted rows with their truth, and the test rows' neighbours among them."""

    base: Truth
    found: Neighbours
    vote: Vote

    def at(self, k: int) -> Float64:
        return votes(self.found, self.base, k, self.vote)


def train_knn(experiment: Experiment, progress: Progress) -> Trained:
    """Search the test rows' neighbours in train and val together; those of the same group do not vote."""
    request, data, split = experiment.request, experiment.data, experiment.split
    scaler = fit_scaler(request.scaling, data.vectors, split.train)
    rows, vote = experiment.fit_rows, Vote(request.vote, request.temperature)
    ks = _ks(request, len(rows))
    with progress.stage("choosing k", len(split.val if experiment.val_chooses else split.train)):
        x = neighbour_features(experiment, rows, scaler)
        inner_rows, inner = _held_votes(experiment, x, (ks, vote), progress)
    hidden = hide_absent(data.truth.take(inner_rows), experiment.facts.absent["train"])
    areas = {k: macro_auc(p, hidden) for k, p in inner.items()}
    with progress.stage("neighbours of the test rows", len(split.test)):
        found = nearest(
            x, neighbour_features(experiment, split.test, scaler), ks[-1],
            base_groups=data.groups[rows], query_groups=data.groups[split.test],
            euclidean=request.metric == "euclidean", progress=progress,
        )  # fmt: skip
    look = _Look(data.truth.take(rows), found, vote)
    inner_name = "val rows" if experiment.val_chooses else "train rows"
    selection = _selection(request, areas, f"{inner_name}, each without its own group")
    k, multilabel = int(selection.value), look.base.multilabel
    held = hide_absent(data.truth.take(split.test), experiment.absent)
    return Trained(
        _model(experiment, x, look.base, k), scaler, selection, True, inner_rows,
        as_logits(inner[k], multilabel=multilabel),
        as_logits(look.at(k), multilabel=multilabel),
        tuple(_result(each, look.at(each), held, areas[each]) for each in ks),
        _control(look, k, held, request.seed) if request.shuffle_control else (),
    )  # fmt: skip


def _ks(request: ProbeRequest, n: int) -> tuple[int, ...]:
    """Every reported k: those of D6, and the requested one."""
    asked = () if request.k is None else (min(request.k, n),)
    return tuple(sorted({*clipped_ks(n), *asked}))


def _selection(request: ProbeRequest, areas: dict[int, float], inner: str) -> Selection:
    """The requested k, or that of the highest inner AUC, ties → smaller k; K where no inner AUC is defined."""
    ks = tuple(areas)
    if request.k is not None:
        return Selection("k", min(request.k, ks[-1]), "fixed", at_edge=False, candidates=())
    if np.isnan(list(areas.values())).all():
        nearest_k = min(ks, key=lambda k: abs(k - K))
        return Selection("k", nearest_k, UNCHOSEN, at_edge=False, candidates=())
    chosen = max(ks, key=lambda k: (-np.inf if np.isnan(areas[k]) else areas[k], -k))
    candidates = tuple(Candidate(k, areas[k]) for k in ks)
    return Selection("k", chosen, inner, len(ks) > 1 and chosen == ks[-1], candidates)


def _model(experiment: Experiment, x: Float32, base: Truth, k: int) -> Model:
    request, data = experiment.request, experiment.data
    arrays = {
        "x": x,
        "positive": base.positive,
        "known": base.known,
        "groups": group_ids(data.group_names)[data.groups[experiment.fit_rows]],
    }
    settings = {
        "k": float(k), "temperature": request.temperature, "uniform": float(request.vote == "uniform"),
        "euclidean": float(request.metric == "euclidean"), "multilabel": float(base.multilabel),
    }  # fmt: skip
    return Model("knn", arrays, settings)


def group_ids(names: tuple[str, ...]) -> Int64:
    """64-bit hashes of group names, equal in every table, so that a bundle holds no names."""
    digests = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
    return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)


def neighbour_features(experiment: Experiment, rows: Int64, scaler: Scaler) -> Float32:
    """Rows of unit length for the cosine; unchanged for Euclidean distance."""
    x: Float32 = features(experiment.data.vectors, rows, scaler)
    if experiment.request.metric == "cosine":
        make_unit(x)
    return x


def _held_votes(
    experiment: Experiment, x: Float32, how: tuple[tuple[int, ...], Vote], progress: Progress
) -> tuple[Int64, dict[int, Float64]]:
    """Val rows (without a usable val: train rows) and their probabilities at each k, by fitted rows of other groups.

    The vote is the same as of the test rows, so that k and thresholds belong to the tested probe (D11).
    """
    rows, data = experiment.fit_rows, experiment.data
    ks, vote = how
    train = len(experiment.split.train)
    held = np.arange(train, len(rows)) if experiment.val_chooses else np.arange(train)
    found = nearest(
        x, rows_of(x, held), ks[-1],
        base_groups=data.groups[rows], query_groups=data.groups[rows[held]],
        euclidean=experiment.request.metric == "euclidean", progress=progress,
    )  # fmt: skip
    base = data.truth.take(rows)
    return rows[held], {k: votes(found, base, k, vote) for k in ks}


def _result(k: int, p: Float64, truth: Truth, val_auc: float) -> NeighbourResult:
    point = evaluator(p, truth, np.arange(len(p))).point()
    return NeighbourResult(k, float(point["auc_macro"]), float(point["balanced_accuracy"]), val_auc)


def _control(look: _Look, k: int, held: Truth, seed: int) -> tuple[float, ...]:
    """Macro AUCs with the same neighbours and the fitted rows' labels in random orders."""
    return tuple(macro_auc(votes(look.found, base, k, look.vote), held) for base in shuffled(look.base, seed))
