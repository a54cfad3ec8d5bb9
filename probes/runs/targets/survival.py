"""D37: a probe of times with events, from the split to the result."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from indexer.types import Bool, Float32, Float64, Int64
from probes.cohort.experiment import Experiment
from probes.evaluation.bootstrap import interval
from probes.evaluation.bootstrap import replicate as replicates_of
from probes.evaluation.leakage import Audit
from probes.evaluation.metrics import Values
from probes.evaluation.scoring import Resampling, Scored, compact
from probes.evaluation.targets.concordance import horizon_of, score_risks
from probes.evaluation.targets.product_limit import Steps, product_limit, steps_of
from probes.fitting.targets.survival import thirds_of, train_survival
from probes.progress import Stages
from probes.runs.cautions import warnings_of
from probes.runs.outcome import Outcome, package_versions
from probes.runs.result import FORMAT, ProbeResult
from probes.runs.targets.record import RiskThird, SurvivalResult

MOST_STEPS = 200  # of a curve
TICKS = 5  # times at which the observed rows are counted
NAMES = ("low", "middle", "high")

Rows = tuple[Float64, Float64, Bool, Int64]  # risks, times, events and groups of some rows


def run_survival(experiment: Experiment, near: tuple[Float32 | None, Audit | None], progress: Stages) -> Outcome:
    """Fit and score an audited experiment. Raises ProbeError with too few events to fit on."""
    request, data, test = experiment.request, experiment.data, experiment.split.test
    trained, components = train_survival(experiment, progress)
    how = Resampling(request.replicates, request.seed)
    truth = data.truth.take(test)
    assert truth.numbers is not None  # of a request whose target is survival
    assert truth.events is not None
    rows: Rows = (trained.test_logits[:, 0], truth.numbers, truth.events, data.groups[test])
    horizon = horizon_of(truth.numbers)
    with progress.stage("intervals"):
        scored = score_risks(*rows[:3], (rows[3], how), horizon)
        distinct = _without(near[0], request.tau, rows, (horizon, how))
        patients = _patients(experiment, rows, (horizon, how))
        bounds = thirds_of(trained.held_logits[:, 0])
        ticks = tuple(np.linspace(0, horizon, TICKS).tolist())
        thirds = _thirds(rows, bounds, ticks, how)
    fitted = data.truth.take(experiment.fit_rows).events
    result = ProbeResult(
        format=FORMAT,
        request=request,
        source=data.source,
        flow=data.flow,
        split=experiment.facts,
        audit=near[1],
        selection=trained.selection,
        converged=trained.converged,
        baselines={},
        test=scored,
        without_duplicates=distinct,
        patients=patients,
        survival=SurvivalResult(
            horizon, components.directions.shape[1], components.share, int(fitted.sum()) if fitted is not None else 0,
            int(truth.events.sum()), bounds, ticks, thirds,
        ),
        warnings=(*warnings_of(experiment, trained, near[1], scored), *_warnings(experiment, rows)),
        packages=package_versions(),
        seconds=progress.seconds,
    )  # fmt: skip
    return Outcome(result, experiment, trained, trained.test_logits)


def _take(rows: Rows, at: Int64) -> Rows:
    risks, times, events, groups = rows
    return risks[at], times[at], events[at], groups[at]


def _without(cosine: Float32 | None, tau: float, rows: Rows, how: tuple[float, Resampling]) -> Scored | None:
    """Every metric without the test rows that have a near-duplicate; None where there are none, or nothing is left."""
    if cosine is None or not (cosine >= tau).any() or (cosine >= tau).all():
        return None
    risks, times, events, groups = _take(rows, np.flatnonzero(~(cosine >= tau)))
    return score_risks(risks, times, events, (groups, how[1]), how[0])


def _patients(experiment: Experiment, rows: Rows, how: tuple[float, Resampling]) -> Scored | None:
    """D15: the mean risk of each group, without groups of several times or events; None where each has one row."""
    risks, times, events, groups = rows
    ids, first = compact(groups), np.unique(groups, return_index=True)[1]
    if experiment.data.level == "image" or len(first) == len(ids):
        return None
    means = np.bincount(ids, weights=risks) / np.bincount(ids)
    same = (times == times[first][ids]) & (events == events[first][ids])
    kept = np.bincount(ids, weights=~same) == 0
    if not kept.any():
        return None
    found = score_risks(means[kept], times[first][kept], events[first][kept], (np.flatnonzero(kept), how[1]), how[0])
    left = int((~kept).sum())
    note = (f"{left} groups left out: their rows are of several times or events",) if left else ()
    return replace(found, notes=(*note, *found.notes))


def _thirds(
    rows: Rows, bounds: tuple[float, float], ticks: tuple[float, ...], how: Resampling
) -> tuple[RiskThird, ...]:
    third = np.searchsorted(np.array(bounds), rows[0], "right")
    return tuple(_third(name, _take(rows, np.flatnonzero(third == i)), ticks, how) for i, name in enumerate(NAMES))


def _third(name: str, rows: Rows, ticks: tuple[float, ...], how: Resampling) -> RiskThird:
    """The curve of some rows, and the survival at the last tick with percentiles of the groups' replicates."""
    _, times, events, groups = rows
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


def _warnings(experiment: Experiment, rows: Rows) -> tuple[str, ...]:
    several = len(np.unique(rows[3])) < len(rows[3])
    group = experiment.request.group
    checks = (
        (
            several and experiment.data.level != "image",
            f"a {group} counts once for each of its rows in the fit and in C: --level {group} pools them to one",
        ),
        (not rows[2].any(), "the test rows have no event: nothing can be scored"),
        (not np.ptp(rows[0]) > 0, "the risk is the same for every test row"),
    )
    return tuple(text for holds, text in checks if holds)
