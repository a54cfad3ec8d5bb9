"""D12 for times: Uno's C with fewer fitted groups."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from indexer.types import Progress
from probes.cohort.experiment import Experiment
from probes.cohort.scaling import ScaledRows, fit_scaler
from probes.evaluation.ranks import mean
from probes.evaluation.targets.predictions import tested_rows
from probes.fitting.targets.cox import fit_cox, risk_sets
from probes.fitting.targets.numbers import DRAWS
from probes.fitting.targets.survival import COMPONENTS, components_of

FEWEST = 2  # events of a draw, below which nothing is fitted


@dataclass(frozen=True)
class RiskSize:
    """Test C with so many fitted groups; the last point is all of train."""

    groups: int
    events: float  # mean of the draws, by rows
    uno_mean: float
    uno_sd: float
    draws: int  # that had FEWEST events


def risk_sizes(experiment: Experiment, penalty: float, progress: Progress) -> tuple[RiskSize, ...]:
    """2, 4, 8, … groups of train, five nested draws each, at the penalty of the result, and all of train."""
    request, data, split = experiment.request, experiment.data, experiment.split
    scaler = fit_scaler(request.scaling, data.vectors, split.train)
    truth, groups = data.truth.take(split.train), data.groups[split.train]
    test = ScaledRows(data.vectors, split.test, scaler).whole()
    tested_truth, tested_groups = data.truth.take(split.test), data.groups[split.test]
    assert truth.numbers is not None  # of times
    assert truth.events is not None
    names = np.unique(groups)
    points = []
    for n in [*(2**i for i in range(1, len(names).bit_length()) if 2**i < len(names)), len(names)]:
        found, events = [], []
        for seed in range(request.seed, request.seed + (DRAWS if n < len(names) else 1)):
            order = np.random.Generator(np.random.PCG64(seed)).permutation(names)
            rows = np.flatnonzero(np.isin(groups, order[:n]))
            own = truth.take(rows)
            assert own.numbers is not None
            assert own.events is not None
            if own.events.sum() < FEWEST:
                continue
            x = ScaledRows(data.vectors, split.train[rows], scaler)
            parts = components_of(x, COMPONENTS)
            beta = fit_cox(parts.of(x.whole()), risk_sets(own.numbers, own.events), penalty).beta
            risks = (parts.of(test) @ beta)[:, None]
            found.append(tested_rows(risks, tested_truth, tested_groups).point()["uno"])
            events.append(float(own.events.sum()))
        progress.advance()
        if found:
            sd = float(np.std(found, ddof=1)) if len(found) > 1 else float("nan")
            points.append(RiskSize(n, mean(events), mean(found), sd, len(found)))
    return tuple(points)
