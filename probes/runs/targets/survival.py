"""D37: a probe of times with events, from the split to the result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from indexer.types import Float32, Int64
from probes.cohort.experiment import Experiment
from probes.evaluation.bootstrap import interval
from probes.evaluation.bootstrap import replicate as replicates_of
from probes.evaluation.leakage import Audit
from probes.evaluation.metrics import Values
from probes.evaluation.scoring import Resampling, compact
from probes.evaluation.subgroups import FEWEST, MISSING
from probes.evaluation.targets.predictions import Predictions, tested_rows
from probes.evaluation.targets.product_limit import Steps, product_limit, steps_of
from probes.evaluation.targets.proportional import log_rank, proportionality
from probes.fitting.targets.cox import fit_cox, risk_sets
from probes.fitting.targets.sizes import RiskSize, risk_sizes
from probes.fitting.targets.survival import thirds_of, train_survival
from probes.progress import Stages
from probes.runs.outcome import Outcome, result_of
from probes.runs.targets.horizon import horizon_calibration
from probes.runs.targets.parts import scored_by_group, without_twins
from probes.runs.targets.record import RiskSubgroup, RiskThird, SurvivalResult

MOST_STEPS = 200  # of a curve
TICKS = 5  # times at which the observed rows are counted
NAMES = ("low", "middle", "high")
SLIGHT = 1e-6  # penalty of a slope, so that it exists where the risks order all events


def run_survival(experiment: Experiment, near: tuple[Float32 | None, Audit | None], progress: Stages) -> Outcome:
    """Fit and score an audited experiment. Raises ProbeError with too few events to fit on."""
    request, data, test = experiment.request, experiment.data, experiment.split.test
    trained, components = train_survival(experiment, progress)
    how = Resampling(request.replicates, request.seed)
    tested = tested_rows(trained.test_logits, data.truth.take(test), data.groups[test])
    assert tested.events is not None  # of a request whose target is survival
    with progress.stage("intervals"):
        scored = tested.scored(how)
        distinct = without_twins(near[0], request.tau, tested, how)
        patients = scored_by_group(experiment, tested, how)
        bounds = thirds_of(trained.held_logits[:, 0])
        ticks = tuple(np.linspace(0, tested.horizon, TICKS).tolist())
        thirds = _thirds(tested, bounds, ticks, how)
        calibrated = horizon_calibration(tested, trained.model, how)
        proportional, p = proportionality(_rescaled(tested), how), _log_rank(tested, bounds)
        subgroups = _subgroups(experiment, tested, how)
    points: tuple[RiskSize, ...] = ()
    if request.few_shot:
        with progress.stage("label efficiency"):
            points = risk_sizes(experiment, trained.selection.value, progress)
    fitted = data.truth.take(experiment.fit_rows).events
    begun = result_of(experiment, trained, near[1], scored, progress)
    result = replace(
        begun,
        without_duplicates=distinct,
        patients=patients,
        survival=SurvivalResult(
            tested.horizon, components.directions.shape[1], components.share,
            int(fitted.sum()) if fitted is not None else 0, int(tested.events.sum()), bounds, ticks, thirds, calibrated,
            proportional, p, points, subgroups,
        ),
        warnings=(*begun.warnings, *_warnings(experiment, tested)),
    )  # fmt: skip
    return Outcome(result, experiment, trained, trained.test_logits)


def _thirds(
    tested: Predictions, bounds: tuple[float, float], ticks: tuple[float, ...], how: Resampling
) -> tuple[RiskThird, ...]:
    third = np.searchsorted(np.array(bounds), tested.predicted, "right")
    return tuple(_third(name, tested.take(np.flatnonzero(third == i)), ticks, how) for i, name in enumerate(NAMES))


def _third(name: str, tested: Predictions, ticks: tuple[float, ...], how: Resampling) -> RiskThird:
    """The curve of some rows, and the survival at the last tick with percentiles of the groups' replicates."""
    times, events, groups = tested.true, tested.events, tested.groups
    assert events is not None  # of times
    order = np.lexsort((~events, times))
    times, events, groups = times[order], events[order], compact(groups[order])
    steps, count = steps_of(times, events), len(np.unique(groups))
    curve = product_limit(steps, np.ones((1, len(times))))[0]
    at = int(np.searchsorted(steps.times, ticks[-1], "right"))
    drawn = replicates_of(
        lambda weights: _survival(steps, weights, groups, at), count, replicates=how.replicates, seed=how.seed
    )
    value = float(curve[at]) if len(times) else float("nan")
    thin = np.unique(np.linspace(0, len(steps.times), min(len(steps.times), MOST_STEPS) + 1).astype(int))
    return RiskThird(
        name, len(times), count, int(events.sum()), interval(value, drawn.get("survival", np.full(1, np.nan))),
        tuple(np.concatenate([[0.0], steps.times])[thin].tolist()), tuple(curve[thin].tolist()),
        float(times[-1]) if len(times) else 0.0,
        tuple(int((times >= tick).sum()) for tick in ticks),
    )  # fmt: skip


def _survival(steps: Steps, weights: Int64, groups: Int64, at: int) -> Values:
    """The estimate from the given step on (b,); undefined where no row was drawn."""
    rows = np.take(weights, groups, axis=1).astype(np.float64)
    return {"survival": np.where(rows.sum(1) > 0, product_limit(steps, rows)[:, at], np.nan)}


def _rescaled(tested: Predictions) -> Predictions:
    """The risks times the slope of Cox's model on them alone: else residuals would seem to depend on time."""
    spread = float(tested.predicted.std())
    if tested.events is None or not tested.events.any() or not spread > 0:
        return tested
    own = (tested.predicted - tested.predicted.mean()) / spread
    slope = fit_cox(own[:, None], risk_sets(tested.true, tested.events), SLIGHT).beta[0]
    return replace(tested, predicted=own * slope)


def _log_rank(tested: Predictions, bounds: tuple[float, float]) -> float:
    """The test takes rows as independent: NaN where a group has several. The bounds are of fitted rows."""
    if tested.events is None or len(np.unique(tested.groups)) < len(tested.groups):
        return float("nan")
    return log_rank(np.searchsorted(np.array(bounds), tested.predicted, "right"), tested.true, tested.events)


def _subgroups(experiment: Experiment, tested: Predictions, how: Resampling) -> tuple[RiskSubgroup, ...]:
    out = []
    for column, values in experiment.data.subgroups.items():
        own = np.array([MISSING if values[i] is None else values[i] for i in experiment.split.test], dtype=object)
        for value in sorted(set(own)):
            rows = tested.take(np.flatnonzero(own == value))
            events = 0 if rows.events is None else int(rows.events.sum())
            found = rows.scored(how).metrics if events >= FEWEST else {}
            out.append(
                RiskSubgroup(
                    column, str(value), len(rows.true), len(np.unique(rows.groups)), events,
                    found.get("uno"), found.get("harrell"),
                )
            )  # fmt: skip
    return tuple(out)


def _warnings(experiment: Experiment, tested: Predictions) -> tuple[str, ...]:
    several = len(np.unique(tested.groups)) < len(tested.groups)
    group = experiment.request.group
    checks = (
        (
            several and experiment.data.level != "image",
            f"a {group} counts once for each of its rows in the fit and in C: --level {group} pools them to one",
        ),
        (tested.events is not None and not tested.events.any(), "the test rows have no event: nothing can be scored"),
        (not np.ptp(tested.predicted) > 0, "the risk is the same for every test row"),
    )
    return tuple(text for holds, text in checks if holds)
