"""D37: Harrell's and Uno's C of risks for times with censoring, for many integer group weightings at once.

A pair is comparable where one row has its event before the other's time (a row that is censored at that very time was
still observed). The sums over the comparable rows of lower risk come from a merge tree over the rows in order of time:
in each of its log₂ n levels they are differences of cumulative weights, whose places do not depend on the weights.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.evaluation.bootstrap import Interval, interval, replicate
from probes.evaluation.metrics import Values
from probes.evaluation.paired import leave_out
from probes.evaluation.ranks import CACHE_ROWS
from probes.evaluation.scoring import Resampling, Scored, compact
from probes.evaluation.targets.agreement import MOST, half_width
from probes.evaluation.targets.product_limit import Steps, product_limit, steps_of

OBSERVED = 0.1  # share of the rows that are still observed at the horizon
METRICS = ("uno", "harrell")
FEW_EVENTS = 20  # groups with an event below which a note says that intervals are rough


@dataclass(frozen=True)
class _Level:
    """Rows that are compared in one level of the tree: the events of left halves with the rows of right halves."""

    order: Int64  # (n,) rows by half and, within, by risk
    events: Int64  # (m,) places among the event rows
    start: Int64  # (m,) first place of the right half
    below: Int64  # (m,) one past its last row of lower risk
    upto: Int64  # (m,) one past its last row of lower or equal risk


@dataclass(frozen=True)
class ConcordanceEvaluator:
    """Rows in order of time; of one time events come before censored rows, and then by risk."""

    groups: int
    owners: Int64  # (n,)
    events: Int64  # (e,) places of event rows
    inside: Bool  # (e,) whether the event is before or at the horizon
    later: Int64  # (e,) first row that outlives the event
    equals: Int64  # (e,) one past the last row of the same time, kind and risk, which is no pair
    levels: tuple[_Level, ...]
    steps: Steps
    before: Int64  # (e,) which factor of the censoring's distribution is the last before the event

    def __call__(self, weights: Int64) -> Values:
        """Every metric (b,) for group weights (b, g)."""
        step = max(1, CACHE_ROWS // max(len(self.owners), 1))
        parts = [self._block(weights[start : start + step]) for start in range(0, len(weights), step)]
        return {name: np.concatenate([part[name] for part in parts]) for name in METRICS}

    def point(self) -> dict[str, float]:
        return {name: float(value[0]) for name, value in self(np.ones((1, self.groups), np.int64)).items()}

    def pairs(self, weights: Int64) -> tuple[Float64, Float64]:
        """Harrell's sums (b,): pairs of which the row with the event has the higher risk, and comparable pairs."""
        step = max(1, CACHE_ROWS // max(len(self.owners), 1))
        parts = [self._sums(weights[start : start + step]) for start in range(0, len(weights), step)]
        wins, comparable = (np.concatenate([(part[0] * part[i]).sum(1) for part in parts]) for i in (1, 2))
        return wins, comparable

    def _block(self, weights: Int64) -> Values:
        own, lower, comparable, unseen = self._sums(weights)
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "uno": (own * unseen * lower).sum(1) / (own * unseen * comparable).sum(1),
                "harrell": (own * lower).sum(1) / (own * comparable).sum(1),
            }

    def _sums(self, weights: Int64) -> tuple[Float64, Float64, Float64, Float64]:
        """Of each event row (b, e): its weight, the weight of the comparable rows of lower risk, that of all comparable
        rows, and Ĝ⁻².
        """
        w = np.take(weights, self.owners, axis=1).astype(np.float64)
        running = np.zeros((len(w), w.shape[1] + 1))
        np.cumsum(w, axis=1, out=running[:, 1:])
        lower = np.zeros((len(w), len(self.events)))
        for level in self.levels:
            own = np.zeros_like(running)
            np.cumsum(np.take(w, level.order, axis=1), axis=1, out=own[:, 1:])
            both = np.take(own, level.below, axis=1) + np.take(own, level.upto, axis=1)
            lower[:, level.events] += both / 2 - np.take(own, level.start, axis=1)
        lower -= (np.take(running, self.equals, axis=1) - np.take(running, self.events + 1, axis=1)) / 2
        comparable = running[:, -1:] - np.take(running, self.later, axis=1)
        own = np.take(w, self.events, axis=1)
        censoring = product_limit(self.steps, w)
        with np.errstate(divide="ignore", invalid="ignore"):
            unseen = np.where(self.inside, np.take(censoring, self.before, axis=1) ** -2.0, 0.0)
        return own, lower, comparable, np.where(np.isfinite(unseen), unseen, 0.0)


