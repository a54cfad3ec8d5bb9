"""Is each part of a review as fast as the plain script that one would write with numpy and scikit-learn?

4000 scored rows of 1000 patients, 512 numbers a row. Scripts resample patients in a loop, as scripts do; both sides use
the same few replicates and permutations. Printed: seconds of both and their ratio; a ratio below 1 is a failure.

With --commands also the seconds and the largest resident set of `probes linear` on a table of 20,000 rows, as processes
of their own: plain, and with each option of a review, so that it is seen what an option costs, and that one which is
not given costs nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors

from benchmarks import review_targets as targets
from benchmarks.probe import spawn
from benchmarks.probe_data import TABLE, fill
from benchmarks.provenance import write
from indexer.types import Bool, Float32, Float64, Int64
from probes.cohort.truth import class_truth
from probes.compute.exact_search import top_k
from probes.evaluation.certainty.conformal import conformal_sets
from probes.evaluation.certainty.selective import selective
from probes.evaluation.confounding.permutation import raises_p
from probes.evaluation.confounding.strata import adjusted
from probes.evaluation.external.shift import shift
from probes.evaluation.scoring import Resampling, score
from probes.evaluation.usefulness.decision_curve import decision_curve

RESULTS = Path(__file__).parent / "results" / "review.json"
ROWS, PATIENTS, DIM = 4000, 1000, 512
REPLICATES, PERMUTATIONS = 200, 9
THRESHOLDS = np.linspace(0.01, 0.99, 99)


class Data:
    """Scored rows."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.groups: Int64 = np.sort(rng.integers(0, PATIENTS, ROWS))
        self.y: Int64 = (rng.random(PATIENTS) < 0.3).astype(int)[self.groups]
        logit = 1.5 * self.y - 1.2 + 0.7 * rng.standard_normal(PATIENTS)[self.groups] + 0.7 * rng.standard_normal(ROWS)
        self.p: Float64 = 1 / (1 + np.exp(-logit))
        self.both = np.stack([1 - self.p, self.p], axis=1)
        self.truth = class_truth(self.y, ("no", "yes"))
        self.site: Int64 = rng.integers(0, 4, ROWS)
        self.stratum: Int64 = rng.integers(0, 4, PATIENTS)[self.groups]
        x = rng.standard_normal((ROWS, DIM)).astype(np.float32)
        self.x: Float32 = x / np.linalg.norm(x, axis=1, keepdims=True)
        self.here: Bool = self.groups < PATIENTS // 2
        self.targets = targets.Targets(self.x, self.groups)
        _, self.ids = np.unique(self.groups, return_inverse=True)

    def resamples(self) -> Iterator[Int64]:
        """Rows of patients drawn with replacement."""
        rng = np.random.default_rng(1)
        rows = [np.flatnonzero(self.ids == g) for g in range(self.ids.max() + 1)]
        for _ in range(REPLICATES):
            yield np.concatenate([rows[g] for g in rng.integers(0, len(rows), len(rows))])


def net_benefit(y: Int64, p: Float64) -> list[float]:
    return [((p >= t) & (y == 1)).mean() - ((p >= t) & (y == 0)).mean() * t / (1 - t) for t in THRESHOLDS]


def script_metrics(d: Data) -> object:
    kinds = (roc_auc_score, average_precision_score, brier_score_loss)
    drawn = [[kind(d.y[rows], d.p[rows]) for kind in kinds] for rows in d.resamples()]
    return np.percentile(drawn, [2.5, 97.5], axis=0)


def script_decision(d: Data) -> object:
    return np.percentile([net_benefit(d.y[rows], d.p[rows]) for rows in d.resamples()], [2.5, 97.5], axis=0)


def script_sets(d: Data) -> object:
    calibrates, own = d.ids % 2 == 0, d.both[np.arange(ROWS), d.y]
    least = np.array([np.quantile(own[calibrates & (d.y == c)], 0.1) for c in (0, 1)])
    held = own >= least[d.y]
    return np.percentile([held[rows][~calibrates[rows]].mean() for rows in d.resamples()], [2.5, 97.5])


def script_selective(d: Data) -> object:
    sure, wrong = d.both.max(1), d.both.argmax(1) != d.y
    bounds = np.quantile(sure, [0, 0.05, 0.1, 0.2, 0.3, 0.5])
    return [[wrong[rows][sure[rows] >= b].mean() for b in bounds] for rows in d.resamples()]


def script_strata(d: Data) -> object:
    def within(rows: Int64) -> float:
        return float(np.mean([roc_auc_score(d.y[r], d.p[r]) for s in range(4) if len(r := rows[d.site[rows] == s])]))

    return np.percentile([within(rows) for rows in d.resamples()], [2.5, 97.5])


def script_raises(d: Data) -> object:
    """The same permutations among the patients of each class."""
    rng, found = np.random.default_rng(4), []
    value, ill = np.full(PATIENTS, -1), np.zeros(PATIENTS, bool)
    value[d.groups], ill[d.groups] = d.stratum, d.y == 1
    sides = [np.flatnonzero((value >= 0) & (ill == side)) for side in (True, False)]
    for _ in range(PERMUTATIONS + 1):
        parts = [(d.y[r], d.p[r]) for s in range(4) if len(r := np.flatnonzero(value[d.groups] == s))]
        found.append(np.average([roc_auc_score(*part) for part in parts], weights=[y.sum() for y, _ in parts]))
        for side in sides:
            value[side] = rng.permutation(value[side])
    return found


