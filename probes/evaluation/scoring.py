"""Metrics of a scored set with intervals, for each class and overall."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.types import Float64, Int64
from probes.cohort.truth import Truth, class_truth
from probes.evaluation.bootstrap import Interval, interval, replicate
from probes.evaluation.certainty.trust import place, place_of, quoted
from probes.evaluation.delong import delong
from probes.evaluation.interval_kinds import (
    area_interval,
    centred_interval,
    f1_interval,
    loss_interval,
    mean_interval,
    proportion_interval,
    varied_interval,
)
from probes.evaluation.metrics import HEADLINE, Evaluator, Values, evaluator
from probes.evaluation.ranks import EQUAL, mean

CURVE_POINTS = 200
MEANS = {"balanced_accuracy": "recall", "f1_macro": "f1"}  # metric → the values that it is the mean of
FEW_SIDES = 10  # groups on one side, below which no interval has its nominal coverage (D9's table)


@dataclass(frozen=True)
class ClassResult:
    """One class against the rest, or one label."""

    name: str
    positives: int
    rows: int
    prevalence: float
    auc: Interval
    ap: Interval
    delong: tuple[float, float] | None = None  # 95 % interval, where each group has one row


@dataclass(frozen=True)
class Curves:
    """The curves of one column for the report; at most 200 points each."""

    name: str
    fpr: tuple[float, ...]
    tpr: tuple[float, ...]
    recall: tuple[float, ...]
    precision: tuple[float, ...]


@dataclass(frozen=True)
class Scored:
    """Metrics of one scored set of rows."""

    rows: int
    groups: int
    metrics: dict[str, Interval]
    classes: tuple[ClassResult, ...]
    excluded: tuple[str, ...]  # columns whose metrics are NaN, excluded from macro averages
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Resampling:
    """Settings of the bootstrap (D9)."""

    replicates: int
    seed: int


def compact(groups: Int64) -> Int64:
    """Group ids renumbered 0 … g-1."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def score(p: Float64, truth: Truth, groups: Int64, how: Resampling) -> tuple[Scored, Values]:
    """Metrics with intervals, and the replicates. `p` (n, c), `groups` (n,) with any ids."""
    groups = compact(groups)
    n_groups = int(groups.max()) + 1 if len(groups) else 0
    measured = evaluator(p, truth, groups)
    point = measured.point()
    drawn = replicate(measured, n_groups, replicates=how.replicates, seed=how.seed)
    sides = measured.sides()
    at = place_of(p, truth, groups, point["auc"]) if n_groups else None
    metrics = metric_intervals(measured, point, drawn) if n_groups else {}
    metrics = {name: quoted(value, name, at) for name, value in metrics.items()}
    single = n_groups == truth.n
    classes = tuple(
        _class_result((p, truth, groups), j, (point, drawn, sides), single) for j in range(len(truth.classes))
    )
    excluded = tuple(c.name for c in classes if np.isnan(c.auc.value))
    few = tuple(c.name for c, count in zip(classes, sides, strict=True) if 0 < count < FEW_SIDES)
    notes = _notes(metrics, single, few) + _no_spread(drawn.get("auc_macro"), n_groups)
    return Scored(truth.n, n_groups, metrics, classes, excluded, notes), drawn


def metric_intervals(measured: Evaluator, point: Values, drawn: Values) -> dict[str, Interval]:
    """Every metric with its interval by D9, from the estimates and the replicates of one evaluator."""
    sides = measured.sides()[~np.isnan(point["auc"])]
    fewest = int(sides.min()) if len(sides) else 0
    influence = measured.influence()
    found = {}
    for name in HEADLINE:
        if name not in point:
            continue
        value, replicates = float(point[name]), drawn[name]
        if name in ("auc_macro", "auc_weighted", "ap_macro"):
            found[name] = area_interval(value, replicates, fewest)
        elif name in MEANS:
            found[name] = mean_interval(value, replicates, _parts(MEANS[name], measured, point, drawn))
        elif name == "accuracy":
            found[name] = proportion_interval(value, replicates, (measured.groups, measured.truth.n))
        elif name in influence:
            found[name] = loss_interval(value, replicates, influence[name], measured.largest(name))
        else:
            found[name] = (centred_interval if name == "ece_debiased" else varied_interval)(value, replicates)
    return found


def _parts(name: str, measured: Evaluator, point: Values, drawn: Values) -> list[tuple[Interval, Float64]]:
    """The defined estimates that a metric is the mean of, with their replicates."""
    kind = f1_interval if name == "f1" else proportion_interval
    return [
        (kind(float(value), drawn[name][:, i], counts), drawn[name][:, i])
        for i, (value, counts) in enumerate(zip(point[name], measured.trials(name), strict=True))
        if not np.isnan(value)
    ]


def _class_result(
    scored: tuple[Float64, Truth, Int64], j: int, values: tuple[Values, Values, Int64], single: bool
) -> ClassResult:
    p, truth, groups = scored
    point, drawn, sides = values
    known = truth.known[:, j]
    positive = truth.positive[known, j]
    area = area_interval(float(point["auc"][j]), drawn["auc"][:, j], int(sides[j]))
    at = place(positive, p[known, j], groups[known], area.value) if not np.isnan(area.value) else None
    return ClassResult(
        truth.classes[j],
        int(positive.sum()),
        int(known.sum()),
        float(positive.mean()) if len(positive) else float("nan"),
        quoted(area, "auc_macro", at),
        quoted(area_interval(float(point["ap"][j]), drawn["ap"][:, j], int(sides[j])), "ap", at),
        delong(positive, p[known, j]).interval() if single else None,
    )


