"""Which 95 % interval of a number's metrics holds the truth? By simulation, where the truth is known; D36's table.

True number and prediction correlate by `correlation` and are calibrated; `true_share` of the variance of the true
number and `error_share` of what the prediction misses are the patient's, who has 1 … `images` rows. With `uneven`,
patients differ in the size of their errors (log-normally). Printed: for each metric and method the per cent of data
sets whose interval holds the true value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import t

from benchmarks.coverage import simulate
from probes.evaluation.bootstrap import replicate
from probes.evaluation.paired import degrees
from probes.evaluation.targets.agreement import METRICS, NumberEvaluator, number_evaluator

RESULTS = Path(__file__).parent / "results" / "targets.json"
SEED = 1
TRUTH_ROWS = 1_000_000


@dataclass(frozen=True)
class Design:
    """How patients with a true and a predicted number are drawn."""

    patients: int
    images: int
    correlation: float
    true_share: float
    error_share: float
    uneven: float = 0.0


DESIGNS = {
    "200 rows": Design(200, 1, 0.7, 1.0, 1.0),
    "100 patients": Design(100, 4, 0.7, 1.0, 0.5),
    "40 patients": Design(40, 4, 0.7, 1.0, 0.5),
    "40 patients, correlation .95": Design(40, 4, 0.95, 1.0, 0.5),
    "40 patients, half of the number is the image's": Design(40, 4, 0.7, 0.5, 0.5),
    "20 patients": Design(20, 4, 0.7, 1.0, 0.5),
    "10 patients": Design(10, 4, 0.7, 1.0, 0.5),
    "100 patients, uneven errors": Design(100, 4, 0.7, 1.0, 0.5, 0.5),
    "300 patients, correlation .3": Design(300, 3, 0.3, 1.0, 0.9),
}


def rows(design: Design, seed: int, *, patients: int = 0, images: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted and true numbers, and their patients."""
    rng = np.random.default_rng([SEED, seed])
    count = patients or design.patients
    owner = np.repeat(np.arange(count), rng.integers(1, (images or design.images) + 1, count))

    def mixed(share: float) -> np.ndarray:
        own = rng.standard_normal(count)[owner]
        return math.sqrt(share) * own + math.sqrt(1 - share) * rng.standard_normal(len(owner))

    true, missed = mixed(design.true_share), mixed(design.error_share)
    size = np.exp(design.uneven * rng.standard_normal(count) - design.uneven**2)[owner]
    r = design.correlation
    return r**2 * true + r * math.sqrt(1 - r**2) * missed * size, true, owner


def truth(design: Design) -> dict[str, float]:
    """The metrics of a million rows: those of a row do not depend on the number of a patient's rows."""
    predicted, true, owner = rows(design, -1 % 2**32, patients=TRUTH_ROWS, images=1)
    return number_evaluator(predicted, true, owner).point()


def slope(name: str, value: float) -> float:
    """Derivative of the scale on which the interval is symmetric: log, log(1 - R²), Fisher's z, or the metric's own."""
    if name in ("mae", "rmse"):
        return 1 / value
    if name == "r2":
        return 1 / (1 - value)
    return 1 / (1 - value**2) if name == "spearman" else 1.0


def back(name: str, value: float, half: float) -> tuple[float, float]:
    if name in ("mae", "rmse"):
        return value * math.exp(-half), value * math.exp(half)
    if name == "r2":
        return 1 - (1 - value) * math.exp(half), 1 - (1 - value) * math.exp(-half)
    if name == "spearman":
        return math.tanh(math.atanh(value) - half), math.tanh(math.atanh(value) + half)
    return value - half, value + half


def intervals(measured: NumberEvaluator, replicates: int, seed: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Metric → method → (low, high)."""
    point = measured.point()
    drawn = replicate(measured, measured.groups, replicates=replicates, seed=seed)
    kept = 1 - np.eye(measured.groups, dtype=np.int64)
    without = measured(kept)
    found = {}
    for name in METRICS:
        value, sd = point[name], float(np.nanstd(drawn[name])) * slope(name, point[name])
        corrected = sd * math.sqrt(measured.groups / (measured.groups - 1))
        freedom = degrees(without[name])
        own = {
            "scale, 1.96 SD": back(name, value, 1.96 * sd),
            "scale, t by moments, SD": back(name, value, float(t.ppf(0.975, freedom)) * sd),
            "scale, t by moments, SD·√(g/(g-1))": back(name, value, float(t.ppf(0.975, freedom)) * corrected),
            "scale, t by patients, SD": back(name, value, float(t.ppf(0.975, measured.groups - 1)) * sd),
            "own, t by moments, SD": (
                value - float(t.ppf(0.975, freedom)) * sd / slope(name, value),
                value + float(t.ppf(0.975, freedom)) * sd / slope(name, value),
            ),
        }
        low, high = np.nanpercentile(drawn[name], [2.5, 97.5])
        found[name] = {"percentile": (float(low), float(high)), **own}
    return found


def coverage(design: Design, sets: int, replicates: int) -> dict[str, dict[str, float]]:
    """Metric → method → per cent of data sets whose interval holds the truth."""
    wanted = truth(design)
    held: dict[str, dict[str, list[bool]]] = {}
    for seed in range(sets):
        for name, methods in intervals(number_evaluator(*rows(design, seed)), replicates, seed).items():
            for method, (low, high) in methods.items():
                held.setdefault(name, {}).setdefault(method, []).append(low <= wanted[name] <= high)
    return {
        name: {method: round(100 * float(np.mean(each)), 1) for method, each in methods.items()}
        for name, methods in held.items()
    }


def main() -> None:
    simulate(__doc__, coverage, DESIGNS, RESULTS, sets=400, replicates=300)


if __name__ == "__main__":
    main()
