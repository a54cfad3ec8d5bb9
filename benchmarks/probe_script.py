"""What a user would otherwise write: LogisticRegressionCV, KNeighborsClassifier and a loop of roc_auc_score.

It is given every advantage that costs no thought: float32 features, our split and C grid, our neighbours' weights.
`queries` and `replicates` cut the two parts that would take hours at a million rows; 0 leaves them whole.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import lancedb
import numpy as np
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.probe_data import TABLE
from indexer.types import Float32, Float64, Int64
from probes.cohort.splits import Split, hash_split

KS = (1, 5, 10, 20, 50, 100, 200)
TEMPERATURE = 0.07


@dataclass
class Script:
    """The rows, and how long each part took."""

    x: Float32  # unit rows
    y: Int64
    patients: Int64
    split: Split
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def fitted(self) -> Int64:
        return np.concatenate([self.split.train, self.split.val])


def read(db: str) -> Script:
    table = lancedb.connect(db).open_table(TABLE).to_lance().to_table(columns=["vector", "label", "patient"])
    vectors = table.column("vector").combine_chunks()
    x = vectors.flatten().to_numpy().reshape(len(vectors), -1).astype(np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = np.unique(table.column("label").to_numpy(zero_copy_only=False), return_inverse=True)[1]
    names, patients = np.unique(table.column("patient").to_numpy(zero_copy_only=False), return_inverse=True)
    return Script(x, y, patients, hash_split(patients, names.tolist(), ""))


def linear(script: Script, grid: list[float]) -> Float64:
    """Probabilities of the test rows, by the C of the highest AUC on the val rows, fitted again on train and val."""
    x, y, split = script.x * np.sqrt(np.float32(script.x.shape[1])), script.y, script.split
    train = np.arange(len(split.train))
    folds = [(train, np.arange(len(split.train), len(script.fitted)))]
    scoring = "roc_auc" if y.max() == 1 else "roc_auc_ovr"
    model = LogisticRegressionCV(
        Cs=grid, cv=folds, scoring=scoring, max_iter=1000, l1_ratios=(0.0,), use_legacy_attributes=False
    )
    model.fit(x[script.fitted], y[script.fitted])
    return np.asarray(model.predict_proba(x[split.test]), np.float64)


def votes(distances: Float64) -> Float64:
    return np.asarray(np.exp((1 - distances) / TEMPERATURE))


def neighbours(script: Script, queries: int) -> Float64:
    """Probabilities of the test rows, k by the AUC on the val rows. With `queries`: of so many test rows at k = 200."""
    x, y, split = script.x, script.y, script.split
    areas = {}
    p: dict[int, Float64] = {}
    for k in KS:
        model = KNeighborsClassifier(k, metric="cosine", weights=votes)
        if not queries:
            areas[k] = auc(y[split.val], model.fit(x[split.train], y[split.train]).predict_proba(x[split.val]))
        test = split.test[:queries] if queries else split.test
        p[k] = model.fit(x[script.fitted], y[script.fitted]).predict_proba(x[test])
    return p[max(areas, key=lambda k: (areas[k], -k)) if areas else KS[-1]]


def bootstrap(script: Script, p: Float64, replicates: int) -> list[float]:
    """95 % interval of the AUC from drawing patients."""
    rows = script.split.test
    order = np.argsort(script.patients[rows], kind="stable")
    starts = np.flatnonzero(np.diff(script.patients[rows][order], prepend=-1))
    members = np.split(order, starts[1:])
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(replicates):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        areas.append(auc(script.y[rows][drawn], p[drawn]))
    return [float(v) for v in np.percentile(areas, [2.5, 97.5])]


def auc(y: Int64, p: Float64) -> float:
    return float(roc_auc_score(y, p[:, 1]) if p.shape[1] == 2 else roc_auc_score(y, p, multi_class="ovr"))


def work(db: str, grid: list[float], queries: list[int], replicates: list[int]) -> dict[str, Any]:
    """Each part timed; a part is repeated for each count in `queries` and `replicates`."""
    out: dict[str, Any] = {"seconds": {}}

    def timed(name: str, start: float) -> None:
        out["seconds"][name] = time.perf_counter() - start

    start = time.perf_counter()
    script = read(db)
    timed("read", start)
    start = time.perf_counter()
    p = linear(script, grid)
    timed("linear", start)
    y = script.y[script.split.test]
    out |= {"rows": {"train": len(script.split.train), "val": len(script.split.val), "test": len(y)}}
    out["linear_auc"] = auc(y, p)
    for count in replicates:
        start = time.perf_counter()
        out["linear_interval"] = bootstrap(script, p, count)
        timed(f"bootstrap {count}", start)
    for count in queries:
        start = time.perf_counter()
        p = neighbours(script, count)
        timed(f"knn {count}", start)
        if not count:
            out["knn_auc"] = auc(y, p)
    return out


if __name__ == "__main__":
    print(json.dumps(work(sys.argv[1], *json.loads(sys.argv[2]))))
