"""Runs the same probe on several tables with the same rows, splits and draws, for paired differences (D9)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from indexer.errors import ProbeError
from indexer.malloc import release_freed_memory
from indexer.store.table import EmbeddingStore
from indexer.types import Float32, Float64, Int64
from probes.cohort.experiment import Experiment, prepare
from probes.cohort.load import ProbeData, load, open_store, source_of
from probes.cohort.matching import KeyPlaces, hashes
from probes.cohort.scaling import Vectors
from probes.cohort.truth import Truth, hide_absent
from probes.cohort.vectors import TAKEN, check_vectors, read_vectors
from probes.evaluation.bootstrap import replicate
from probes.evaluation.delong import delong
from probes.evaluation.metrics import Evaluator, evaluator
from probes.evaluation.paired import Difference, holm, leave_out, paired_difference
from probes.evaluation.scoring import Scored, compact
from probes.evaluation.targets.agreement import NumberEvaluator
from probes.evaluation.targets.concordance import ConcordanceEvaluator
from probes.evaluation.targets.predictions import tested_rows
from probes.progress import Stages
from probes.request import IMAGE, ProbeRequest
from probes.runs.outcome import Outcome
from probes.runs.result import FORMAT, ProbeResult
from probes.runs.run import run_prepared


@dataclass(frozen=True)
class Comparison:
    """One result for each table, or each level of one table (D35), and the difference of every pair in one metric."""

    format: int
    statement: str
    metric: str
    rows: int  # labelled rows present in every table; of levels, test cases
    # table → rows without a match: labelled ones of the first, all rows of the others; level → test rows left out
    unmatched: dict[str, int]
    results: tuple[ProbeResult, ...]  # in the order of the tables in the request
    differences: tuple[Difference, ...]
    delong_p: tuple[float, ...]  # of each difference in AUC; empty unless two classes and one row a group
    warnings: tuple[str, ...]
    cases: str = ""  # the level on whose cases levels were compared; "" for tables
    of_cases: tuple[Scored, ...] = ()  # of each level, scored on those cases

    @property
    def names(self) -> tuple[str, ...]:
        """The tables or levels, as `differences` name them."""
        return tuple(r.request.level if self.cases else r.source.table for r in self.results)

    @property
    def scored(self) -> tuple[Scored, ...]:
        """Of each table or level, its metrics on the rows that the differences are of."""
        return self.of_cases or tuple(r.test for r in self.results)

    @property
    def majority(self) -> dict[str, float]:
        """The metrics of the majority class on those rows."""
        return next((r for r in self.results if r.request.level == self.cases), self.results[0]).baselines["majority"]


@dataclass(frozen=True)
class _Joined:
    """The first table's data, restricted to the keys in all tables, and every table's vectors of those rows."""

    data: ProbeData
    vectors: tuple[Vectors, ...]
    unmatched: dict[str, int]
    other_bytes: dict[str, int]  # table → rows whose image bytes differ from the first table's


def compare(
    request: ProbeRequest, tables: Sequence[str], metric: str, progress: Stages, versions: Sequence[int | None] = ()
) -> tuple[Comparison, list[Outcome]]:
    """Compare tables. Labels, groups and splits are the first table's; rows are joined by key. Also gives
    the outcome of each table. Raises ProbeError.

    `versions` are the tables' versions (empty: the newest).
    """
    _check(request, tables)
    at = dict(zip(tables, versions, strict=False))
    stores = [open_store(replace(request, table=name, version=at.get(name))) for name in tables]
    with progress.stage("reading"):
        joined = _join(load(stores[0], replace(request, table=tables[0])), stores, raw=request.scaling == "raw")
        experiment = prepare(replace(request, table=tables[0]), joined.data)
    outcomes = []
    for store, vectors in zip(stores, joined.vectors, strict=True):
        progress.name(store.name)
        outcomes.append(run_prepared(_of_table(experiment, store, vectors), store, progress))
        progress.seconds = {}
    progress.name("all tables")
    with progress.stage("paired differences"):
        truth, groups = tested(experiment)
        differences, delong_p = paired_differences([o.p for o in outcomes], truth, groups, tables, metric, request)
    found = Comparison(
        FORMAT,
        experiment.facts.statement,
        metric,
        len(joined.data.keys),
        joined.unmatched,
        tuple(o.result for o in outcomes),
        differences,
        delong_p,
        _warnings(joined),
    )
    return found, outcomes


def _check(request: ProbeRequest, tables: Sequence[str]) -> None:
    if request.level != IMAGE:
        raise ProbeError("a comparison of tables joins their images by key: leave --level out, or compare --levels.")
    if len(tables) < 2:
        raise ProbeError("a comparison needs two tables or more: --tables A,B.")
    repeated = next((name for i, name in enumerate(tables) if name in tables[:i]), None)
    if repeated is not None:
        raise ProbeError(f"table {repeated} is named twice in --tables: a table compared with itself says nothing.")
    if request.split_is_folds or request.probe == "zero-shot":
        raise ProbeError(
            "a comparison needs one test split and a fitted probe. Use --split hash, stratified or a column."
        )


@dataclass(frozen=True)
class _Partner:
    """A table's rows with a key of one of the first table's labelled rows."""

    places: Int64  # (m,) indices of the labelled rows
    row_ids: Int64  # (m,)
    norms: Float32  # (m,)
    content: Int64  # (m,) 64-bit hashes


def _join(data: ProbeData, stores: Sequence[EmbeddingStore], *, raw: bool) -> _Joined:
    contents, found = _partners(data, stores)
    release_freed_memory()  # of the scans
    shared = np.ones(len(data.keys), bool)
    for partner, _ in found:
        shared &= np.isin(np.arange(len(shared)), partner.places)
    kept = np.flatnonzero(shared)
    if not len(kept):
        raise ProbeError("the tables share no key. They must hold the same images, indexed under the same names.")
    cut = _cut(data, kept)
    vectors, unmatched, other_bytes = [cut.vectors], {stores[0].name: len(data.keys) - len(kept)}, {}
    for store, (partner, strangers) in zip(stores[1:], found, strict=True):
        order = np.argsort(partner.places)
        rows = order[np.searchsorted(partner.places, kept, sorter=order)]
        read = read_vectors(store, None, partner.row_ids[rows], store.count())
        vectors.append(Vectors(read, partner.norms[rows] if raw else None))
        check_vectors(vectors[-1], cut.keys)
        unmatched[store.name] = strangers
        other_bytes[store.name] = int((partner.content[rows] != contents[kept]).sum())
    return _Joined(cut, tuple(vectors), unmatched, other_bytes)


def _partners(data: ProbeData, stores: Sequence[EmbeddingStore]) -> tuple[Int64, list[tuple[_Partner, int]]]:
    """Content hashes of the first table's labelled rows; of each other table its partner rows and its strangers.

    A stranger's key is in no row of the first table, of which 8 bytes a row are held for this.
    """
    wanted, known = KeyPlaces(data.keys), np.empty(stores[0].count(), np.int64)
    first, _ = _partner(stores[0], wanted, lambda own, start: np.copyto(known[start : start + len(own)], own))
    contents = np.empty(len(data.keys), np.int64)
    contents[first.places] = first.content
    known.sort()
    return contents, [_partner(store, wanted, lambda own, _: _strangers(own, known)) for store in stores[1:]]


def _strangers(own: Int64, known: Int64) -> int:
    """How many key hashes are not among the sorted `known` ones."""
    own = np.sort(own)  # looked up in random order each would miss the processor's cache
    spot = np.minimum(np.searchsorted(known, own), len(known) - 1)
    return int((known[spot] != own).sum())


def _partner(
    store: EmbeddingStore, wanted: KeyPlaces, look: Callable[[Int64, int], int | None]
) -> tuple[_Partner, int]:
    """One pass over the table's keys, then a read of the wanted rows alone.

    `look` is called with each batch's key hashes and its first row; what it returns is summed.
    """
    places, ids, start, total = [np.empty(0, np.int64)], [np.empty(0, np.int64)], 0, 0
    for batch in store.scan(["key"]):
        keys = batch.column("key").to_pylist()
        own = hashes(keys)
        total += look(own, start) or 0
        start += len(own)
        at = wanted.find(keys, own)
        places.append(at[at >= 0])
        ids.append(batch.column("_rowid").to_numpy()[at >= 0].astype(np.int64))
    row_ids = np.concatenate(ids)
    norms, contents = [np.empty(0, np.float32)], [np.empty(0, np.int64)]
    for first in range(0, len(row_ids), TAKEN):
        _, rows = store.take(row_ids[first : first + TAKEN], ["content", "norm"])
        norms.append(rows.column("norm").to_numpy().astype(np.float32))
        contents.append(hashes(rows.column("content").to_pylist()))
    return _Partner(np.concatenate(places), row_ids, np.concatenate(norms), np.concatenate(contents)), total


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


def _of_table(experiment: Experiment, store: EmbeddingStore, vectors: Vectors) -> Experiment:
    """The same rows and split, with this table's vectors and its own counts of images."""
    flow = replace(experiment.data.flow, embedded=store.count(), failed=store.count_failures())
    data = replace(experiment.data, vectors=vectors, source=source_of(store), flow=flow)
    return Experiment(replace(experiment.request, table=store.name), data, experiment.split, experiment.facts)


