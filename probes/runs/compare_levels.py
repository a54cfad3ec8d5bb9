"""D35: the same probe of one table at several levels, scored on the cases of the coarsest, for paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from indexer.errors import ProbeError
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64
from probes.cohort.experiment import Experiment, prepare
from probes.cohort.labels import texts
from probes.cohort.load import load, open_store
from probes.evaluation.scoring import Resampling, by_group, score
from probes.progress import Stages
from probes.request import IMAGE, ProbeRequest
from probes.runs.compare import Comparison, paired_differences, tested
from probes.runs.outcome import Outcome
from probes.runs.result import FORMAT
from probes.runs.run import run_prepared


@dataclass(frozen=True)
class _Placed:
    """The test rows of one level by the case that they are of."""

    rows: Int64  # (m,) places in the level's test rows
    cases: Int64  # (m,) places in the coarsest level's


def compare_levels(
    request: ProbeRequest, levels: Sequence[str], metric: str, progress: Stages
) -> tuple[Comparison, list[Outcome]]:
    """Compare the levels of the request's table, each IMAGE or a column. Raises ProbeError.

    Each level is fitted and tested as it is alone, on the same groups. The probabilities of a finer level's rows are
    pooled for each case as D15 says.
    """
    _check(request, levels)
    store = open_store(request)
    with progress.stage("reading"):
        experiments = [prepare(own, load(store, own)) for own in (replace(request, level=name) for name in levels)]
    coarsest = min(experiments, key=lambda own: len(own.data.keys))
    placed = [_placed(store, own, coarsest) for own in experiments]
    shared = np.arange(len(coarsest.split.test))
    for each in placed:
        shared = np.intersect1d(shared, each.cases)
    if not len(shared):
        raise ProbeError("no case is in the test split of every level: give more rows, or another --split.")
    outcomes = []
    for name, experiment in zip(levels, experiments, strict=True):
        progress.name(name)
        outcomes.append(run_prepared(experiment, store, progress))
        progress.seconds = {}
    progress.name("all levels")
    with progress.stage("paired differences"):
        truth, groups = tested(coarsest)
        truth, groups = truth.take(shared), groups[shared]
        scores = [_pooled(outcome, where, shared) for outcome, where in zip(outcomes, placed, strict=True)]
        differences, delong_p = paired_differences(scores, truth, groups, levels, metric, request)
        how = Resampling(request.replicates, request.seed)
        of_cases = tuple(score(p, truth, groups, how)[0] for p in scores)
    left = {
        name: len(own.rows) - int(np.isin(own.cases, shared).sum()) for name, own in zip(levels, placed, strict=True)
    }
    level = coarsest.request.level
    warnings = tuple(
        f"{count} test rows of level {name} left out: their {level} is not in every level's test split"
        for name, count in left.items()
        if count
    )
    found = Comparison(
        FORMAT, coarsest.facts.statement, metric, len(shared), left, tuple(o.result for o in outcomes), differences,
        delong_p, warnings, level, of_cases,
    )  # fmt: skip
    return found, outcomes


def _check(request: ProbeRequest, levels: Sequence[str]) -> None:
    if len(set(levels)) < 2 or len(set(levels)) < len(levels):
        raise ProbeError("a comparison needs two levels or more, each once: --levels image,series.")
    if request.group == "none":
        raise ProbeError("levels are compared on the same groups: name the column of the patients with --group.")
    if request.split_is_folds or request.split == "stratified" or request.probe == "zero-shot":
        raise ProbeError(
            "levels are compared on one test split of groups that is the same for each, with a fitted probe. Use "
            "--split hash or a column."
        )


def _placed(store: EmbeddingStore, own: Experiment, coarsest: Experiment) -> _Placed:
    """Raises ProbeError where rows of one case of this level are in several of the coarsest."""
    test = own.split.test
    if own is coarsest:
        return _Placed(np.arange(len(test)), np.arange(len(test)))
    level, column = coarsest.request.level, "key" if own.request.level == IMAGE else own.request.level
    places = {coarsest.data.keys[row]: at for at, row in enumerate(coarsest.split.test)}
    rows = {own.data.keys[row]: at for at, row in enumerate(test)}
    cases = np.full(len(test), -1)
    for batch in store.scan([column, level], own.request.own_where):
        names = zip(texts(batch.column(column)), texts(batch.column(level)), strict=True)
        for name, case in names:
            at, place = rows.get(name or ""), places.get(case or "", -1)
            if at is None or place < 0:
                continue
            if cases[at] not in (-1, place):
                raise ProbeError(f"{column} {name} has rows of several {level}: levels must lie in one another.")
            cases[at] = place
    known = np.flatnonzero(cases >= 0)
    return _Placed(known, cases[known])


def _pooled(outcome: Outcome, placed: _Placed, shared: Int64) -> Float64:
    """(len(shared), c): the probability of each case."""
    kept = np.isin(placed.cases, shared)
    truth, _ = tested(outcome.experiment)
    rows, cases = placed.rows[kept], placed.cases[kept]
    return by_group(outcome.p[rows], truth.take(rows), cases, outcome.experiment.request.pooling)[0]
