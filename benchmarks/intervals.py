"""Which 95 % interval of an AUC holds the truth? By simulation, where the true AUC is known; the table is D9's.

A score is the class's shift, a part of the patient (its share of the variance is `of_patient`) and a part of the image;
a patient has 1 … `images` of them. Printed: for each method the per cent of data sets whose interval holds the true
AUC, the per cent whose interval lies below it, and the mean width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm, t

from benchmarks.coverage import simulate
from probes.cohort.truth import class_truth
from probes.evaluation.bootstrap import replicate
from probes.evaluation.metrics import Evaluator, evaluator

RESULTS = Path(__file__).parent / "results" / "intervals.json"
SEED = 1


@dataclass(frozen=True)
class Design:
    """How scored patients are drawn."""

    patients: int
    images: int
    prevalence: float
    auc: float
    of_patient: float


DESIGNS = {
    "200 rows": Design(200, 1, 0.4, 0.75, 0.0),
    "100 patients": Design(100, 4, 0.4, 0.75, 0.5),
    "40 patients": Design(40, 4, 0.4, 0.75, 0.5),
    "40 patients, AUC .92": Design(40, 4, 0.4, 0.92, 0.5),
    "about 10 positive of 100 patients": Design(100, 4, 0.1, 0.75, 0.5),
    "about 5 positive of 50 patients": Design(50, 4, 0.1, 0.75, 0.5),
    "20 patients": Design(20, 4, 0.4, 0.75, 0.5),
    "500 patients, 10 % positive": Design(500, 3, 0.1, 0.85, 0.5),
}


def draw(design: Design, seed: int) -> tuple[Evaluator, int] | None:
    """The metrics of one data set, and the groups on its smaller side; None with fewer than two on a side."""
    rng = np.random.default_rng([SEED, seed])
    owner = np.repeat(np.arange(design.patients), rng.integers(1, design.images + 1, design.patients))
    ill = (rng.random(design.patients) < design.prevalence).astype(int)
    own = math.sqrt(design.of_patient) * rng.standard_normal(design.patients)[owner]
    image = math.sqrt(1 - design.of_patient) * rng.standard_normal(len(owner))
    scores = math.sqrt(2) * norm.ppf(design.auc) * ill[owner] + own + image
    side = int(min(ill.sum(), (1 - ill).sum()))
    truth = class_truth(ill[owner], ("no", "yes"))
    return (evaluator(np.stack([-scores, scores], axis=1), truth, owner), side) if side > 1 else None


def intervals(measured: Evaluator, side: int, replicates: int, seed: int) -> dict[str, tuple[float, float]]:
    """Method → (low, high)."""
    area = float(np.clip(measured.point()["auc"][1], 1e-4, 1 - 1e-4))
    drawn = replicate(measured, measured.groups, replicates=replicates, seed=seed)["auc"][:, 1]
    drawn = drawn[~np.isnan(drawn)]
    slope, student = area * (1 - area), float(t.ppf(0.975, side - 1))
    on_logit = float(np.std(logit(np.clip(drawn, 1e-4, 1 - 1e-4))))
    halves = {
        "logit, SD of the logits": 1.96 * on_logit,
        "logit, SD / A(1-A)": 1.96 * float(drawn.std()) / slope,
        "logit, t · SD / A(1-A)": student * float(drawn.std()) / slope,
    }
    found = {name: (float(expit(logit(area) - h)), float(expit(logit(area) + h))) for name, h in halves.items()}
    found["percentile"] = tuple(np.percentile(drawn, [2.5, 97.5]))
    found["BCa"] = bca(measured, area, drawn)
    return found


def bca(measured: Evaluator, area: float, drawn: np.ndarray) -> tuple[float, float]:
    """Efron 1987: percentiles corrected for bias and acceleration, the latter by leaving each group out."""
    left_out = measured(1 - np.eye(measured.groups, dtype=np.int64))["auc"][:, 1]
    away = np.nanmean(left_out) - left_out[~np.isnan(left_out)]
    acceleration = (away**3).sum() / (6 * (away**2).sum() ** 1.5 + 1e-300)
    bias = norm.ppf(np.clip((drawn < area).mean() + (drawn == area).mean() / 2, 1e-4, 1 - 1e-4))
    at = [norm.cdf(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in (-1.96, 1.96)]
    low, high = np.percentile(drawn, 100 * np.array(at))
    return float(low), float(high)


def coverage(design: Design, sets: int, replicates: int) -> dict[str, list[float]]:
    """Method → per cent that hold the truth, per cent that lie below it, mean width."""
    counts: dict[str, list[tuple[bool, bool, float]]] = {}
    for seed in range(sets):
        drawn = draw(design, seed)
        if drawn is None:
            continue
        for name, (low, high) in intervals(*drawn, replicates, seed).items():
            counts.setdefault(name, []).append((low <= design.auc <= high, high < design.auc, high - low))
    return {
        name: [round(100 * held, 1), round(100 * below, 1), round(width, 3)]
        for name, (held, below, width) in ((name, np.mean(rows, axis=0)) for name, rows in counts.items())
    }


def main() -> None:
    simulate(__doc__, coverage, DESIGNS, RESULTS, sets=1000, replicates=400)


if __name__ == "__main__":
    main()
