"""D37: do hazards stay proportional to the risks, and do the curves of several groups of rows differ?"""

from __future__ import annotations

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.evaluation.bootstrap import Interval, replicate
from probes.evaluation.metrics import Values
from probes.evaluation.paired import leave_out
from probes.evaluation.scoring import Resampling, compact
from probes.evaluation.targets.agreement import number_interval
from probes.evaluation.targets.predictions import Predictions


def proportionality(tested: Predictions, how: Resampling) -> Interval | None:
    """Correlation over the events of Schoenfeld's residual of the risk with the rank of the time (after Grambsch &
    Therneau 1994), with D36's interval of a correlation.

    The risks must have the scale that fits these rows best. The residual is the risk of the row with the event minus
    the mean, weighted by exp(risk), of the rows still observed (Breslow's ties). Below 0: high risks lose their meaning
    with time. None with fewer than three events.
    """
    if tested.events is None or tested.events.sum() < 3:
        return None
    order = np.argsort(tested.true, kind="stable")
    rows, groups = tested.take(order), compact(tested.groups[order])
    assert rows.events is not None  # of times
    at = np.flatnonzero(rows.events)
    first = np.searchsorted(rows.true, rows.true[at], "left")
    _, place = np.unique(rows.true[at], return_inverse=True)
    hazard = np.exp(rows.predicted - rows.predicted.max())

    def evaluate(weights: Int64) -> Values:
        w = np.take(weights, groups, axis=1).astype(np.float64)
        own, means = w[:, at], _means(w * hazard, rows.predicted)[:, first]
        residuals = np.where(own > 0, rows.predicted[at] - means, 0.0)
        ranks = _ranks(own, place)
        with np.errstate(invalid="ignore", divide="ignore"):
            total = own.sum(1, keepdims=True)
            x, y = (v - (own * v).sum(1, keepdims=True) / total for v in (residuals, ranks))
            along = np.sqrt((own * x**2).sum(1) * (own * y**2).sum(1))
            return {"correlation": np.where(along > 0, (own * x * y).sum(1) / along, np.nan)}

    count = int(groups.max()) + 1
    value = float(evaluate(np.ones((1, count), np.int64))["correlation"][0])
    drawn = replicate(evaluate, count, replicates=how.replicates, seed=how.seed)["correlation"]
    without = leave_out(lambda weights: evaluate(weights)["correlation"], count)
    return number_interval("spearman", value, drawn, without, count)


def _means(mass: Float64, values: Float64) -> Float64:
    """(b, n) mean of the values of each row and all later ones, weighted by `mass` (b, n); NaN where none is left."""
    total, top = (np.cumsum(each[:, ::-1], axis=1)[:, ::-1] for each in (mass, mass * values))
    return np.asarray(np.divide(top, total, out=np.full(total.shape, np.nan), where=total > 0))


def _ranks(own: Float64, place: Int64) -> Float64:
    """(b, e) midranks of the events' times, where a row of weight w counts as w equal rows; `place` (e,) ascends."""
    running = np.zeros((len(own), own.shape[1] + 1))
    np.cumsum(own, axis=1, out=running[:, 1:])
    low, high = np.searchsorted(place, place, "left"), np.searchsorted(place, place, "right")
    return np.asarray((running[:, low] + running[:, high]) / 2)


def log_rank(parts: Int64, times: Float64, events: Bool) -> float:
    """P of equal hazards in the parts (n,) of rows that are independent of each other (Mantel 1966; χ² with one degree
    of freedom fewer than the parts with rows). NaN without two parts or an event.
    """
    from scipy.stats import chi2

    names, part = np.unique(parts, return_inverse=True)
    distinct = np.unique(times[events])
    if len(names) < 2 or not len(distinct):
        return float("nan")
    member = part[:, None] == np.arange(len(names))
    at_risk = np.stack([np.searchsorted(np.sort(-times[own]), -distinct, "right") for own in member.T], axis=1)
    places = [np.searchsorted(distinct, times[own & events]) for own in member.T]
    happened = np.stack([np.bincount(at, minlength=len(distinct)) for at in places], axis=1)
    n, d = at_risk.sum(1), happened.sum(1)
    share = at_risk / n[:, None]
    apart = (happened - d[:, None] * share).sum(0)
    scale = d * np.divide(n - d, n - 1, out=np.zeros(len(n)), where=n > 1)
    spread = np.diag((scale[:, None] * share).sum(0)) - (share * scale[:, None]).T @ share
    squared = float(apart[1:] @ np.linalg.lstsq(spread[1:, 1:], apart[1:], rcond=None)[0])
    return float(chi2.sf(squared, len(names) - 1))
