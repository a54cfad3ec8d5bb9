"""D5 without a test split: nested cross-validation, or each site left out in turn; mean ± SD over the outer folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from indexer.errors import ProbeError
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64
from probes.cohort.experiment import Experiment, statement
from probes.cohort.load import ProbeData, open_store
from probes.cohort.truth import Truth, hide_absent, probabilities
from probes.evaluation.bootstrap import Interval
from probes.evaluation.calibration import fit_temperature
from probes.evaluation.leakage import Audit, combine
from probes.evaluation.metrics import HEADLINE, Values, confusion, evaluator
from probes.evaluation.scoring import ClassResult, Resampling, Scored, baselines, by_group, score
from probes.fitting.sweep import UNCHOSEN, Selection
from probes.fitting.train import train
from probes.fitting.trained import Trained
from probes.progress import Stages
from probes.request import ProbeRequest
from probes.runs.cautions import (
    warnings_of_calls,
    warnings_of_neighbours,
    warnings_of_positive,
    warnings_of_temperature,
)
from probes.runs.folds import NOTE, defined_mean, fold_experiment, fold_facts, mean_sd, outer_folds
from probes.runs.outcome import audit_split, package_versions
from probes.runs.result import FORMAT, FoldResult, ProbeResult
from probes.runs.run import read
from probes.runs.targets.folds import run_target_folds

Held = tuple[Float64, Truth, Int64]  # probabilities, truth and groups of a fold's held-out rows


@dataclass(frozen=True)
class _Outer:
    """One scored outer fold: all held-out rows, those without a near-duplicate, and one row for each patient."""

    result: FoldResult
    point: Values
    distinct: Values
    distinct_rows: int
    patients: Values | None
    patient_rows: int
    baselines: dict[str, dict[str, float]]
    audit: Audit
    duplicates: int
    absent: tuple[str, ...]
    control_aucs: tuple[float, ...]
    unchosen: bool  # the penalty is the default, since no inner AUC was defined
    warnings: tuple[str, ...]


def run_nested(request: ProbeRequest, progress: Stages) -> ProbeResult:
    """Five outer grouped folds, each with its own choice on five inner folds; scores of folds are not pooled.

    Raises ProbeError for options that need one test split, and for zero-shot, which fits nothing.
    """
    _check(request)
    if request.target != "classes":
        return run_target_folds(request, progress)
    store = open_store(request)
    with progress.stage("reading"):
        data = read(store, request)
    folds, sites = outer_folds(request, data)
    outer = []
    for number, rows in enumerate(folds, 1):
        progress.name(f"without {sites[number - 1]}" if sites else f"outer fold {number} of {len(folds)}")
        found = _run_fold(number, fold_experiment(request, data, rows), store, progress)
        outer.append(replace(found, result=replace(found.result, site=sites[number - 1])) if sites else found)
    return _result(request, data, [held for _, held in folds], outer, progress)


def _check(request: ProbeRequest) -> None:
    if request.probe == "zero-shot":
        raise ProbeError("zero-shot fits nothing: there is no cross-validation. Use --split hash or a column.")
    asked = {
        "--subgroup": request.subgroups,
        "--few-shot": request.few_shot,
        "--prevalence": request.prevalence is not None,
    }
    for option, given in asked.items():
        if given:
            raise ProbeError(
                f"{option} needs one test split, --split {request.split} has none. Use hash, stratified or a column."
            )


def _run_fold(number: int, experiment: Experiment, store: EmbeddingStore, progress: Stages) -> _Outer:
    data, test = experiment.data, experiment.split.test
    with progress.stage("near-duplicate audit", len(test)):
        cosine, found = audit_split(experiment, progress)
    trained = train(experiment, store, progress)
    temperature = _temperature(experiment, trained)
    held = _score(experiment, trained, temperature)
    distinct = ~(cosine >= experiment.request.tau)
    pooled = _by_patient(experiment, held)
    point = _point(*held[:2])
    return _Outer(
        _fold_result(number, experiment, trained, (point, _site_auc(experiment, held))),
        point,
        _point(held[0][distinct], held[1].take(np.flatnonzero(distinct))),
        int(distinct.sum()),
        None if pooled is None else _point(*pooled),
        0 if pooled is None else pooled[1].n,
        baselines(data.truth.take(experiment.fit_rows), data.truth.take(test), experiment.request.seed),
        found,
        len(experiment.split.duplicates),
        experiment.absent,
        trained.control_aucs,
        trained.selection.inner == UNCHOSEN,
        warnings_of_calls(confusion(*held[:2]), held[1].classes) + warnings_of_temperature(temperature),
    )


def _temperature(experiment: Experiment, trained: Trained) -> float:
    truth = experiment.data.truth.take(trained.held_rows)
    return fit_temperature(trained.held_logits, hide_absent(truth, experiment.facts.absent["train"]))


def _score(experiment: Experiment, trained: Trained, temperature: float) -> Held:
    data, test = experiment.data, experiment.split.test
    truth = hide_absent(data.truth.take(test), experiment.absent)
    return probabilities(trained.test_logits, truth.multilabel, temperature), truth, data.groups[test]


def _by_patient(experiment: Experiment, held: Held) -> tuple[Float64, Truth] | None:
    """D15 within a fold; None where each group has one row."""
    if experiment.data.level == "image" or experiment.data.flow.groups == experiment.data.truth.n:
        return None
    return by_group(*held, experiment.request.pooling)[:2]


def _point(p: Float64, truth: Truth) -> Values:
    return evaluator(p, truth, np.arange(truth.n)).point()


def _site_auc(experiment: Experiment, held: Held) -> Interval | None:
    """D9's interval for the rows of a left-out site, which are of patients of its own; None for other folds."""
    if experiment.request.left_out is None:
        return None
    how = Resampling(experiment.request.replicates, experiment.request.seed)
    return score(*held, how)[0].metrics["auc_macro"]