def _notes(metrics: dict[str, Interval], single: bool, few: tuple[str, ...]) -> tuple[str, ...]:
    loose = [name for name, value in metrics.items() if not value.reliable]
    notes = []
    if loose:
        notes.append(f"interval unreliable (over 5 % of replicates undefined): {', '.join(loose)}")
    if few:
        named = ", ".join(few) if len(few) <= 4 else f"{len(few)} classes"
        notes.append(
            f"fewer than {FEW_SIDES} groups with or without: {named}; their intervals are rough, n is too small"
        )
    if not single:
        notes.append("no DeLong interval: groups have several rows, which are not independent")
    return tuple(notes)


def _no_spread(areas: Float64 | None, groups: int) -> tuple[str, ...]:
    """A note where the AUCs of the resamples (b,) do not differ, so that they say nothing of the uncertainty."""
    defined = np.empty(0) if areas is None else areas[~np.isnan(areas)]
    if not len(defined) or np.ptp(defined) > EQUAL:
        return ()
    if defined[0] > 1 - EQUAL:
        return (f"every resample separates perfectly: the AUC's lower end is what {groups} groups can show at most",)
    return (f"every resample gives the same AUC: the interval's width 0 is no certainty with {groups} groups",)


def control_range(areas: Sequence[float]) -> Interval | None:
    """Mean and 95 % range of the AUCs of a shuffled-label control; None where none was requested."""
    return interval(mean(list(areas)), np.array(areas)) if areas else None


def baselines(fitted: Truth, test: Truth, seed: int) -> dict[str, dict[str, float]]:
    """D7: baselines that predict the fitted rows' class frequencies, or classes drawn at random by them.

    The drawn classes have no log-loss: their probabilities are 0 and 1.
    """
    n, c = test.n, len(test.classes)
    share = (fitted.positive & fitted.known).sum(0) / np.maximum(fitted.known.sum(0), 1)
    rng = np.random.Generator(np.random.PCG64(seed))
    if test.multilabel:
        constant = np.tile(share, (n, 1))
        random = (rng.random((n, c)) < share).astype(float)
    else:
        constant = np.tile(share / share.sum(), (n, 1))
        random = np.eye(c)[rng.choice(c, n, p=share / share.sum())]
    zeros = np.arange(n)
    out: dict[str, dict[str, float]] = {}
    for name, p in (("majority", constant), ("stratified random", random)):
        point = evaluator(p, test, zeros).point()
        out[name] = {m: float(point[m]) for m in HEADLINE if m in point}
        if "ece_debiased" in out[name]:  # D8: an estimate below 0 is reported as 0
            out[name]["ece_debiased"] = max(0.0, out[name]["ece_debiased"])
    for certain in ("log_loss", "ece_debiased"):
        out["stratified random"].pop(certain, None)
    return out


def curves(p: Float64, truth: Truth) -> tuple[Curves, ...]:
    """ROC and precision-recall curves of every column with positives and negatives."""
    from sklearn.metrics import precision_recall_curve, roc_curve

    out = []
    for j, name in enumerate(truth.classes):
        known = truth.known[:, j]
        positive, s = truth.positive[known, j], p[known, j]
        if not positive.any() or positive.all():
            continue
        fpr, tpr, _ = roc_curve(positive, s)
        precision, recall, _ = precision_recall_curve(positive, s)
        roc, pr = _thin(fpr, tpr), _thin(recall[::-1], precision[::-1])
        out.append(Curves(name, *roc, *pr))
    return tuple(out)


def _thin(x: Float64, y: Float64) -> tuple[tuple[float, ...], tuple[float, ...]]:
    at = np.unique(np.linspace(0, len(x) - 1, CURVE_POINTS).astype(int))
    return tuple(np.round(x[at], 5).tolist()), tuple(np.round(y[at], 5).tolist())


def by_group(p: Float64, truth: Truth, groups: Int64, pooling: str) -> tuple[Float64, Truth, int]:
    """D15: one row for each group, its probabilities pooled by "mean" or "max" (then normalised to sum to 1).

    A group's truth is the class of its rows; for two classes and for labels, positive if any row is. With three or more
    classes, groups whose rows disagree are left out; the third value is their number.
    """
    groups = compact(groups)
    g = int(groups.max()) + 1
    if pooling == "mean":
        pooled = np.zeros((g, p.shape[1]))
        np.add.at(pooled, groups, p)
        pooled /= np.bincount(groups)[:, None]
    else:
        pooled = np.full((g, p.shape[1]), -np.inf)
        np.maximum.at(pooled, groups, p)
    positive, known = np.zeros((g, p.shape[1]), bool), np.zeros((g, p.shape[1]), bool)
    np.logical_or.at(positive, groups, truth.positive & truth.known)
    np.logical_or.at(known, groups, truth.known)
    if truth.codes is None:
        return pooled, Truth(truth.classes, positive, known, None), 0
    pooled /= pooled.sum(1, keepdims=True)
    low, high = np.full(g, len(truth.classes)), np.full(g, -1)
    np.minimum.at(low, groups, truth.codes)
    np.maximum.at(high, groups, truth.codes)
    agree = np.ones(g, bool) if len(truth.classes) == 2 else low == high
    pooled_truth = class_truth(high[agree], truth.classes, ordinal=truth.ordinal)
    pooled_truth = Truth(truth.classes, pooled_truth.positive, known[agree], pooled_truth.codes, truth.ordinal)
    return pooled[agree], pooled_truth, int((~agree).sum())
