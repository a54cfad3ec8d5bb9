"""D29: may this interval be trusted? How often such intervals held the truth in simulations of similar data.

The table was made by `python -m benchmarks.trust` and is data of the package.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.cohort.truth import Truth
from probes.evaluation.bootstrap import Interval

FEWEST_SETS = 200  # simulated data sets; fewer say nothing to a per cent
FEWEST_SIMULATED = 20  # groups of the smallest design; of fewer nothing is known
GOOD, FAIR = 93.0, 90.0  # per cent


@dataclass(frozen=True)
class Design:
    """One simulated kind of study, with the per cent of its data sets whose interval held the truth."""

    patients: int
    prevalence: float
    images: int  # most images a patient; uniform from 1
    of_patient: float  # share of a score's variance that is the patient's
    auc: float
    coverage: dict[str, float]  # metric → per cent


@dataclass(frozen=True)
class Trust:
    """What simulation says of one metric's interval."""

    metric: str
    coverage: float  # per cent, in the nearest design
    design: Design
    verdict: str  # yes | roughly | no

    @property
    def words(self) -> str:
        """Where the number comes from."""
        near = self.design
        several = "1 image each" if near.images == 1 else f"1 to {near.images} images each"
        return f"{near.patients} patients, {near.prevalence:.0%} positive, {several}, AUC {near.auc:.2f}"


@cache
def designs() -> tuple[Design, ...]:
    text = files(__package__).joinpath("coverage.json").read_text(encoding="utf-8")
    found = json.loads(text)
    return tuple(Design(**each) for each in found["designs"]) if found["sets"] >= FEWEST_SETS else ()


@dataclass(frozen=True)
class Place:
    """Where a result lies among the designs."""

    groups: int
    prevalence: float  # of groups, of the rarer side
    rows_per_group: float
    likeness: float  # share of a score's variance between groups, within the classes
    auc: float


def place(positive: Bool, score: np.ndarray, groups: Int64, auc: float) -> Place:
    """The place of one column's rows: `positive`, `score` (its probability) and `groups` (n,)."""
    names, ids = np.unique(groups, return_inverse=True)
    ill = np.zeros(len(names), bool)
    np.logical_or.at(ill, ids, positive)
    share = float(ill.mean()) if len(ill) else math.nan
    return Place(len(names), min(share, 1 - share), len(ids) / max(len(names), 1), likeness(score, positive, ids), auc)


def likeness(score: np.ndarray, positive: Bool, ids: Int64) -> float:
    """Intraclass correlation of ranks by one-way analysis of variance within the classes (Fisher 1925), in [0, 1].

    0 where each group has one row. Ranks, since probabilities crowd at 0 and 1.
    """
    from scipy.stats import rankdata

    if len(np.unique(ids)) == len(ids):
        return 0.0
    rank = rankdata(score) / max(len(score), 1)
    for side in (positive, ~positive):
        if side.any():
            rank[side] -= rank[side].mean()
    counts = np.bincount(ids)
    g, n = len(counts), len(ids)
    if g < 2:
        return 0.0
    means = np.bincount(ids, weights=rank) / counts
    between = float((counts * (means - rank.mean()) ** 2).sum()) / (g - 1)
    within = float(((rank - means[ids]) ** 2).sum()) / (n - g)
    size = (n - float((counts**2).sum()) / n) / (g - 1)
    total = between + (size - 1) * within
    return min(1.0, max(0.0, (between - within) / total)) if total > 0 else 0.0


def trust(metric: str, at: Place) -> Trust | None:
    """The nearest design's coverage of the metric's interval; None for a metric, or so few groups, not simulated.

    Nearness: squared distances of log groups, log odds of the prevalence, log images (mean against mean), likeness and
    logit AUC, with the metric's number of groups never rounded up: a larger design would promise too much.
    """
    allowed = [d for d in designs() if metric in d.coverage and d.patients <= at.groups]
    if not allowed or math.isnan(at.auc) or math.isnan(at.prevalence):
        return None
    nearest = min(allowed, key=lambda d: _distance(d, at))
    percent = nearest.coverage[metric]
    verdict = "yes" if percent >= GOOD else "roughly" if percent >= FAIR else "no"
    return Trust(metric, percent, nearest, verdict)


def _distance(design: Design, at: Place) -> float:
    mean_images = (1 + design.images) / 2
    alike = at.likeness if at.rows_per_group > 1.05 else design.of_patient  # of single rows there is no likeness
    parts = (
        math.log(design.patients / max(at.groups, 1)),
        _logit(design.prevalence) - _logit(at.prevalence),
        math.log(mean_images / max(at.rows_per_group, 1.0)),
        2 * (design.of_patient - alike),
        0.5 * (_logit(design.auc) - _logit(at.auc)),
    )
    return sum(part**2 for part in parts)


def _logit(share: float) -> float:
    inside = min(max(share, 0.005), 0.995)
    return math.log(inside / (1 - inside))


def place_of(p: Float64, truth: Truth, groups: Int64, areas: Float64) -> Place | None:
    """The place of a macro metric: that of the column with the fewest rows on a side, of two classes the second.

    `areas` (c,): the columns' AUCs, NaN where undefined; None where all are.
    """
    defined = np.flatnonzero(~np.isnan(areas)).tolist()
    if not defined:
        return None
    positives, known = (truth.positive & truth.known).sum(0), truth.known.sum(0)
    j = min(defined, key=lambda i: min(positives[i], known[i] - positives[i]))
    j = 1 if len(truth.classes) == 2 and not truth.multilabel else j
    rows = np.flatnonzero(truth.known[:, j])
    return place(truth.positive[rows, j], p[rows, j], groups[rows], float(areas[j]))


def quoted(value: Interval, metric: str, at: Place | None) -> Interval:
    """The interval with the coverage of its like in the nearest design."""
    found = None if at is None or math.isnan(value.low) else trust(metric, at)
    return value if found is None else replace(value, held=found.coverage)


def trusted(metrics: Mapping[str, object], at: Place) -> tuple[Trust, ...]:
    """What is known of each of these metrics' intervals, in their order."""
    found = (trust(name, at) for name in metrics)
    return tuple(each for each in found if each is not None)
