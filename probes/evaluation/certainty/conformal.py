"""D28: class-conditional conformal sets, calibrated and measured on different patients of the test rows.

Scores 1 - p_y (Sadinle 2019) by class (Mondrian; Vovk 2012). Rows of one patient are not independent, so that each
patient has weight 1 in the quantile of a class however many rows it has (hierarchical conformal prediction; Lee, Barber
& Willett 2023): a random row of a new patient is covered with at least the wanted probability.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.cohort.truth import Truth, both_sides, label_as_classes
from probes.evaluation.bootstrap import Interval, replicate
from probes.evaluation.interval_kinds import proportion_interval
from probes.evaluation.metrics import Values
from probes.evaluation.scoring import Resampling, compact


@dataclass(frozen=True)
class ClassSets:
    """One class."""

    name: str
    calibration_groups: int  # with a row of the class
    least_p: float  # the class is in a row's set where its probability reaches this
    groups: int  # measured ones with a row of the class
    coverage: Interval  # mean over groups of the share of their rows of this class whose set holds it


@dataclass(frozen=True)
class ConformalSets:
    """The sets on the patients that did not calibrate; `refused` says why there are none."""

    wanted: float
    refused: str
    classes: tuple[ClassSets, ...] = ()
    rows: int = 0  # measured
    coverage: Interval | None = None  # over all classes
    sizes: tuple[int, ...] = ()  # rows with a set of 0, 1, … classes
    single_right: float = float("nan")  # of the sets with one class, the share that hold the truth
    label: str = ""  # of a label's sets, whose two classes are its absence and its presence


def fewest_groups(wanted: float) -> int:
    """The fewest calibrating patients of a class for a finite quantile: n/(n+1) ≥ wanted."""
    return math.ceil(wanted / (1 - wanted) - 1e-9)


def conformal_sets(p: Float64, truth: Truth, groups: Int64, wanted: float, how: Resampling) -> ConformalSets:
    """Half of each class's test patients, drawn at random, calibrate; the others measure. Refuses small classes."""
    assert truth.codes is not None, "labels have sets of their own: label_sets"
    ids = compact(groups)
    calibrates = calibrating(truth.codes, ids, how.seed)[ids]
    least, counts = [], []
    for j in range(len(truth.classes)):
        own = calibrates & (truth.codes == j)
        counts.append(len(np.unique(ids[own])))
        least.append(least_probability(p[own, j], ids[own], wanted))
    small = [f"{truth.classes[j]} ({n})" for j, n in enumerate(counts) if n < fewest_groups(wanted)]
    if small:
        named = ", ".join(small[:4]) + (f" and {len(small) - 4} more" if len(small) > 4 else "")
        return ConformalSets(
            wanted,
            f"too few calibrating groups for sets of {wanted:.0%}, which need {fewest_groups(wanted)} of each class: "
            f"{named}",
        )
    return measure(p, truth, ids, (np.array(least), tuple(counts), wanted), ~calibrates, how)


def label_sets(p: Float64, truth: Truth, groups: Int64, wanted: float, how: Resampling) -> tuple[ConformalSets, ...]:
    """Sets of each label: absent, present, both or neither, by its rows with a known value."""
    out = []
    for j, name in enumerate(truth.classes):
        rows, own = label_as_classes(truth, j)
        out.append(replace(conformal_sets(both_sides(p[rows, j]), own, groups[rows], wanted, how), label=name))
    return tuple(out)


def measure_labels(
    p: Float64, truth: Truth, groups: Int64, frozen: Sequence[ConformalSets], how: Resampling
) -> tuple[ConformalSets, ...]:
    """The sets of labels as `label_sets` gave them, on other rows; refused ones stay refused."""
    out = []
    for sets in frozen:
        j = truth.classes.index(sets.label)
        rows, own = label_as_classes(truth, j)
        found = sets
        if not sets.refused:
            found = ConformalSets(sets.wanted, "no row of these has a known value")
            if len(rows):
                found = measure_frozen(both_sides(p[rows, j]), own, groups[rows], sets, how)
        out.append(replace(found, label=sets.label))
    return tuple(out)


def measure_frozen(p: Float64, truth: Truth, groups: Int64, sets: ConformalSets, how: Resampling) -> ConformalSets:
    """The same bounds on other rows, all of which measure."""
    bounds = np.array([c.least_p for c in sets.classes]), tuple(c.calibration_groups for c in sets.classes), sets.wanted
    return measure(p, truth, compact(groups), bounds, np.ones(truth.n, bool), how)


def calibrating(codes: Int64, ids: Int64, seed: int) -> Bool:
    """(g,) which groups calibrate: every second of each class, the class of its first row, in random order."""
    rng = np.random.Generator(np.random.PCG64(seed))
    names, first = np.unique(ids, return_index=True)
    chosen = np.zeros(len(names), bool)
    for code in np.unique(codes[first]):
        own = rng.permutation(np.flatnonzero(codes[first] == code))
        chosen[own[::2]] = True
    return chosen


def least_probability(p: Float64, ids: Int64, wanted: float) -> float:
    """1 - q, q the smallest score 1 - p that Σ of weights reaches wanted · (g + 1), each row 1/(rows of its group).

    -inf where the groups g are too few: then every row's set holds the class.
    """
    if not len(p):
        return -math.inf
    own = np.unique(ids, return_inverse=True)[1]
    weight = 1 / np.bincount(own)[own]
    order = np.argsort(1 - p, kind="stable")
    reached = np.cumsum(weight[order])
    at = int(np.searchsorted(reached, wanted * (int(own.max()) + 2) - 1e-9))
    return float(p[order[at]]) if at < len(order) else -math.inf


def measure(
    p: Float64, truth: Truth, groups: Int64, frozen: tuple[Float64, tuple[int, ...], float], rows: Bool, how: Resampling
) -> ConformalSets:
    """Coverage and sizes of sets with frozen (least probabilities (c,), their groups, wanted coverage) on some rows."""
    least, counts, wanted = frozen
    at = np.flatnonzero(rows)
    inside = p[at] >= least
    codes = truth.take(at).codes
    assert codes is not None
    held = inside[np.arange(len(at)), codes]
    size = inside.sum(1)
    classes = tuple(
        ClassSets(
            name, counts[j], float(least[j]), len(np.unique(groups[at][codes == j])),
            group_coverage(held[codes == j], groups[at][codes == j], how),
        )
        for j, name in enumerate(truth.classes)
    )  # fmt: skip
    single = size == 1
    return ConformalSets(
        wanted, "", classes, len(at), group_coverage(held, groups[at], how),
        tuple(np.bincount(size, minlength=len(truth.classes) + 1).tolist()),
        float(held[single].mean()) if single.any() else float("nan"),
    )  # fmt: skip


def group_coverage(held: Bool, groups: Int64, how: Resampling) -> Interval:
    """Mean over groups of the share of covered rows, with D9's interval of a share."""
    if not len(held):
        return Interval(float("nan"), float("nan"), float("nan"), 0, reliable=False)
    ids = compact(groups)
    share = np.bincount(ids, weights=held) / np.bincount(ids)

    def evaluate(weights: Int64) -> Values:
        return {"coverage": (weights @ share) / weights.sum(1)}

    drawn = replicate(evaluate, len(share), replicates=how.replicates, seed=how.seed)
    return proportion_interval(float(share.mean()), drawn["coverage"], (len(share), len(share)))
