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
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

import probes.evaluation.certainty as home
from benchmarks.intervals import Design
from benchmarks.provenance import provenance
from probes.cohort.truth import class_truth
from probes.evaluation.bootstrap import draw as resamples
from probes.evaluation.interval_kinds import area_interval, proportion_interval
from probes.evaluation.metrics import evaluator
from probes.evaluation.operating import denominators, rates_evaluator
from probes.evaluation.scoring import metric_intervals

RESULTS = Path(home.__path__[0]) / "coverage.json"
SEED = 3
PATIENTS, PREVALENCES, AREAS = (20, 50, 100, 300), (0.1, 0.3), (0.75, 0.92)
CLUSTERS = ((1, 0.0), (4, 0.5), (4, 0.9))  # most images a patient, share of the variance that is the patient's
SPECIFICITY = 0.9  # of the threshold, which is fixed as one from other rows is
MANY = 2_000_000  # rows that give the true values of the metrics without a formula
FACTS = ("patients", "prevalence", "images", "of_patient", "auc")
METRICS = ("auc_macro", "ap_macro", "accuracy", "balanced_accuracy", "f1_macro", "brier", "log_loss")
SHARES = ("sensitivity", "specificity", "ppv", "npv")


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


@cache
def truths(prevalence: float, auc: float) -> dict[str, float]:
    """The true value of every metric, from MANY rows of patients with one image."""
    design = Design(MANY, 1, prevalence, auc, 0.0)
    rng = np.random.default_rng([SEED, 0, 0])
    ill = (rng.random(MANY) < prevalence).astype(int)
    score = shift(design) * ill + rng.standard_normal(MANY)
    point = evaluator(probability(design, score), class_truth(ill, ("no", "yes")), np.zeros(MANY, int)).point()
    found = {name: float(point[name]) for name in METRICS}
    sensitivity = float(norm.sf(norm.ppf(SPECIFICITY) - shift(design)))
    called, missed = prevalence * sensitivity, prevalence * (1 - sensitivity)
    rates = (sensitivity, SPECIFICITY, called / (called + (1 - prevalence) * (1 - SPECIFICITY)),
             1 - missed / (missed + (1 - prevalence) * SPECIFICITY))  # fmt: skip
    return found | {"auc_macro": auc, "ap": float(point["ap"][1])} | dict(zip(SHARES, rates, strict=True))


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
    drawn = {name: np.concatenate([block[name] for block, _ in blocks]) for name in blocks[0][0]}
    point = measured.point()
    found = metric_intervals(measured, point, drawn)
    found["ap"] = area_interval(float(point["ap"][1]), drawn["ap"][:, 1], int(measured.sides()[1]))
    for name in (*METRICS, "ap"):
        yield name, found[name].low <= truth[name] <= found[name].high
    own, counts = rates(np.ones((1, measured.groups), np.int64)), denominators(ill == 1, called, groups)
    for name in SHARES:
        if np.isnan(own[name][0]):  # no row is called: the share is not defined
            continue
        shares = np.concatenate([block[name] for _, block in blocks])
        rate = proportion_interval(float(own[name][0]), shares, counts[name])
        yield name, rate.low <= truth[name] <= rate.high


def coverage(design: Design, sets: int, replicates: int) -> dict[str, float]:
    """Metric → per cent of data sets whose interval holds the truth."""
    truth, counts = truths(design.prevalence, design.auc), dict[str, list[bool]]()
    for seed in range(sets):
        for name, inside in held(design, truth, seed, replicates):
            counts.setdefault(name, []).append(inside)
    return {name: round(100 * float(np.mean(each)), 1) for name, each in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=400)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--anew", action="store_true")
    args = parser.parse_args()
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() and not args.anew else None
    if stored is not None and (stored["sets"], stored["replicates"]) != (args.sets, args.replicates):
        parser.error(f"{RESULTS} is of {stored['sets']} sets and {stored['replicates']} replicates: add --anew.")
    found = stored["designs"] if stored is not None else []
    known = {tuple(d[name] for name in FACTS) for d in found}
    designs = [
        Design(patients, images, prevalence, area, share)
        for patients, prevalence, (images, share), area in product(PATIENTS, PREVALENCES, CLUSTERS, AREAS)
    ]
    left = [d for d in designs if tuple(getattr(d, name) for name in FACTS) not in known]
    work = partial(coverage, sets=args.sets, replicates=args.replicates)
    with ProcessPoolExecutor(args.processes) as pool:
        for design, own in zip(left, pool.map(work, left), strict=True):
            facts = {name: getattr(design, name) for name in FACTS}
            found.append({**facts, "coverage": own})
            lines = ",\n".join(json.dumps(each) for each in found)
            facts = json.dumps({"sets": args.sets, "replicates": args.replicates, **provenance()})
            RESULTS.write_text(
                f'{facts[:-1]}, "designs": [\n{lines}\n]}}\n',
                encoding="utf-8",
            )
            print(facts, own, flush=True)


if __name__ == "__main__":
    main()
