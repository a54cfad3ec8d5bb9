"""The same probe on several tables: the same rows, the same splits, the same draws, and paired differences (D9)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from indexer.errors import ProbeError
from indexer.store.store import EmbeddingStore
from indexer.types import Float32, Int64
from probes.data import ProbeData, load, open_store, source_of
from probes.delong import delong
from probes.experiment import Experiment, prepare
from probes.intervals import Difference, holm, interval, paired_p, replicate
from probes.metrics import evaluator
from probes.progress import Progress
from probes.records import FORMAT, ProbeResult, Request
from probes.run import Outcome, run_prepared
from probes.scaling import Vectors
from probes.scoring import compact, hide_absent

METRICS = ("auc_macro", "balanced_accuracy", "ap_macro")


@dataclass(frozen=True)
class Comparison:
    """One probe a table, and every pair's difference in one metric."""

    format: int
    statement: str
    metric: str
    rows: int  # labelled rows that every table holds
    unmatched: dict[str, int]  # table → its rows that are not among them
    results: tuple[ProbeResult, ...]  # in the order of the tables asked for
    differences: tuple[Difference, ...]
    delong_p: tuple[float, ...]  # of each difference in AUC; empty unless two classes and one row a group
    warnings: tuple[str, ...]


def compare(request: Request, tables: Sequence[str], metric: str, progress: Progress) -> Comparison:
    """Labels, groups and splits come from the first table; rows are joined by key. Raises ProbeError."""
    if len(set(tables)) < 2:
        raise ProbeError("a comparison needs two tables or more: --tables A,B.")
    if request.split == "nested" or request.probe == "zero-shot":
        raise ProbeError(
            "a comparison needs one test split and a fitted probe. Use --split hash, stratified or a column."
        )
    stores = [open_store(replace(request, table=name)) for name in tables]
    with progress.stage("reading"):
        data = load(stores[0], replace(request, table=tables[0]))
        data, others, unmatched = _join(data, stores, with_norms=request.scaling == "raw")
        experiment = prepare(replace(request, table=tables[0]), data)
    outcomes = []
    for store, vectors in zip(stores, [data.vectors, *others], strict=True):
        own_data = replace(experiment.data, vectors=vectors, source=source_of(store))
        own = Experiment(replace(request, table=store.name), own_data, experiment.split, experiment.facts)
        outcomes.append(run_prepared(own, store, progress))
        progress.seconds = {}
    with progress.stage("paired differences"):
        differences, delong_p = _differences(outcomes, tables, metric, request)
    return Comparison(
        FORMAT,
        experiment.facts.statement,
        metric,
        len(data.keys),
        unmatched,
        tuple(o.result for o in outcomes),
        differences,
        delong_p,
        tuple(f"{count} rows of {name} have no partner in every table" for name, count in unmatched.items() if count),
    )


def _join(
    data: ProbeData, stores: Sequence[EmbeddingStore], *, with_norms: bool
) -> tuple[ProbeData, list[Vectors], dict[str, int]]:
    """The first table's data cut to the keys that all have, and the others' vectors in that order."""
    found = []
    for store in stores[1:]:
        rows = store.vectors(None, ["key", "norm"])
        place = {key: i for i, key in enumerate(rows.columns.column("key").to_pylist())}
        norms: Float32 = rows.columns.column("norm").to_numpy().astype(np.float32)
        found.append((rows.vectors, norms, place))
    kept = np.array([i for i, key in enumerate(data.keys) if all(key in place for _, _, place in found)], np.int64)
    if not len(kept):
        raise ProbeError("the tables share no key. They must hold the same images, indexed under the same names.")
    cut = _cut(data, kept)
    others = []
    unmatched = {stores[0].name: len(data.keys) - len(kept)}
    for store, (unit, norms, place) in zip(stores[1:], found, strict=True):
        at = np.array([place[key] for key in cut.keys])
        others.append(Vectors(unit[at], norms[at] if with_norms else None))
        unmatched[store.name] = len(place) - len(kept)
    return cut, others, unmatched


def _cut(data: ProbeData, rows: Int64) -> ProbeData:
    norms = data.vectors.norms
    groups = data.groups[rows]
    used = np.unique(groups)
    return replace(
        data,
        vectors=Vectors(data.vectors.unit[rows], None if norms is None else norms[rows]),
        truth=data.truth.take(rows),
        keys=tuple(data.keys[i] for i in rows),
        groups=compact(groups),
        group_names=tuple(data.group_names[g] for g in used),
        content=data.content[rows],
        split_values=None if data.split_values is None else tuple(data.split_values[i] for i in rows),
        subgroups={name: tuple(values[i] for i in rows) for name, values in data.subgroups.items()},
        flow=replace(data.flow, labelled=len(rows), groups=len(used)),
    )


def _differences(
    outcomes: Sequence[Outcome], tables: Sequence[str], metric: str, request: Request
) -> tuple[tuple[Difference, ...], tuple[float, ...]]:
    experiment = outcomes[0].experiment
    test = experiment.split.test
    truth = hide_absent(experiment.data.truth.take(test), experiment.absent)
    groups = compact(experiment.data.groups[test])
    points, drawn = [], []
    for outcome in outcomes:
        measured = evaluator(outcome.p, truth, groups)
        points.append(float(measured.point()[metric]))
        drawn.append(replicate(measured, measured.groups, replicates=request.replicates, seed=request.seed)[metric])
    pairs = list(combinations(range(len(tables)), 2))
    raw = [paired_p(drawn[i] - drawn[j]) for i, j in pairs]
    differences = tuple(
        Difference(tables[i], tables[j], interval(points[i] - points[j], drawn[i] - drawn[j]), p, adjusted)
        for (i, j), p, adjusted in zip(pairs, raw, holm(raw), strict=True)
    )
    independent = len(np.unique(groups)) == truth.n and len(truth.classes) == 2 and not truth.multilabel
    if metric != "auc_macro" or not independent:
        return differences, ()
    paired = delong(truth.positive[:, 1], np.stack([o.p[:, 1] for o in outcomes]))
    return differences, tuple(paired.test(i, j)[1] for i, j in pairs)