def horizon_of(times: Float64) -> float:
    """The last time at which at least a tenth of the rows is still observed: beyond it Uno's weights explode."""
    return float(np.sort(times)[len(times) - max(1, int(np.ceil(OBSERVED * len(times))))])


def concordance_evaluator(
    risks: Float64, times: Float64, events: Bool, groups: Int64, horizon: float
) -> ConcordanceEvaluator:
    """Of risks (n,), higher for earlier events, and group ids 0 … g-1. Uno's C counts events up to the horizon."""
    order = np.lexsort((risks, ~events, times))
    risks, times, events, owners = risks[order], times[order], events[order], groups[order]
    n, at = len(risks), np.flatnonzero(events)
    kind = np.unique(np.stack([times, ~events], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    triple = np.unique(np.stack([kind, risks], axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    steps = steps_of(times, ~events)
    return ConcordanceEvaluator(
        int(groups.max()) + 1 if len(groups) else 0, owners, at, times[at] <= horizon,
        np.searchsorted(kind, kind[at], "right"), np.searchsorted(triple, triple[at], "right"),
        _levels(np.unique(risks, return_inverse=True)[1].reshape(-1), at, n), steps,
        np.searchsorted(steps.times, times[at], "left"),
    )  # fmt: skip


def _levels(ranks: Int64, events: Int64, n: int) -> tuple[_Level, ...]:
    out = []
    width = 1
    while width < n:
        half = np.arange(n) // width
        order = np.lexsort((ranks, half))
        keys = (half * (n + 1) + ranks)[order]
        own = half[events]
        m = np.flatnonzero((own % 2 == 0) & ((own + 1) * width < n))
        right = (own[m] + 1) * (n + 1)
        below, upto = (np.searchsorted(keys, right + ranks[events[m]], side) for side in ("left", "right"))
        out.append(_Level(order, m, (own[m] + 1) * width, below, upto))
        width *= 2
    return tuple(out)


def score_risks(
    risks: Float64, times: Float64, events: Bool, grouped: tuple[Int64, Resampling], horizon: float
) -> Scored:
    """Both C with their intervals; `grouped`: groups (n,) with any ids, and how they are resampled."""
    groups, how = compact(grouped[0]), grouped[1]
    measured = concordance_evaluator(risks, times, events, groups, horizon)
    point = measured.point()
    drawn = replicate(measured, measured.groups, replicates=how.replicates, seed=how.seed)
    without = leave_out(lambda weights: np.stack(list(measured(weights).values()), axis=1), measured.groups)
    metrics = {
        name: concordance_interval(point[name], drawn[name], without[:, j], measured.groups)
        for j, name in enumerate(METRICS)
    }
    happened = len(np.unique(groups[events]))
    notes = [f"{happened} groups with an event only: the intervals are rough"] if happened < FEW_EVENTS else []
    return Scored(len(risks), measured.groups, metrics, (), (), tuple(notes))


def concordance_interval(value: float, replicates: Float64, left_out: Float64, groups: int) -> Interval:
    """Symmetric in the logit: logit(C) ∓ t·SD·√(g / (g - 1)) / (C (1 - C)), as `half_width` has it."""
    plain = interval(value, replicates)
    if math.isnan(plain.low) or not 0 < value < 1:
        return plain
    away = min(half_width(replicates, left_out, groups) / (value * (1 - value)), MOST)
    centre = math.log(value / (1 - value))
    low, high = (1 / (1 + math.exp(-(centre + sign * away))) for sign in (-1, 1))
    return replace(plain, low=low, high=high)
