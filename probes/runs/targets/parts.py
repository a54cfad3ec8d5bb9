"""What results of numbers and of survival have beside the metrics of all test rows."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from indexer.types import Float32, Float64
from probes.cohort.experiment import Experiment
from probes.evaluation.scoring import Resampling, Scored
from probes.evaluation.targets.agreement import number_evaluator
from probes.evaluation.targets.predictions import Predictions


def without_twins(cosine: Float32 | None, tau: float, tested: Predictions, how: Resampling) -> Scored | None:
    """Every metric without the test rows that have a near-duplicate; None where there are none, or nothing is left."""
    if cosine is None or not (cosine >= tau).any() or (cosine >= tau).all():
        return None
    return tested.take(np.flatnonzero(~(cosine >= tau))).scored(how)


def scored_by_group(experiment: Experiment, tested: Predictions, how: Resampling) -> Scored | None:
    """D15: every metric with one row for each group; None where each has one."""
    pooled = None if experiment.data.level == "image" else tested.by_group()
    if pooled is None:
        return None
    found, left = pooled
    note = (f"{left} groups left out: their rows are of several times or events",) if left else ()
    scored = found.scored(how)
    return replace(scored, notes=(*note, *scored.notes))


def number_baselines(fitted: Float64, true: Float64) -> dict[str, dict[str, float]]:
    """The mean and the median of the fitted rows as the prediction of every row."""
    out = {}
    for name, value in (("mean", fitted.mean()), ("median", np.median(fitted))):
        point = number_evaluator(np.full(len(true), value), true, np.arange(len(true))).point()
        out[name] = {metric: number for metric, number in point.items() if not math.isnan(number)}
    return out
