"""D27: what calls at chosen thresholds cost, and the number of calls that must be read to find one positive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.evaluation.bootstrap import Interval, interval, replicate
from probes.evaluation.metrics import Values
from probes.evaluation.scoring import Resampling, compact

RATIOS = (1.0, 5.0, 20.0)  # false alarms that a missed positive is worth, where none are named
PER = 1000  # rows to which the counts are scaled


@dataclass(frozen=True)
class CostRow:
    """Calls at one threshold, for one cost ratio."""

    rule: str  # "operating point" | "least expected cost"
    ratio: float  # false alarms that one missed positive is worth
    threshold: float
    called: float  # of PER rows, at the test rows' prevalence
    hits: float
    misses: float
    alarms: float
    read: Interval  # number needed to read: rows called for each true positive among them, 1/PPV
    cost: Interval  # (ratio · misses + false alarms) / rows, in false alarms
    cost_all: float  # of calling every row positive
    cost_none: float


@dataclass(frozen=True)
class Costs:
    """The cost table of one column."""

    name: str
    prevalence: float
    rows: tuple[CostRow, ...]


def least_cost_threshold(ratio: float) -> float:
    """The threshold at which calling costs as much as not calling: p·ratio = 1 - p, for calibrated p (Pauker 1975)."""
    return 1 / (1 + ratio)


def costs(
    name: str, scored: tuple[Bool, Float64, Int64], operating: float, ratios: Sequence[float], how: Resampling
) -> Costs:
    """Each ratio at the operating point and the threshold of least expected cost. `scored`: positive, p, groups."""
    positive, p, groups = scored
    ids = compact(groups)
    rows = []
    for ratio in ratios:
        for rule, threshold in (("operating point", operating), ("least expected cost", least_cost_threshold(ratio))):
            if not np.isnan(threshold):
                rows.append(_row((rule, ratio, threshold), positive, p >= threshold, ids, how))
    return Costs(name, float(positive.mean()) if len(positive) else float("nan"), tuple(rows))


def _row(named: tuple[str, float, float], positive: Bool, called: Bool, ids: Int64, how: Resampling) -> CostRow:
    rule, ratio, threshold = named
    n_groups = int(ids.max()) + 1
    cells = [positive & called, positive & ~called, ~positive & called, np.ones_like(called)]
    counts = np.stack([np.bincount(ids[cell], minlength=n_groups) for cell in cells], axis=1).astype(np.float64)

    def evaluate(weights: Int64) -> Values:
        hits, misses, alarms, n = (weights @ counts).T
        with np.errstate(invalid="ignore", divide="ignore"):
            read = np.where(hits > 0, (hits + alarms) / hits, np.nan)
        return {"read": read, "cost": (ratio * misses + alarms) / n}

    point = evaluate(np.ones((1, n_groups), np.int64))
    drawn = replicate(evaluate, n_groups, replicates=how.replicates, seed=how.seed)
    hits, misses, alarms, n = counts.sum(0)
    scale = PER / n
    return CostRow(
        rule,
        ratio,
        threshold,
        scale * (hits + alarms),
        scale * hits,
        scale * misses,
        scale * alarms,
        interval(float(point["read"][0]), drawn["read"]),
        interval(float(point["cost"][0]), drawn["cost"]),
        (n - hits - misses) / n,
        ratio * (hits + misses) / n,
    )
