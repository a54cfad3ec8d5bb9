"""D30: is it the finding that is classified, or the scanner? Each named column of an experiment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from indexer.errors import ProbeError
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64, Progress
from probes.cohort.experiment import Experiment, absent_classes
from probes.cohort.scaling import features, fit_scaler
from probes.cohort.splits import Split
from probes.cohort.truth import Truth, class_truth, hide_absent, probabilities
from probes.evaluation.bootstrap import Interval, replicate
from probes.evaluation.certainty.trust import Place, quoted
from probes.evaluation.confounding.permutation import raises_p
from probes.evaluation.confounding.robustness import Near, Robustness, neighbours, robustness
from probes.evaluation.confounding.strata import Adjusted, adjusted
from probes.evaluation.interval_kinds import area_interval
from probes.evaluation.metrics import Evaluator, evaluator
from probes.evaluation.paired import leave_out, paired_difference
from probes.evaluation.scoring import Resampling, compact, score
from probes.evaluation.subgroups import MISSING
from probes.fitting.estimators import Recipe, fit, shows_two_classes
from probes.fitting.train import train
from probes.runs.outcome import Outcome
from probes.runs.review.record import Confounder, Confounders
from probes.runs.review.useful import place_here, scored_rows

MOST_VALUES = 50
QUARTERS_FROM = 13  # different numbers from which a column is cut at the quartiles of the fitted rows


def confounders(outcome: Outcome, store: EmbeddingStore, how: Resampling, progress: Progress) -> Confounders:
    """Every column by itself, then a probe on all of them. Raises ProbeError for a column with too many values."""
    experiment = outcome.experiment
    coded = {
        name: coded_values(name, values, experiment.fit_rows) for name, values in experiment.data.confounders.items()
    }
    near = _near(experiment)
    columns = tuple(_one(outcome, name, *of, store, (how, progress, near)) for name, of in coded.items())
    together = np.concatenate([np.eye(len(names))[ids] for ids, names in coded.values()], axis=1)
    alone = _alone(experiment, together)
    if alone is None:
        return Confounders(columns, None, None)
    gain, p = _gain(outcome, alone, how)
    return Confounders(columns, _area(alone, scored_rows(outcome), how), gain, p)


def coded_values(name: str, values: Sequence[str | None], fitted: Int64) -> tuple[Int64, tuple[str, ...]]:
    """Ids (n,) and names of a column's values, nulls as a value; many numbers become quarters of the fitted rows."""
    present = sorted({v for v in values if v is not None})
    if len(present) >= QUARTERS_FROM:
        numbers = np.array([_number(v) for v in values])
        if not np.isnan(numbers[[v is not None for v in values]]).any():
            return _quarters(numbers, numbers[fitted])
    if len(present) > MOST_VALUES:
        raise ProbeError(
            f"--confounder {name} has {len(present)} values, at most {MOST_VALUES} can be told apart. Group them in "
            "a new column."
        )
    names = (*present, *([MISSING] if any(v is None for v in values) else []))
    place = {value: i for i, value in enumerate(names)}
    return np.array([place[MISSING if v is None else v] for v in values]), names


def _number(value: str | None) -> float:
    try:
        return math.nan if value is None else float(value)
    except ValueError:
        return math.nan


