"""D37: the baseline hazard of a fitted Cox model, which turns risks into probabilities of survival."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64
from probes.fitting.models import Model

TIMES, HAZARD = "hazard_times", "hazard"  # of a model's arrays


@dataclass(frozen=True)
class Baseline:
    """The cumulative hazard at risk 0 (of the mean fitted vector), a step at each event time."""

    times: Float64  # (k,) ascending
    hazard: Float64  # (k,) from each time on; 0 before the first

    def at(self, times: Float64) -> Float64:
        """The cumulative hazard at times (m,); beyond the last event it stays."""
        steps = np.concatenate([[0.0], self.hazard])
        return np.asarray(steps[np.searchsorted(self.times, times, "right")])

    def survival(self, risks: Float64, time: float) -> Float64:
        """(n,) probability of no event up to one time."""
        return np.exp(-self.at(np.array([time])) * np.exp(risks))


def baseline_of(risks: Float64, times: Float64, events: Bool) -> Baseline:
    """Breslow's estimate: at each event time the events over Σ exp(risk) of the rows (n,) still observed."""
    order = np.argsort(times, kind="stable")
    times, events = times[order], events[order]
    observed = np.cumsum(np.exp(risks[order])[::-1])[::-1]
    distinct, counts = np.unique(times[events], return_counts=True)
    return Baseline(distinct, np.cumsum(counts / observed[np.searchsorted(times, distinct, "left")]))


def baseline_in(model: Model) -> Baseline | None:
    """The baseline that a stored survival probe holds; one of before this existed has none."""
    if TIMES not in model.arrays or HAZARD not in model.arrays:
        return None
    return Baseline(model.arrays[TIMES], model.arrays[HAZARD])


def require_hazard(model: Model) -> None:
    """Raise ValueError unless the model's baseline is ascending finite steps, and its horizon a time."""
    found = baseline_in(model)
    if found is None:
        return
    steps = np.concatenate([[0.0], found.hazard])
    if found.times.ndim != 1 or found.times.shape != found.hazard.shape:
        raise ValueError("a baseline hazard whose arrays do not fit together")
    if not (np.isfinite(found.times).all() and np.isfinite(steps).all()):
        raise ValueError("a baseline hazard that is not finite")
    if (np.diff(found.times) <= 0).any() or (np.diff(steps) < 0).any():
        raise ValueError("a baseline hazard that does not ascend")
    if not model.settings.get("horizon", -1.0) >= 0:
        raise ValueError("a baseline hazard without a horizon")