def _fold_result(
    number: int, experiment: Experiment, trained: Trained, found: tuple[Values, Interval | None]
) -> FoldResult:
    point, auc = found
    groups = len(np.unique(experiment.data.groups[experiment.split.test]))
    metrics = {name: float(point[name]) for name in HEADLINE if name in point}
    selection = trained.selection
    return FoldResult(
        number, len(experiment.split.test), selection.value, selection.at_edge, trained.converged, metrics,
        groups=groups, auc=auc,
    )  # fmt: skip


def _result(
    request: ProbeRequest, data: ProbeData, held: Sequence[Int64], outer: Sequence[_Outer], progress: Stages
) -> ProbeResult:
    facts = fold_facts(request, data, held, [fold.result.site for fold in outer if fold.result.site])
    found = combine([fold.audit for fold in outer])
    duplicates = sum(fold.duplicates for fold in outer)
    classes = tuple(_class(data, j, outer) for j in range(len(data.truth.classes)))
    distinct = _scored([fold.distinct for fold in outer], sum(fold.distinct_rows for fold in outer))
    patients = [fold.patients for fold in outer if fold.patients is not None]
    controls = [defined_mean(list(fold.control_aucs)) for fold in outer if fold.control_aucs]
    return ProbeResult(
        format=FORMAT,
        request=request,
        source=data.source,
        flow=data.flow,
        split=facts,
        audit=found,
        selection=Selection("none", float("nan"), "grouped folds inside each outer fold", at_edge=False, candidates=()),
        converged=all(fold.result.converged for fold in outer),
        baselines=_baselines(outer),
        positive=data.positive,
        test=replace(
            _scored([fold.point for fold in outer], data.truth.n), groups=data.flow.groups, classes=classes,
            excluded=tuple(c.name for c in classes if np.isnan(c.auc.value)),
        ),
        without_duplicates=distinct if found.flagged else None,
        patients=_scored(patients, sum(fold.patient_rows for fold in outer)) if patients else None,
        shuffled_auc=mean_sd(controls) if controls else None,
        folds=tuple(fold.result for fold in outer),
        warnings=_warnings(request, data, (found, duplicates), outer),
        packages=package_versions(),
        seconds=progress.seconds,
    )  # fmt: skip


def _warnings(
    request: ProbeRequest, data: ProbeData, leaks: tuple[Audit, int], outer: Sequence[_Outer]
) -> tuple[str, ...]:
    found, duplicates = leaks
    absent = {name for fold in outer for name in fold.absent}
    named = ", ".join(name for name in data.truth.classes if name in absent)
    checks = (
        (data.level == "image", statement(request, data)),
        (data.source.random_weights, f"{data.source.encoder} has random weights: the vectors mean nothing"),
        (bool(named), f"a fold has no fitted or no held-out row of: {named}; their metrics are NaN in that fold"),
        (found.flagged > 0, f"{found.flagged} held-out rows have a near-twin (cosine ≥ {request.tau:g}) among the "
                            "fitted rows"),
        (duplicates > 0, f"{duplicates} fitted rows left out: their image bytes occur among the held-out rows"),
        (any(fold.unchosen for fold in outer), "in a fold no inner rows show both classes: the penalty is the default"),
        (any(fold.result.at_edge for fold in outer), "in a fold the best penalty is at the edge of the search"),
        (not all(fold.result.converged for fold in outer), "in a fold the final fit did not reach its tolerance"),
    )  # fmt: skip
    own = {f"in a fold {text}": None for fold in outer for text in fold.warnings}  # unique, in order
    few = warnings_of_neighbours(request, [fold.result.penalty for fold in outer])
    named_by_order = warnings_of_positive(data.positive, data.truth.classes)
    return (*(text for holds, text in checks if holds), *few, *own, *named_by_order)


def _scored(points: Sequence[Values], rows: int) -> Scored:
    """Mean and SD over the folds of every headline metric."""
    metrics = {name: mean_sd([float(p[name]) for p in points]) for name in HEADLINE if name in points[0]}
    return Scored(rows, rows, metrics, (), (), (NOTE,))


def _baselines(outer: Sequence[_Outer]) -> dict[str, dict[str, float]]:
    first = outer[0].baselines
    return {name: {m: defined_mean([fold.baselines[name][m] for fold in outer]) for m in first[name]} for name in first}


def _class(data: ProbeData, j: int, outer: Sequence[_Outer]) -> ClassResult:
    known = data.truth.known[:, j]
    positive = data.truth.positive[known, j]
    auc, ap = (mean_sd([float(fold.point[name][j]) for fold in outer]) for name in ("auc", "ap"))
    return ClassResult(data.truth.classes[j], int(positive.sum()), int(known.sum()), float(positive.mean()), auc, ap)