def tested(experiment: Experiment) -> tuple[Truth, Int64]:
    """The truth of the test rows, and their groups."""
    test = experiment.split.test
    truth = hide_absent(experiment.data.truth.take(test), experiment.absent)
    return truth, compact(experiment.data.groups[test])


def paired_differences(
    scores: Sequence[Float64], truth: Truth, groups: Int64, names: Sequence[str], metric: str, request: ProbeRequest
) -> tuple[tuple[Difference, ...], tuple[float, ...]]:
    """The difference of every pair on the same rows and draws, with p values corrected by Holm over pairs.

    `scores`: probabilities (n, c), or predicted numbers (n, 1), by each of `names`. Also DeLong's p of each pair, where
    it may be used (D10).
    """
    points, drawn, without = [], [], []
    for p in scores:
        measured = _measured(p, truth, groups)
        points.append(float(measured.point()[metric]))
        drawn.append(replicate(measured, measured.groups, replicates=request.replicates, seed=request.seed)[metric])
        without.append(leave_out(lambda weights, own=measured: own(weights)[metric], measured.groups))  # type: ignore[misc]
    pairs = list(combinations(range(len(names)), 2))
    found = [paired_difference(points[i] - points[j], drawn[i] - drawn[j], without[i] - without[j]) for i, j in pairs]
    differences = tuple(
        Difference(names[i], names[j], delta, p, adjusted)
        for (i, j), (delta, p), adjusted in zip(pairs, found, holm([p for _, p in found]), strict=True)
    )
    independent = len(np.unique(groups)) == truth.n and len(truth.classes) == 2 and not truth.multilabel
    if metric != "auc_macro" or not independent:
        return differences, ()
    paired = delong(truth.positive[:, 1], np.stack([p[:, 1] for p in scores]))
    return differences, tuple(paired.test(i, j)[1] for i, j in pairs)


def _measured(p: Float64, truth: Truth, groups: Int64) -> Evaluator | NumberEvaluator | ConcordanceEvaluator:
    """The metrics of probabilities (n, c), or of predicted numbers or risks (n, 1)."""
    return evaluator(p, truth, groups) if truth.numbers is None else tested_rows(p, truth, groups).evaluator()


def _warnings(joined: _Joined) -> tuple[str, ...]:
    first, *_ = joined.unmatched
    out = []
    for name, count in joined.unmatched.items():
        if count and name == first:
            out.append(f"{count} labelled rows of {name} left out: not every table holds their keys")
        elif count:
            out.append(f"{count} rows of {name} left out: {first} does not hold their keys")
    for name, count in joined.other_bytes.items():
        if count:
            out.append(f"{count} rows of {name} have the key of a row of {first} but other image bytes")
    return tuple(out)