def script_shift(d: Data) -> object:
    """Of 1000 rows a set, as the test itself draws."""
    rows = np.concatenate([np.flatnonzero(d.here)[:1000], np.flatnonzero(~d.here)[:1000]])
    x, groups, rng = d.x[rows], d.groups[rows], np.random.default_rng(2)
    kernel, found = rbf_kernel(x), []
    for _ in range(PERMUTATIONS + 1):
        first = np.isin(groups, rng.permutation(np.unique(groups))[: len(np.unique(groups)) // 2])
        guess = cross_val_predict(Ridge(0.1), x, first.astype(float), groups=groups, cv=GroupKFold(5))
        a = np.where(first, 1 / first.sum(), -1 / (~first).sum())
        found.append((roc_auc_score(first, guess), a @ kernel @ a))
    return found


def ours_shift(d: Data) -> object:
    here, there = np.flatnonzero(d.here)[:1000], np.flatnonzero(~d.here)[:1000]
    sets = [(d.x[rows], d.groups[rows]) for rows in (here, there)]
    return shift(sets[0], sets[1], 0, permutations=PERMUTATIONS)


HOW = Resampling(REPLICATES, 0)
TABLE_ROWS = 20_000
OPTIONS = {
    "plain": [],
    "--review": ["--review"],
    "--confounder": ["--confounder", "site"],
    "--test-where": ["--test-where", "site = 's3'"],
}
Part = Callable[[Data], object]
PARTS: dict[str, tuple[Part, Part]] = {
    "external test: every metric with its interval": (lambda d: score(d.both, d.truth, d.groups, HOW), script_metrics),
    "shift: both tests": (ours_shift, script_shift),
    "decision curve with its band": (lambda d: decision_curve("yes", d.y == 1, d.p, d.groups, HOW), script_decision),
    "conformal sets": (lambda d: conformal_sets(d.both, d.truth, d.groups, 0.9, HOW), script_sets),
    "selective prediction": (lambda d: selective(d.both, d.truth, d.groups, HOW), script_selective),
    "confounder: within its values": (lambda d: adjusted(d.both, d.truth, d.groups, d.site, HOW), script_strata),
    "numbers: ridge with alpha by folds": (
        lambda d: targets.ours_ridge(d.targets),
        lambda d: targets.script_ridge(d.targets),
    ),
    "numbers: every metric with its interval": (
        lambda d: targets.ours_numbers(d.targets, HOW),
        lambda d: targets.script_numbers(d.targets, list(d.resamples())),
    ),
    "survival: Cox on 50 components": (lambda d: targets.ours_cox(d.targets), lambda d: targets.script_cox(d.targets)),
    "survival: both C with their intervals": (
        lambda d: targets.ours_concordance(d.targets, HOW),
        lambda d: targets.script_concordance(d.targets, list(d.resamples())),
    ),
    "confounder: does it raise the AUC": (
        lambda d: raises_p(d.both, d.truth, d.groups, d.stratum, 0, PERMUTATIONS),
        script_raises,
    ),
    "examples: nearest fitted images": (
        lambda d: top_k(d.x, d.x[:400], 5, base_groups=d.groups, query_groups=d.groups[:400]),
        lambda d: NearestNeighbors(n_neighbors=5, metric="cosine").fit(d.x).kneighbors(d.x[:400]),
    ),
}


def seconds(run: Part, data: Data, rounds: int) -> float:
    """The least of some rounds."""
    taken = []
    for _ in range(rounds):
        start = time.perf_counter()
        run(data)
        taken.append(time.perf_counter() - start)
    return min(taken)


def commands() -> dict[str, dict[str, float]]:
    """Options of a review → seconds, processor seconds and the largest resident set of the command."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        db = Path(folder) / "db"
        fill(db, TABLE_ROWS, DIM, 2)
        plain = [sys.executable, "-m", "probes", "linear", str(db), "--table", TABLE, "--label", "label", "--group",
                 "patient", "--json"]  # fmt: skip
        spawn(plain)  # a copy of the vectors stays in the cache
        for name, options in OPTIONS.items():
            cost = min((spawn([*plain, *options])[1] for _ in range(2)), key=lambda cost: float(cost["cpu_seconds"]))
            found[name] = {key: round(value, 1) for key, value in cost.items() if key != "peak_bytes"}
            found[name]["peak_mb"] = round(cost["peak_bytes"] / 1e6)
            print(f"{name}: {found[name]}", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--commands", action="store_true", help="also whole commands (4 minutes); else those stored")
    args = parser.parse_args()
    data, found = Data(), dict[str, dict[str, float]]()
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    for name, (ours, script) in PARTS.items():
        ours(data)  # imports
        own, plain = seconds(ours, data, args.rounds), seconds(script, data, args.rounds)
        found[name] = {"seconds": round(own, 4), "script": round(plain, 4), "ratio": round(plain / own, 1)}
        print(f"{name}: {own:.3f} s, script {plain:.3f} s, {plain / own:.1f} times", flush=True)
    facts = {"rows": ROWS, "patients": PATIENTS, "replicates": REPLICATES, "permutations": PERMUTATIONS, "parts": found}
    facts["commands"] = commands() if args.commands else stored.get("commands")
    write(RESULTS, facts)
    return int(any(part["ratio"] < 1 for part in found.values()))


if __name__ == "__main__":
    sys.exit(main())