def _quarters(numbers: Float64, fitted: Float64) -> tuple[Int64, tuple[str, ...]]:
    cuts = np.unique(np.nanpercentile(fitted, [25, 50, 75]))
    ids = np.searchsorted(cuts, numbers, "left")
    names = [f"≤ {cuts[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(cuts)), f"> {cuts[-1]:g}"]
    missing = np.isnan(numbers)
    if missing.any():
        ids[missing] = len(names)
        names.append(MISSING)
    return ids.astype(np.int64), tuple(names)


def _one(
    outcome: Outcome, name: str, ids: Int64, names: tuple[str, ...], store: EmbeddingStore,
    how: tuple[Resampling, Progress, Near | None],
) -> Confounder:  # fmt: skip
    experiment = outcome.experiment
    test, scored = experiment.split.test, scored_rows(outcome)
    resampling, progress, near = how
    valued = len(names) - (MISSING in names)
    missing = int((ids[test] == names.index(MISSING)).sum()) if MISSING in names else 0
    if len(np.unique(ids[test])) < 2:
        return Confounder(name, valued, missing, None, None, None, None, "one value only in the test rows")
    alone = _alone(experiment, np.eye(len(names))[ids])
    return Confounder(
        name,
        valued,
        missing,
        readable(experiment, ids, names, store, (resampling, progress)),
        None if alone is None else _area(alone, scored, resampling),
        _quoted(adjusted(*scored, ids[test], resampling), place_here(outcome)),
        _robustness(experiment, near, ids),
        raises_p=raises_p(*scored, ids[test], resampling.seed),
    )


def _quoted(found: Adjusted, at: Place | None) -> Adjusted:
    return replace(
        found, within=quoted(found.within, "within_strata", at), balanced=quoted(found.balanced, "balanced_auc", at),
        fall=quoted(found.fall, "fall", at),
    )  # fmt: skip


def readable(
    experiment: Experiment, ids: Int64, names: tuple[str, ...], store: EmbeddingStore, how: tuple[Resampling, Progress]
) -> Interval | None:
    """Test AUC of a linear probe for the column by D4 and D5, on the same split; rows without a value are left out."""
    valued = ids != names.index(MISSING) if MISSING in names else np.ones(len(ids), bool)
    split = experiment.split
    parts = [rows[valued[rows]] for rows in (split.train, split.val, split.test)]
    classes = tuple(n for n in names if n != MISSING)
    truth = class_truth(np.where(valued, ids, 0), classes)
    data = replace(experiment.data, truth=truth, positive=None)
    own = Split(parts[0], parts[1], parts[2], split.duplicates, split.unassigned)
    absent = absent_classes(truth, own)
    settings = replace(
        experiment.request, probe="linear", scaling="l2", penalty=None, shuffle_control=False, class_weight=None,
        search="decades", metric="cosine", multilabel=False, ordinal=False, numeric=False,
    )  # fmt: skip
    facts = replace(experiment.facts, absent=absent)
    if not shows_two_classes(truth.take(own.train)) or not shows_two_classes(truth.take(own.test)):
        return None
    found = Experiment(settings, data, own, facts)
    trained = train(found, store, how[1])
    held = hide_absent(truth.take(own.test), found.absent)
    p = probabilities(trained.test_logits, truth_is_multilabel=False)
    return score(p, held, data.groups[own.test], how[0])[0].metrics["auc_macro"]


def _alone(experiment: Experiment, x: Float64) -> Float64 | None:
    """Test probabilities of a logistic regression (D4, C = 1) for the label on columns x (n, k), or None."""
    data, rows, test = experiment.data, experiment.fit_rows, experiment.split.test
    truth = data.truth.take(rows)
    if not shows_two_classes(truth):
        return None
    model = fit(Recipe("linear"), x[rows], truth, 1.0).model
    return probabilities(model.logits(x[test]), data.truth.multilabel)


def _measured(p: Float64, scored: tuple[Float64, Truth, Int64]) -> Evaluator:
    return evaluator(p, scored[1], compact(scored[2]))


def _area(p: Float64, scored: tuple[Float64, Truth, Int64], how: Resampling) -> Interval:
    """Macro AUC of other probabilities for the same rows."""
    measured = _measured(p, scored)
    drawn = replicate(measured, measured.groups, replicates=how.replicates, seed=how.seed)["auc_macro"]
    sides = measured.sides()
    return area_interval(float(measured.point()["auc_macro"]), drawn, int(min(sides[sides > 0], default=0)))


def _gain(outcome: Outcome, alone: Float64, how: Resampling) -> tuple[Interval, float]:
    """D9's paired difference: the result's probe minus the columns' probe, on the same rows and draws."""
    scored = scored_rows(outcome)
    both = [_measured(p, scored) for p in (scored[0], alone)]
    points = [float(each.point()["auc_macro"]) for each in both]
    drawn = [replicate(e, e.groups, replicates=how.replicates, seed=how.seed)["auc_macro"] for e in both]
    without = [leave_out(lambda weights, own=each: own(weights)["auc_macro"], each.groups) for each in both]  # type: ignore[misc]
    return paired_difference(points[0] - points[1], drawn[0] - drawn[1], without[0] - without[1])


def _near(experiment: Experiment) -> Near | None:
    """Neighbours among the fitted rows, by unit vectors; None for labels, which have no robustness index."""
    data, rows = experiment.data, experiment.fit_rows
    if data.truth.codes is None:
        return None
    unit = features(data.vectors, rows, fit_scaler("none", data.vectors, experiment.split.train))
    return neighbours(unit, data.groups[rows], experiment.request.seed)


def _robustness(experiment: Experiment, near: Near | None, ids: Int64) -> Robustness | None:
    data, rows = experiment.data, experiment.fit_rows
    if near is None or data.truth.codes is None:
        return None
    return robustness(near, data.groups[rows], data.truth.codes[rows], ids[rows])
