"""D37: are the predicted probabilities of an event up to a time right on average?"""

from __future__ import annotations

import numpy as np

from indexer.types import Int64
from probes.evaluation.bootstrap import interval, replicate
from probes.evaluation.metrics import Values
from probes.evaluation.scoring import Resampling, compact
from probes.evaluation.targets.predictions import Predictions
from probes.evaluation.targets.product_limit import product_limit, steps_of
from probes.fitting.models import Model
from probes.fitting.targets.hazard import baseline_in
from probes.runs.targets.record import HorizonCalibration


def horizon_calibration(tested: Predictions, model: Model, how: Resampling) -> HorizonCalibration | None:
    """At the model's horizon or these rows', whichever is earlier, with percentile intervals (D9's draws of groups).

    None without rows, or where the model has no baseline.
    """
    base = baseline_in(model)
    if base is None or tested.events is None or not len(tested.true):
        return None
    time = min(model.settings["horizon"], tested.horizon)
    order = np.lexsort((~tested.events, tested.true))
    rows, groups = tested.take(order), compact(tested.groups[order])
    assert rows.events is not None  # of times
    predicted = 1 - base.survival(rows.predicted, time)
    steps = steps_of(rows.true, rows.events)
    at = int(np.searchsorted(steps.times, time, "right"))

    def evaluate(weights: Int64) -> Values:
        own = np.take(weights, groups, axis=1).astype(np.float64)
        observed, total = 1 - product_limit(steps, own)[:, at], own.sum(1)
        expected = np.divide(own @ predicted, total, out=np.full(len(own), np.nan), where=total > 0)
        return {"observed": np.where(total > 0, observed, np.nan), "difference": observed - expected}

    count = int(groups.max()) + 1
    point = {name: float(value[0]) for name, value in evaluate(np.ones((1, count), np.int64)).items()}
    drawn = replicate(evaluate, count, replicates=how.replicates, seed=how.seed)
    found = {name: interval(point[name], drawn[name]) for name in point}
    return HorizonCalibration(time, len(rows.true), float(predicted.mean()), found["observed"], found["difference"])
