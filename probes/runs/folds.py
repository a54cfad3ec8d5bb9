"""The outer folds of a split without one test part: nested, or each site left out in turn (D5, D25)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indexer.types import Int64
from probes.cohort.experiment import Experiment, SplitFacts, absent_classes, part_facts, statement
from probes.cohort.load import ProbeData
from probes.cohort.splits import FOLDS, Split, check_groups, grouped_folds, site_folds, split_sha256, without_duplicates
from probes.evaluation.bootstrap import Interval
from probes.request import ProbeRequest

NOTE = "mean ± SD over outer folds, which share their fitted rows: no confidence interval"


def outer_folds(request: ProbeRequest, data: ProbeData) -> tuple[list[tuple[Int64, Int64]], tuple[str, ...]]:
    """(fit rows, held-out rows) of each fold, and the sites that are left out; () for nested folds."""
    if request.left_out is None:
        return grouped_folds(data.truth.strata(), data.groups, request.seed), ()
    return site_folds(data.split_values or (), data.groups)


def fold_experiment(request: ProbeRequest, data: ProbeData, rows: tuple[Int64, Int64]) -> Experiment:
    """An outer fold as an experiment without a val split, so that inner folds choose."""
    none = np.empty(0, np.int64)
    split = without_duplicates(Split(rows[0], none, rows[1], none, none), data.content)
    check_groups(split, data.groups, data.group_names)
    absent = absent_classes(data.truth, split)
    return Experiment(request, data, split, SplitFacts(statement(request, data), "nested", data.level, {}, absent, ""))


def fold_facts(request: ProbeRequest, data: ProbeData, held: Sequence[Int64], sites: Sequence[str]) -> SplitFacts:
    """The parts are the outer folds' held-out rows."""
    named = sites or [f"fold {i}" for i in range(1, len(held) + 1)]
    parts = {name: part_facts(data.truth, data.groups, rows) for name, rows in zip(named, held, strict=True)}
    names = np.full(data.truth.n, "", dtype=object)
    for name, rows in zip(named, held, strict=True):
        names[rows] = name
    digest = split_sha256(data.keys, names.tolist())
    return SplitFacts(statement(request, data), _kind(request, len(held)), data.level, parts, {}, digest)


def _kind(request: ProbeRequest, folds: int) -> str:
    return (
        f"nested, {FOLDS} outer folds" if request.left_out is None else f"each of {folds} {request.left_out} left out"
    )


def mean_sd(values: list[float]) -> Interval:
    """Mean, and mean ∓ SD (n - 1), over the folds where it is defined."""
    defined = np.array([v for v in values if not np.isnan(v)])
    mean = defined_mean(values)
    sd = float(defined.std(ddof=1)) if len(defined) > 1 else float("nan")
    return Interval(mean, mean - sd, mean + sd, len(values) - len(defined), len(defined) == len(values))


def defined_mean(values: list[float]) -> float:
    """The mean of the values that are defined; NaN without one."""
    defined = [v for v in values if not np.isnan(v)]
    return float(np.mean(defined)) if defined else float("nan")
