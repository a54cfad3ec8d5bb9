"""D37: Cox's proportional hazards by penalised partial likelihood, with Efron's rule for ties.

max over β of ℓ(β) - λ‖β‖²/2, ℓ = Σ_events xβ - Σ_t Σ_{l<d} log(S₀ - l/d · T₀), where at an event time t of d events S₀
is Σ exp(xβ) over the rows still observed and T₀ over those events (Efron 1977). Newton's method with the exact Hessian.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.compute.threads import one_thread

STEPS = 60  # of Newton, of which a penalised fit takes about ten
HALVINGS = 30
TOLERANCE = 1e-18  # of half the Newton decrement, relative to the likelihood


@dataclass(frozen=True)
class RiskSets:
    """Rows in ascending order of time, and what of the likelihood does not depend on β."""

    order: Int64  # (n,) places of the rows as they were given
    events: Bool  # (n,) in that order
    starts: Int64  # (k,) first row that is still observed at each event time
    upto: Int64  # (n,) event times at or before each row's time
    event_times: Int64  # (e,) which event time each event row is of
    slots: Int64  # (e,) which event time each factor of the likelihood is of
    shares: Float64  # (e,) l/d of each factor


@dataclass(frozen=True)
class CoxFit:
    """Coefficients (q,), and whether Newton's method converged."""

    beta: Float64
    converged: bool


def risk_sets(times: Float64, events: Bool) -> RiskSets:
    order = np.argsort(times, kind="stable")
    times, events = times[order], events[order]
    distinct, of_event, counts = np.unique(times[events], return_inverse=True, return_counts=True)
    shares = np.concatenate([np.arange(d) / d for d in counts]) if len(counts) else np.empty(0)
    return RiskSets(
        order, events, np.searchsorted(times, distinct, "left"), np.searchsorted(distinct, times, "right"),
        of_event, np.repeat(np.arange(len(distinct)), counts), shares,
    )  # fmt: skip


def log_likelihood(sets: RiskSets, eta: Float64) -> float:
    """ℓ of linear predictors (n,), of rows in the order in which they were given."""
    eta = eta[sets.order]
    return float((eta[sets.events] - eta.max()).sum() - np.log(_factors(sets, np.exp(eta - eta.max()))).sum())


def _factors(sets: RiskSets, r: Float64) -> Float64:
    """(e,) S₀ - l/d · T₀ of relative hazards r (n,), sorted by time."""
    observed = np.cumsum(r[::-1])[::-1][sets.starts]
    tied = np.bincount(sets.event_times, r[sets.events], len(sets.starts))
    return np.asarray(observed[sets.slots] - sets.shares * tied[sets.slots])


def fit_cox(x: Float64, sets: RiskSets, penalty: float, start: Float64 | None = None) -> CoxFit:
    """β of features x (n, q), of rows in the order in which they were given."""
    x = x[sets.order]
    beta = np.zeros(x.shape[1]) if start is None else start
    with one_thread():
        value, gradient, hessian = _at(x, sets, beta, penalty)
        for _ in range(STEPS):
            step = np.linalg.solve(hessian, gradient)
            decrement = float(gradient @ step) / 2
            if decrement <= TOLERANCE * (1 + abs(value)):
                return CoxFit(beta, True)
            for halving in range(HALVINGS):
                beyond = beta + step / 2**halving
                found = _at(x, sets, beyond, penalty)
                if found[0] >= value:
                    break
            else:  # rounding: no step is better
                return CoxFit(beta, decrement <= 1e-9 * (1 + abs(value)))
            beta, (value, gradient, hessian) = beyond, found
    return CoxFit(beta, False)


def _at(x: Float64, sets: RiskSets, beta: Float64, penalty: float) -> tuple[float, Float64, Float64]:
    """The penalised likelihood, its gradient (q,), and minus its Hessian (q, q)."""
    eta = x @ beta
    r = np.exp(eta - eta.max())
    factors = _factors(sets, r)
    count = len(sets.starts)
    each = np.bincount(sets.slots, 1 / factors, count)
    own = np.bincount(sets.slots, sets.shares / factors, count)
    weights = r * np.concatenate([[0.0], np.cumsum(each)])[sets.upto]
    weights[sets.events] -= r[sets.events] * own[sets.event_times]
    hazard = r[:, None] * x
    observed = np.cumsum(hazard[::-1], axis=0)[::-1][sets.starts]
    tied = np.zeros_like(observed)
    np.add.at(tied, sets.event_times, hazard[sets.events])
    means = (observed[sets.slots] - sets.shares[:, None] * tied[sets.slots]) / factors[:, None]
    value = float((eta[sets.events] - eta.max()).sum() - np.log(factors).sum() - penalty * (beta @ beta) / 2)
    gradient = x.T @ (sets.events - weights) - penalty * beta
    hessian = (x * weights[:, None]).T @ x - means.T @ means + penalty * np.eye(x.shape[1])
    return value, gradient, hessian
