"""D39: what is left of a prediction within the values of a column that could stand in for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from indexer.types import Float64, Int64
from probes.evaluation.bootstrap import Interval, interval, replicate
from probes.evaluation.metrics import Values
from probes.evaluation.paired import leave_out
from probes.evaluation.scoring import Resampling, compact
from probes.evaluation.subgroups import FEWEST
from probes.evaluation.targets.agreement import number_interval
from probes.evaluation.targets.concordance import ConcordanceEvaluator, concordance_interval
from probes.evaluation.targets.predictions import Predictions

CHANCE = {"spearman": 0.0, "harrell": 0.5}  # the metric of an order that says nothing

Sums = Callable[[Int64], tuple[Float64, Float64]]  # group weights (b, g) → numerators and denominators (b,)


@dataclass(frozen=True)
class Within:
    """One rank metric of the same predictions over all rows, and over pairs of rows of one value only."""

    metric: str  # spearman | harrell
    plain: Interval
    within: Interval
    fall: Interval  # plain minus within, on common draws
    strata: int  # values with enough rows

    @property
    def left(self) -> bool:
        """Whether the prediction is shown to say more than chance within the values."""
        return self.within.low > CHANCE[self.metric]


def within_strata(tested: Predictions, stratum: Int64, how: Resampling) -> Within:
    """`stratum` (n,) ids of the column's values.

    Numbers: Σ nₛ rₛ / Σ nₛ of Spearman's r over values with FEWEST rows, nₛ their rows. Times: Harrell's sums of pairs
    within the values, Σ winsₛ / Σ pairsₛ (stratified concordance; Therneau & Atkinson 2024).
    """
    metric = "spearman" if tested.events is None else "harrell"
    ids = compact(tested.groups)
    count = int(ids.max()) + 1
    whole = tested.evaluator()
    parts = [_sums(tested, np.flatnonzero(stratum == s), ids) for s in np.unique(stratum)]
    usable = [part for part in parts if part is not None]

    def evaluate(weights: Int64) -> Values:
        plain, top, bottom = whole(weights)[metric], np.zeros(len(weights)), np.zeros(len(weights))
        for part in usable:
            own, mass = part(weights)
            defined = ~np.isnan(own)
            top += np.where(defined, own, 0)
            bottom += np.where(defined, mass, 0)
        within = np.divide(top, bottom, out=np.full(len(weights), np.nan), where=bottom > 0)
        return {"plain": plain, "within": within, "fall": plain - within}

    point = {name: float(value[0]) for name, value in evaluate(np.ones((1, count), np.int64)).items()}
    drawn = replicate(evaluate, count, replicates=how.replicates, seed=how.seed)
    left = leave_out(lambda weights: np.stack(list(evaluate(weights).values()), axis=1), count)
    plain, within = (
        _interval(metric, point[n], drawn[n], left[:, j], count) for j, n in enumerate(("plain", "within"))
    )
    return Within(metric, plain, within, interval(point["fall"], drawn["fall"]), len(usable))


def _interval(metric: str, value: float, replicates: Float64, left_out: Float64, groups: int) -> Interval:
    if metric == "harrell":
        return concordance_interval(value, replicates, left_out, groups)
    return number_interval(metric, value, replicates, left_out, groups)


def _sums(tested: Predictions, rows: Int64, ids: Int64) -> Sums | None:
    """Of the rows of one value; None where they cannot be ranked. `ids` (n,) of all rows' groups."""
    own = tested.take(rows)
    if len(rows) < FEWEST or not np.ptp(own.true) > 0 or (own.events is not None and not own.events.any()):
        return None
    names, places = np.unique(ids[rows], return_inverse=True)
    measured, counts = own.evaluator(), np.bincount(places)
    if isinstance(measured, ConcordanceEvaluator):
        return lambda weights: measured.pairs(weights[:, names])

    def evaluate(weights: Int64) -> tuple[Float64, Float64]:
        mass = (weights[:, names] @ counts).astype(np.float64)
        return measured(weights[:, names])["spearman"] * mass, mass

    return evaluate
