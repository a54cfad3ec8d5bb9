"""D32: how much the headline moves with the split and with choices that a protocol leaves open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from indexer.errors import InputError
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Progress
from probes.cohort.experiment import Experiment, prepare
from probes.cohort.load import ProbeData
from probes.cohort.truth import Truth, hide_absent, probabilities
from probes.evaluation.calibration import fit_temperature
from probes.evaluation.metrics import evaluator
from probes.evaluation.scoring import by_group
from probes.fitting.train import train
from probes.request import ProbeRequest
from probes.runs.review.record import Choice, Spread
from probes.runs.run import applied_temperature

METRICS = ("auc_macro", "ap_macro", "balanced_accuracy", "brier", "ece_debiased")
SCALINGS = ("l2", "zscore", "center_l2")
SPLITS = 3
FIXED = 1.0  # the penalty of the rule without a choice


def check_repeats(request: ProbeRequest) -> None:
    """Raise InputError where there is one split only, or no choice to vary."""
    if (request.repeats or request.multiverse) and request.split not in ("hash", "stratified"):
        raise InputError("--repeats and --multiverse draw new splits: a column gives one. Use hash or stratified.")
    if request.multiverse and request.probe not in ("linear", "svm", "ridge", "survival"):
        raise InputError("--multiverse varies scaling and penalty of a linear probe, svm or Cox model: leave it out.")


def with_split(request: ProbeRequest, number: int) -> ProbeRequest:
    """The request with its number-th further split: another salt of the hash, or another seed. 0: its own."""
    if number == 0:
        return request
    if request.split == "hash":
        return replace(request, salt=f"{request.salt}#{number}")
    return replace(request, seed=request.seed + number)


def repeats(request: ProbeRequest, data: ProbeData, store: EmbeddingStore, progress: Progress) -> tuple[Spread, ...]:
    """Every metric over `request.repeats` further splits. Their test rows overlap: a spread, no interval."""
    points = []
    for number in range(1, request.repeats + 1):
        p, truth, _ = _run(with_split(request, number), data, store, progress)
        points.append(evaluator(p, truth, np.arange(truth.n)).point())
    spreads = (spread_of(name, [float(point[name]) for point in points if name in point]) for name in METRICS)
    return tuple(each for each in spreads if each is not None)


def spread_of(metric: str, values: list[float]) -> Spread | None:
    """Mean and SD (n - 1) of the defined values; None without any."""
    defined = [v for v in values if v == v]
    if not defined:
        return None
    sd = float(np.std(defined, ddof=1)) if len(defined) > 1 else float("nan")
    return Spread(metric, tuple(values), float(np.mean(defined)), sd)


def split_words(request: ProbeRequest) -> str:
    """What sets a further split apart."""
    return f"salt {request.salt!r}" if request.split == "hash" else f"seed {request.seed}"


def multiverse(request: ProbeRequest, data: ProbeData, store: EmbeddingStore, progress: Progress) -> tuple[Choice, ...]:
    """Test macro AUC for each scaling, rule for the penalty, split and pooling (D32)."""
    out: list[Choice] = []
    for number in range(SPLITS):
        own = with_split(request, number)
        for scaling in SCALINGS:
            for rule, value in (("inner validation", None), (f"fixed at {FIXED:g}", FIXED)):
                scored = _run(replace(own, scaling=scaling, penalty=value), data, store, progress)
                out += [
                    Choice(scaling, rule, split_words(own), pooling, area) for pooling, area in _pooled(own, scored)
                ]
    return tuple(out)


def _pooled(request: ProbeRequest, scored: tuple[Float64, Truth, Experiment]) -> Iterator[tuple[str, float]]:
    """The AUC by rows, and by groups where they have several."""
    p, truth, experiment = scored
    groups = experiment.data.groups[experiment.split.test]
    yield "rows", _area(p, truth)
    if request.group != "none" and len(np.unique(groups)) < truth.n:
        for pooling in ("mean", "max"):
            pooled, pooled_truth, _ = by_group(p, truth, groups, pooling)
            yield f"{pooling} of a group", _area(pooled, pooled_truth) if pooled_truth.n else float("nan")


def _area(p: Float64, truth: Truth) -> float:
    return float(evaluator(p, truth, np.arange(truth.n)).point()["auc_macro"])


def _run(
    request: ProbeRequest, data: ProbeData, store: EmbeddingStore, progress: Progress
) -> tuple[Float64, Truth, Experiment]:
    """Test probabilities and truth of one more split, by the whole protocol up to the temperature."""
    experiment = prepare(replace(request, shuffle_control=False), data)
    trained = train(experiment, store, progress)
    inner = hide_absent(data.truth.take(trained.held_rows), experiment.facts.absent["train"])
    temperature = applied_temperature(request, fit_temperature(trained.held_logits, inner))
    truth = hide_absent(data.truth.take(experiment.split.test), experiment.absent)
    return probabilities(trained.test_logits, truth.multilabel, temperature), truth, experiment
