"""Runs one probe from request to result: load, split, audit, fit, score."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from indexer.errors import ProbeError
from indexer.malloc import release_freed_memory
from indexer.store.table import EmbeddingStore
from indexer.store.text import read_text
from indexer.types import Float32, Float64, Int64
from probes.cohort.experiment import Experiment, prepare
from probes.cohort.load import ProbeData, load, open_store
from probes.cohort.truth import Truth, hide_absent, probabilities
from probes.evaluation.calibration import Calibration, calibration, fit_temperature
from probes.evaluation.leakage import Audit
from probes.evaluation.metrics import confusion
from probes.evaluation.operating_points import global_threshold, operating_points
from probes.evaluation.scoring import Resampling, Scored, baselines, by_group, control_range, curves, score
from probes.evaluation.subgroups import gaps, subgroup_results
from probes.fitting.few_shot import few_shot
from probes.fitting.train import train
from probes.fitting.trained import Trained
from probes.progress import Stages
from probes.request import ProbeRequest
from probes.runs.cautions import (
    warnings_of_calls,
    warnings_of_operating,
    warnings_of_positive,
    warnings_of_temperature,
)
from probes.runs.outcome import Outcome, audit_split, result_of
from probes.runs.targets.numbers import run_numbers
from probes.runs.targets.survival import run_survival


def run(request: ProbeRequest, progress: Stages | None = None) -> Outcome:
    """Run a request. Raises IndexerError; an undefined metric is NaN and listed."""
    progress = progress or Stages(shown=False)
    if request.split_is_folds:
        raise ProbeError("folds have no one test split: it is run by probes.runs.nested.")
    store = open_store(request)
    with progress.stage("reading"):
        data = read(store, request)
        experiment = prepare(request, data)
    release_freed_memory()
    outcome = run_prepared(experiment, store, progress)
    if not request.few_shot or request.target != "classes":
        return outcome
    with progress.stage("label efficiency"):
        curve = few_shot(experiment, outcome.result.selection.value, progress)
    return replace(outcome, result=replace(outcome.result, few_shot=curve))


def read(store: EmbeddingStore, request: ProbeRequest) -> ProbeData:
    """Load the rows; for zero-shot the classes are those of the stored text vectors. Raises ProbeError."""
    if request.probe == "zero-shot" and request.multilabel:
        raise ProbeError("zero-shot takes one class a row. Name one 0/1 column, with texts for its classes 0 and 1.")
    classes = read_text(store, request.task or "").classes if request.probe == "zero-shot" else None
    return load(store, request, classes)


def run_prepared(experiment: Experiment, store: EmbeddingStore, progress: Stages) -> Outcome:
    """Audit, fit and score an experiment whose rows are split."""
    near, found = None, None
    if experiment.request.probe != "zero-shot":
        with progress.stage("near-duplicate audit", len(experiment.split.test)):
            near, found = audit_split(experiment, progress)
    if experiment.request.target != "classes":
        run_target = run_numbers if experiment.request.target == "numeric" else run_survival
        return run_target(experiment, (near, found), progress)
    trained = train(experiment, store, progress)
    with progress.stage("intervals"):
        return _assemble(experiment, trained, (near, found), progress)


def _assemble(
    experiment: Experiment, trained: Trained, near: tuple[Float32 | None, Audit | None], progress: Stages
) -> Outcome:
    request, data, test = experiment.request, experiment.data, experiment.split.test
    how = Resampling(request.replicates, request.seed)
    inner = hide_absent(data.truth.take(trained.held_rows), experiment.facts.absent["train"])
    temperature = fit_temperature(trained.held_logits, inner)
    inner_p, p = (
        probabilities(logits, inner.multilabel, applied_temperature(request, temperature))
        for logits in (trained.held_logits, trained.test_logits)
    )
    truth = hide_absent(data.truth.take(test), experiment.absent)
    scored = p, truth, data.groups[test]
    found, _ = score(*scored, how)
    matrix = confusion(p, truth)
    operating = operating_points((inner_p, inner), scored, request, how)
    threshold = global_threshold(operating, truth)
    values = {name: [column[i] for i in test] for name, column in data.subgroups.items()}
    sub = tuple(r for name, own in values.items() for r in subgroup_results(name, own, scored, threshold, how))
    begun = result_of(experiment, trained, near[1], found, progress)
    result = replace(
        begun,
        baselines=baselines(data.truth.take(experiment.fit_rows), truth, request.seed),
        positive=data.positive,
        without_duplicates=_without(near[0], request.tau, scored, how),
        patients=_patients(experiment, scored, how),
        confusion=tuple(map(tuple, matrix.tolist())),
        curves=curves(p, truth),
        calibration=_calibrations(trained, truth, temperature),
        temperature=temperature,
        operating=operating,
        subgroups=sub,
        gaps=gaps(sub, values, scored, threshold, how),
        neighbours=trained.neighbours,
        shuffled_auc=control_range(trained.control_aucs),
        warnings=(
            *begun.warnings,
            *warnings_of_calls(matrix, truth.classes),
            *warnings_of_temperature(temperature),
            *warnings_of_positive(data.positive, truth.classes),
            *warnings_of_operating(operating),
        ),
    )
    return Outcome(result, experiment, trained, p)


def applied_temperature(request: ProbeRequest, fitted: float) -> float:
    """D14: zero-shot uses the checkpoint's own scale; the fitted temperature is reported but not applied."""
    return 1.0 if request.probe == "zero-shot" else fitted


def _calibrations(trained: Trained, truth: Truth, temperature: float) -> dict[str, Calibration]:
    """D8: calibration errors before and after the temperature."""
    named = {"before": 1.0, "after": temperature}
    return {
        name: calibration(probabilities(trained.test_logits, truth.multilabel, t), truth) for name, t in named.items()
    }


def _without(
    cosine: Float32 | None, tau: float, scored: tuple[Float64, Truth, Int64], how: Resampling
) -> Scored | None:
    """Every metric without the test rows that have a near-duplicate; None where there are none."""
    if cosine is None or not (cosine >= tau).any():
        return None
    p, truth, groups = scored
    rows = np.flatnonzero(~(cosine >= tau))
    if not len(rows):
        return None
    return score(p[rows], truth.take(rows), groups[rows], how)[0]


def _patients(experiment: Experiment, scored: tuple[Float64, Truth, Int64], how: Resampling) -> Scored | None:
    """D15: metrics by group; None where each group has one row, since they would be equal."""
    p, truth, groups = scored
    if experiment.data.level == "image" or len(np.unique(groups)) == truth.n:
        return None
    pooled, pooled_truth, mixed = by_group(p, truth, groups, experiment.request.pooling)
    if not pooled_truth.n:
        return None
    result, _ = score(pooled, pooled_truth, np.arange(len(pooled)), how)
    notes: tuple[str, ...] = (f"pooled by {experiment.request.pooling}",)
    if mixed:
        notes += (f"{mixed} groups left out: their rows are of several classes",)
    return Scored(result.rows, result.groups, result.metrics, result.classes, result.excluded, notes + result.notes)
