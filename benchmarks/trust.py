"""How often do the 95 % intervals of D9 hold the truth, by patients, prevalence, clustering and metric? By simulation.

The table is data of the package (`probes/evaluation/certainty/coverage.json`): a report quotes it at its intervals
(D29). A score is the class's shift, a part of the patient (its share of the variance is `of_patient`) and a part of the
image; probabilities are the true ones given the score; a patient has 1 … `images` of them. Designs that are in the file
already are not run again without --anew.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

import probes.evaluation.certainty as home
from benchmarks.intervals import Design
from probes.cohort.truth import class_truth
from probes.evaluation.bootstrap import draw as resamples
from probes.evaluation.bootstrap import proportion_interval
from probes.evaluation.metrics import evaluator
from probes.evaluation.operating import denominators, rates_evaluator
from probes.evaluation.scoring import metric_interval

RESULTS = Path(home.__path__[0]) / "coverage.json"
SEED = 3
PATIENTS, PREVALENCES, AREAS = (20, 50, 100, 300), (0.1, 0.3), (0.75, 0.92)
CLUSTERS = ((1, 0.0), (4, 0.5), (4, 0.9))  # most images a patient, share of the variance that is the patient's
SPECIFICITY = 0.9  # of the threshold, which is fixed as one from other rows is
MANY = 2_000_000  # rows that give the true values of the metrics without a formula
METRICS = ("auc_macro", "ap_macro", "accuracy", "balanced_accuracy", "f1_macro", "brier", "log_loss")


def scores(design: Design, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, classes and patients of the rows of one data set."""
    rng = np.random.default_rng([SEED, seed])
    owner = np.repeat(np.arange(design.patients), rng.integers(1, design.images + 1, design.patients))
    ill = (rng.random(design.patients) < design.prevalence).astype(int)[owner]
    own = math.sqrt(design.of_patient) * rng.standard_normal(design.patients)[owner]
    return shift(design) * ill + own + math.sqrt(1 - design.of_patient) * rng.standard_normal(len(owner)), ill, owner


def shift(design: Design) -> float:
    return math.sqrt(2) * float(norm.ppf(design.auc))


def probability(design: Design, score: np.ndarray) -> np.ndarray:
    """P(ill | score) of one row."""
    away = shift(design)
    ill = expit(away * score - away**2 / 2 + logit(design.prevalence))
    return np.stack([1 - ill, ill], axis=1)


def truths(design: Design) -> dict[str, float]:
    """The true value of every metric, from MANY rows of patients with one image."""
    rng = np.random.default_rng([SEED, 0, 0])
    ill = (rng.random(MANY) < design.prevalence).astype(int)
    score = shift(design) * ill + rng.standard_normal(MANY)
    point = evaluator(probability(design, score), class_truth(ill, ("no", "yes")), np.zeros(MANY, int)).point()
    found = {name: float(point[name]) for name in METRICS}
    return found | {
        "auc_macro": design.auc,
        "sensitivity": float(norm.sf(norm.ppf(SPECIFICITY) - shift(design))),
        "specificity": SPECIFICITY,
    }


def held(design: Design, truth: dict[str, float], seed: int, replicates: int) -> Iterator[tuple[str, bool]]:
    """Metric and whether its interval holds the truth, in one data set; nothing with fewer than two groups a side."""
    score, ill, owner = scores(design, seed)
    if min(len(np.unique(owner[ill == side])) for side in (0, 1)) < 2:
        return
    p, t = probability(design, score), class_truth(ill, ("no", "yes"))
    groups = np.unique(owner, return_inverse=True)[1]
    measured = evaluator(p, t, groups)
    called = score >= norm.ppf(SPECIFICITY)
    rates = rates_evaluator(ill == 1, called, groups, measured.groups)
    blocks = [(measured(w), rates(w)) for w in resamples(measured.groups, replicates, seed)]
    point, sides = measured.point(), measured.sides()
    for name in METRICS:
        drawn = np.concatenate([block[name] for block, _ in blocks])
        found = metric_interval(name, float(point[name]), drawn, (sides, measured.groups))
        yield name, found.low <= truth[name] <= found.high
    own, counts = rates(np.ones((1, measured.groups), np.int64)), denominators(ill == 1, called, groups)
    for name in ("sensitivity", "specificity"):
        drawn = np.concatenate([block[name] for _, block in blocks])
        found = proportion_interval(float(own[name][0]), drawn, counts[name])
        yield name, found.low <= truth[name] <= found.high


def coverage(design: Design, sets: int, replicates: int) -> dict[str, float]:
    """Metric → per cent of data sets whose interval holds the truth."""
    truth, counts = truths(design), dict[str, list[bool]]()
    for seed in range(sets):
        for name, inside in held(design, truth, seed, replicates):
            counts.setdefault(name, []).append(inside)
    return {name: round(100 * float(np.mean(each)), 1) for name, each in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--anew", action="store_true")
    args = parser.parse_args()
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() and not args.anew else None
    if stored is not None and (stored["sets"], stored["replicates"]) != (args.sets, args.replicates):
        parser.error(f"{RESULTS} is of {stored['sets']} sets and {stored['replicates']} replicates: add --anew.")
    found = stored["designs"] if stored is not None else []
    known = {(d["patients"], d["prevalence"], d["images"], d["of_patient"], d["auc"]) for d in found}
    for patients, prevalence, (images, share), area in product(PATIENTS, PREVALENCES, CLUSTERS, AREAS):
        if (patients, prevalence, images, share, area) in known:
            continue
        own = coverage(Design(patients, images, prevalence, area, share), args.sets, args.replicates)
        facts = {"patients": patients, "prevalence": prevalence, "images": images, "of_patient": share, "auc": area}
        found.append({**facts, "coverage": own})
        lines = ",\n".join(json.dumps(design) for design in found)
        RESULTS.write_text(
            f'{{"sets": {args.sets}, "replicates": {args.replicates}, "designs": [\n{lines}\n]}}\n', encoding="utf-8"
        )
        print(facts, own, flush=True)


if __name__ == "__main__":
    main()
