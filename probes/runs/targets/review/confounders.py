"""D39: is it the number, or the time, that is predicted, or the scanner? Each named column of an experiment."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64, Progress
from probes.evaluation.bootstrap import Interval, replicate
from probes.evaluation.paired import leave_out, paired_difference
from probes.evaluation.scoring import Resampling
from probes.evaluation.subgroups import MISSING
from probes.evaluation.targets.predictions import Predictions
from probes.evaluation.targets.within import within_strata
from probes.fitting.targets.cox import fit_cox, risk_sets
from probes.runs.outcome import Outcome
from probes.runs.review.confounders import coded_values, readable
from probes.runs.review.record import Confounder, Confounders
from probes.runs.targets.review.external import tested_here

EXPLAINED = {"numeric": "r2", "survival": "uno"}  # the metric of a probe on columns alone
PENALTY = 1.0  # alpha or lambda of that probe


def target_confounders(outcome: Outcome, store: EmbeddingStore, how: Resampling, progress: Progress) -> Confounders:
    """Every column by itself, then a probe on all of them. Raises ProbeError for a column with too many values."""
    experiment = outcome.experiment
    coded = {
        name: coded_values(name, values, experiment.fit_rows) for name, values in experiment.data.confounders.items()
    }
    own = tested_here(outcome)
    columns = tuple(_one(outcome, own, (name, *of), store, (how, progress)) for name, of in coded.items())
    together = np.concatenate([np.eye(len(names))[ids] for ids, names in coded.values()], axis=1)
    alone = _alone(outcome, own, together)
    gain, p = _gain(own, alone, how)
    metric = EXPLAINED[own.target]
    return Confounders(columns, alone.scored(how).metrics[metric], gain, p, metric)


def _one(
    outcome: Outcome, own: Predictions, column: tuple[str, Int64, tuple[str, ...]], store: EmbeddingStore,
    how: tuple[Resampling, Progress],
) -> Confounder:  # fmt: skip
    experiment = outcome.experiment
    name, ids, names = column
    test = experiment.split.test
    valued = len(names) - (MISSING in names)
    missing = int((ids[test] == names.index(MISSING)).sum()) if MISSING in names else 0
    if len(np.unique(ids[test])) < 2:
        return Confounder(name, valued, missing, None, None, None, None, "one value only in the test rows")
    alone = _alone(outcome, own, np.eye(len(names))[ids])
    return Confounder(
        name,
        valued,
        missing,
        readable(experiment, ids, names, store, how),
        alone.scored(how[0]).metrics[EXPLAINED[own.target]],
        None,
        None,
        within=within_strata(own, ids[test], how[0]),
    )


def _alone(outcome: Outcome, own: Predictions, x: Float64) -> Predictions:
    """The test rows as a probe on columns x (n, k) alone predicts them: ridge regression, or Cox's model."""
    experiment = outcome.experiment
    rows, test = experiment.fit_rows, experiment.split.test
    centre = x[rows].mean(0)
    inside, outside = x[rows] - centre, x[test] - centre
    truth = experiment.data.truth.take(rows)
    assert truth.numbers is not None  # of a target that is no class
    if truth.events is not None:
        beta = fit_cox(inside, risk_sets(truth.numbers, truth.events), PENALTY).beta
        return replace(own, predicted=outside @ beta)
    level = float(truth.numbers.mean())
    solved = np.linalg.solve(inside.T @ inside + PENALTY * np.eye(x.shape[1]), inside.T @ (truth.numbers - level))
    return replace(own, predicted=outside @ solved + level)


def _gain(own: Predictions, alone: Predictions, how: Resampling) -> tuple[Interval, float]:
    """D9's paired difference: the result's probe minus the columns' probe, on the same rows and draws."""
    metric = EXPLAINED[own.target]
    both = [each.evaluator() for each in (own, alone)]
    points = [each.point()[metric] for each in both]
    drawn = [replicate(e, e.groups, replicates=how.replicates, seed=how.seed)[metric] for e in both]
    without = [leave_out(lambda weights, of=each: of(weights)[metric], each.groups) for each in both]  # type: ignore[misc]
    return paired_difference(points[0] - points[1], drawn[0] - drawn[1], without[0] - without[1])
