"""D25 for numbers and times: nested folds, or each site scored by a probe of the other sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from indexer.types import Int64
from probes.cohort.experiment import Experiment, statement
from probes.cohort.load import ProbeData, load, open_store
from probes.evaluation.leakage import Audit, combine
from probes.evaluation.scoring import Resampling, Scored
from probes.evaluation.targets.predictions import METRICS, Predictions, tested_rows
from probes.fitting.sweep import Selection
from probes.fitting.targets.numbers import numbers_of, train_numbers
from probes.fitting.targets.survival import train_survival
from probes.fitting.trained import Trained
from probes.progress import Stages
from probes.request import ProbeRequest
from probes.runs.cautions import warnings_of_neighbours
from probes.runs.folds import NOTE, defined_mean, fold_experiment, fold_facts, mean_sd, outer_folds
from probes.runs.outcome import audit_split, package_versions
from probes.runs.result import FORMAT, FoldResult, ProbeResult
from probes.runs.targets.parts import number_baselines


@dataclass(frozen=True)
class _Outer:
    """One scored outer fold."""

    result: FoldResult
    tested: Predictions
    distinct: Predictions  # without the rows that have a near-duplicate
    baselines: dict[str, dict[str, float]]
    audit: Audit
    duplicates: int


def run_target_folds(request: ProbeRequest, progress: Stages) -> ProbeResult:
    """Each fold with its own choice on inner folds. Raises ProbeError where a fold cannot be fitted."""
    store = open_store(request)
    with progress.stage("reading"):
        data = load(store, request)
    folds, sites = outer_folds(request, data)
    outer = []
    for number, rows in enumerate(folds, 1):
        site = sites[number - 1] if sites else ""
        progress.name(f"without {site}" if sites else f"outer fold {number} of {len(folds)}")
        outer.append(_run_fold((number, site), fold_experiment(request, data, rows), progress))
    return _result(request, data, [held for _, held in folds], outer, progress)


def fitted(experiment: Experiment, progress: Stages) -> Trained:
    """The probe of an experiment whose target is no class. Raises ProbeError."""
    if experiment.request.target == "numeric":
        return train_numbers(experiment, progress)
    return train_survival(experiment, progress)[0]


def _run_fold(named: tuple[int, str], experiment: Experiment, progress: Stages) -> _Outer:
    request, data, test = experiment.request, experiment.data, experiment.split.test
    number, site = named
    with progress.stage("near-duplicate audit", len(test)):
        cosine, found = audit_split(experiment, progress)
    trained = fitted(experiment, progress)
    tested = tested_rows(trained.test_logits, data.truth.take(test), data.groups[test])
    selection = trained.selection
    result = FoldResult(
        number, len(test), selection.value, selection.at_edge, trained.converged, tested.point(), site,
        len(np.unique(tested.groups)),
        of_site=tested.scored(Resampling(request.replicates, request.seed)).metrics if site else {},
    )  # fmt: skip
    baselines = {}
    if request.target == "numeric":
        baselines = number_baselines(numbers_of(experiment, experiment.fit_rows), tested.true)
    distinct = tested.take(np.flatnonzero(~(cosine >= request.tau)))
    return _Outer(result, tested, distinct, baselines, found, len(experiment.split.duplicates))


def _result(
    request: ProbeRequest, data: ProbeData, held: Sequence[Int64], outer: Sequence[_Outer], progress: Stages
) -> ProbeResult:
    found = combine([fold.audit for fold in outer])
    metrics = METRICS[request.target]
    pooled = [fold.tested.by_group() for fold in outer] if data.level != "image" else []
    patients = [each[0] for each in pooled if each is not None]
    return ProbeResult(
        format=FORMAT,
        request=request,
        source=data.source,
        flow=data.flow,
        split=fold_facts(request, data, held, [fold.result.site for fold in outer if fold.result.site]),
        audit=found,
        selection=Selection("none", float("nan"), "grouped folds inside each outer fold", at_edge=False, candidates=()),
        converged=all(fold.result.converged for fold in outer),
        baselines=_baselines(outer),
        test=replace(_spread([fold.tested for fold in outer], metrics), groups=data.flow.groups),
        without_duplicates=_spread([fold.distinct for fold in outer], metrics) if found.flagged else None,
        patients=_spread(patients, metrics) if patients else None,
        folds=tuple(fold.result for fold in outer),
        warnings=_warnings(request, data, found, outer),
        packages=package_versions(),
        seconds=progress.seconds,
    )


def _spread(parts: Sequence[Predictions], metrics: Sequence[str]) -> Scored:
    """Mean and SD over the folds of every metric."""
    points = [part.point() for part in parts]
    rows = sum(len(part.true) for part in parts)
    return Scored(rows, rows, {name: mean_sd([point[name] for point in points]) for name in metrics}, (), (), (NOTE,))


def _baselines(outer: Sequence[_Outer]) -> dict[str, dict[str, float]]:
    """Means over the folds in which a metric is defined."""
    out: dict[str, dict[str, float]] = {}
    for name in outer[0].baselines:
        metrics = dict.fromkeys(metric for fold in outer for metric in fold.baselines[name])
        out[name] = {m: defined_mean([fold.baselines[name].get(m, float("nan")) for fold in outer]) for m in metrics}
    return out


def _warnings(request: ProbeRequest, data: ProbeData, found: Audit, outer: Sequence[_Outer]) -> tuple[str, ...]:
    duplicates = sum(fold.duplicates for fold in outer)
    chosen = "k" if request.probe == "knn" else "lambda" if request.target == "survival" else "alpha"
    undefined = any(value != value for fold in outer for value in fold.result.metrics.values())
    checks = (
        (data.level == "image", statement(request, data)),
        (data.source.random_weights, f"{data.source.encoder} has random weights: the vectors mean nothing"),
        (found.flagged > 0, f"{found.flagged} held-out rows have a near-twin (cosine ≥ {request.tau:g}) among the "
                            "fitted rows"),
        (duplicates > 0, f"{duplicates} fitted rows left out: their image bytes occur among the held-out rows"),
        (undefined, "in a fold a metric is not defined; it counts in no mean"),
        (any(fold.result.at_edge for fold in outer), f"in a fold the best {chosen} is at the edge of the search"),
        (not all(fold.result.converged for fold in outer), "in a fold the final fit did not reach its tolerance"),
    )  # fmt: skip
    few = warnings_of_neighbours(request, [fold.result.penalty for fold in outer])
    return (*(text for holds, text in checks if holds), *few)
