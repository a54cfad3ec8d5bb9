"""Which 95 % interval of Uno's and Harrell's C holds the truth? By simulation, where the truth is known; D37's table.

Risks are normal, the patient's part `of_patient` of their variance. All of a patient's 1 … `images` rows have his time,
exponential with the hazard exp(`effect` · his part), and his censoring, exponential with the rate `censoring`.
Printed: per cent of data sets whose interval holds the true value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.coverage import simulate
from probes.evaluation.bootstrap import replicate
from probes.evaluation.targets.concordance import (
    METRICS,
    concordance_evaluator,
    concordance_interval,
    horizon_of,
)

RESULTS = Path(__file__).parent / "results" / "survival.json"
SEED = 1
TRUTH_ROWS = 200_000


@dataclass(frozen=True)
class Design:
    """How patients with a risk and a time are drawn."""

    patients: int
    images: int
    effect: float
    censoring: float
    of_patient: float = 0.7


DESIGNS = {
    "200 patients, one image, half censored": Design(200, 1, 1.0, 1.0, 1.0),
    "100 patients, half censored": Design(100, 4, 1.0, 1.0),
    "60 patients, half censored": Design(60, 4, 1.0, 1.0),
    "60 patients, strong effect": Design(60, 4, 2.5, 1.0),
    "100 patients, about 20 events": Design(100, 4, 1.0, 4.0),
    "30 patients, half censored": Design(30, 4, 1.0, 1.0),
}
Drawn = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def rows(design: Design, seed: int, *, patients: int = 0, images: int = 0) -> Drawn:
    """Risks, times, events and patients."""
    rng = np.random.default_rng([SEED, seed])
    count = patients or design.patients
    owner = np.repeat(np.arange(count), rng.integers(1, (images or design.images) + 1, count))
    own = rng.standard_normal(count)
    event, censored = rng.exponential(np.exp(-design.effect * own)), rng.exponential(1 / design.censoring, count)
    noise = rng.standard_normal(len(owner))
    risks = math.sqrt(design.of_patient) * own[owner] + math.sqrt(1 - design.of_patient) * noise
    return risks, np.minimum(event, censored)[owner], (event <= censored)[owner], owner


def coverage(design: Design, sets: int, replicates: int) -> dict[str, dict[str, float]]:
    """Metric → method → per cent of data sets whose interval holds the truth, at the population's horizon."""
    everyone = rows(design, -1 % 2**32, patients=TRUTH_ROWS, images=1)
    horizon = horizon_of(everyone[1])
    truth = concordance_evaluator(*everyone, horizon).point()
    held: dict[str, dict[str, list[bool]]] = {name: {"percentile": [], "this": []} for name in METRICS}
    for seed in range(sets):
        measured = concordance_evaluator(*rows(design, seed), horizon)
        point = measured.point()
        drawn = replicate(measured, measured.groups, replicates=replicates, seed=seed)
        without = measured(1 - np.eye(measured.groups, dtype=np.int64))
        for name in METRICS:
            found = concordance_interval(point[name], drawn[name], without[name], measured.groups)
            low, high = np.nanpercentile(drawn[name], [2.5, 97.5])
            held[name]["percentile"].append(bool(low <= truth[name] <= high))
            held[name]["this"].append(found.low <= truth[name] <= found.high)
    return {
        name: {method: round(100 * float(np.mean(each)), 1) for method, each in methods.items()}
        for name, methods in held.items()
    }


def main() -> None:
    simulate(__doc__, coverage, DESIGNS, RESULTS, sets=400, replicates=300)


if __name__ == "__main__":
    main()
