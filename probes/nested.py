"""D5 without a test split: nested cross-validation, reported as mean ± SD of the outer folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from indexer.errors import ProbeError
from indexer.types import Int64
from probes.calibration import fit_temperature
from probes.data import ProbeData, open_store
from probes.experiment import Experiment, part_facts, statement
from probes.intervals import Interval
from probes.metrics import HEADLINE, Values, evaluator
from probes.progress import Progress
from probes.records import (
    FORMAT,
    ClassResult,
    FoldResult,
    ProbeResult,
    Request,
    Scored,
    SplitFacts,
)
from probes.run import audit_split, package_versions, read
from probes.scoring import baselines, hide_absent
from probes.splits import FOLDS, Split, check_groups, grouped_folds, split_sha256, without_duplicates
from probes.sweep import Selection
from probes.train import Trained, train
from probes.truth import probabilities

NOTE = "mean over outer folds; low and high are mean - SD and mean + SD, not a confidence interval"


def run_nested(request: Request, progress: Progress) -> ProbeResult:
    """Five outer grouped folds, each with its own choice on five inner ones; scores are never pooled.

    Raises ProbeError for zero-shot, which fits nothing.
    """
    if request.probe == "zero-shot":
        raise ProbeError("zero-shot fits nothing: there is no cross-validation. Use --split hash or a column.")
    store = open_store(request)
    with progress.stage("reading"):
        data = read(store, request)
    folds = grouped_folds(data.truth.strata(), data.groups, request.seed)
    results, points, base, flagged, duplicates = [], [], [], 0, 0
    for number, (fitted, held) in enumerate(folds, 1):
        progress.step(f"outer fold {number} of {len(folds)}")
        experiment = _fold(request, data, (fitted, held))
        with progress.stage("near-duplicate audit"):
            flagged += audit_split(experiment, progress)[1].flagged
        duplicates += len(experiment.split.duplicates)
        trained = train(experiment, store, progress)
        point = _score(experiment, trained)
        points.append(point)
        results.append(_fold_result(number, experiment, trained, point))
        truth = data.truth.take(held)
        base.append(baselines(data.truth.take(experiment.fit_rows), truth, request.seed))
    return _result(request, data, (folds, results, points, base), (flagged, duplicates), progress)


def _fold(request: Request, data: ProbeData, rows: tuple[Int64, Int64]) -> Experiment:
    """An outer fold as an experiment without a val split, so that inner folds choose."""
    none = np.empty(0, np.int64)
    split = without_duplicates(Split(rows[0], none, rows[1], none, none), data.content)
    check_groups(split, data.groups, data.group_names)
    return Experiment(replace(request, shuffle_control=False), data, split, _facts(request, data, [rows]))


def _score(experiment: Experiment, trained: Trained) -> Values:
    data, test = experiment.data, experiment.split.test
    truth = hide_absent(data.truth.take(test), experiment.absent)
    temperature = fit_temperature(trained.inner_logits, data.truth.take(trained.inner_rows))
    return evaluator(
        probabilities(trained.test_logits, truth.multilabel, temperature), truth, np.arange(truth.n)
    ).point()


def _fold_result(number: int, experiment: Experiment, trained: Trained, point: Values) -> FoldResult:
    metrics = {name: float(point[name]) for name in HEADLINE if name in point}
    selection = trained.selection
    return FoldResult(
        number, len(experiment.split.test), selection.value, selection.at_edge, trained.converged, metrics
    )


def _facts(request: Request, data: ProbeData, folds: list[tuple[Int64, Int64]]) -> SplitFacts:
    """Of one fold for its checks, or of all for the result: the parts are then the outer folds' held-out rows."""
    truth = data.truth
    if len(folds) == 1:
        from probes.experiment import lacking

        absent = {"fitted": lacking(truth.take(folds[0][0])), "test": lacking(truth.take(folds[0][1]))}
        return SplitFacts(statement(request, data), "nested", data.level, {}, absent, "")
    parts = {f"fold {i}": part_facts(truth, data.groups, held) for i, (_, held) in enumerate(folds, 1)}
    names = np.full(truth.n, "", dtype="<U8")
    for i, (_, held) in enumerate(folds, 1):
        names[held] = f"fold {i}"
    digest = split_sha256(data.keys, names.tolist())
    return SplitFacts(statement(request, data), f"nested, {FOLDS} outer folds", data.level, parts, {}, digest)


def _result(
    request: Request,
    data: ProbeData,
    folds: tuple[list[tuple[Int64, Int64]], list[FoldResult], list[Values], list[dict[str, dict[str, float]]]],
    found: tuple[int, int],
    progress: Progress,
) -> ProbeResult:
    rows, results, points, base = folds
    metrics = {name: mean_sd([float(p[name]) for p in points]) for name in HEADLINE if name in points[0]}
    classes = tuple(_class(data, j, points) for j in range(len(data.truth.classes)))
    facts = _facts(request, data, rows)
    checks = (
        (data.level == "image", facts.statement),
        (data.source.random_weights, f"{data.source.encoder} has random weights: the vectors mean nothing"),
        (found[0] > 0, f"{found[0]} held-out rows have a near-twin (cosine ≥ {request.tau:g}) among the fitted rows"),
        (found[1] > 0, f"{found[1]} fitted rows left out: their image bytes stand among the held-out rows"),
        (any(r.at_edge for r in results), "in a fold the best penalty lies at the edge of the search"),
        (not all(r.converged for r in results), "in a fold the final fit did not reach its tolerance"),
    )
    first = next(iter(base))
    return ProbeResult(
        format=FORMAT,
        request=request,
        source=data.source,
        flow=data.flow,
        split=facts,
        audit=None,
        selection=Selection("none", float("nan"), "grouped folds inside each outer fold", at_edge=False, candidates=()),
        converged=all(r.converged for r in results),
        baselines={name: {m: _mean([b[name][m] for b in base]) for m in first[name]} for name in first},
        test=Scored(
            data.truth.n, data.flow.groups, metrics, classes,
            tuple(c.name for c in classes if np.isnan(c.auc.value)), (NOTE,),
        ),
        folds=tuple(results),
        warnings=tuple(text for holds, text in checks if holds),
        packages=package_versions(),
        seconds=progress.seconds,
    )  # fmt: skip


def _class(data: ProbeData, j: int, points: list[Values]) -> ClassResult:
    known = data.truth.known[:, j]
    positive = data.truth.positive[known, j]
    auc, ap = (mean_sd([float(p[name][j]) for p in points]) for name in ("auc", "ap"))
    return ClassResult(data.truth.classes[j], int(positive.sum()), int(known.sum()), float(positive.mean()), auc, ap)


def mean_sd(values: list[float]) -> Interval:
    """Mean, and mean ∓ SD (n - 1), over the folds where it is defined."""
    defined = np.array([v for v in values if not np.isnan(v)])
    mean = _mean(values)
    sd = float(defined.std(ddof=1)) if len(defined) > 1 else float("nan")
    return Interval(mean, mean - sd, mean + sd, len(values) - len(defined), len(defined) == len(values))


def _mean(values: list[float]) -> float:
    defined = [v for v in values if not np.isnan(v)]
    return float(np.mean(defined)) if defined else float("nan")
