"""D31: images to look at: errors with their nearest fitted images, doubtful and suspect rows, prototypes, outliers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from indexer.types import Bool, Float64, Int64
from probes.cohort.scaling import features, fit_scaler
from probes.cohort.truth import Truth, both_sides, hide_absent, label_as_classes, probabilities
from probes.compute.exact_search import top_k
from probes.evaluation.examples.label_errors import confident, normalised_margin
from probes.evaluation.examples.typical import closeness, typicality
from probes.runs.outcome import Outcome
from probes.runs.review.record import Example, Examples, Neighbour
from probes.runs.run import applied_temperature

LISTED = 100  # most of a kind, of prototypes and outliers of a class fewer
OF_A_CLASS = 5
NEIGHBOURS = 5
MOST_ROWS = 20_000  # of a class, among which prototypes and outliers are sought


@dataclass(frozen=True)
class _Column:
    """Classes that exclude each other, of one column, or the absence and presence of one label."""

    label: int | None  # its place among the labels
    classes: tuple[str, ...]
    rows: Int64  # (n,) of the table, with a known value and a score by a probe that was not fitted on their group
    p: Float64  # (n, c)
    codes: Int64  # (n,)


@dataclass(frozen=True)
class _Ranked:
    """A row that is worth a look: its place among a column's rows, and what it is ranked by (the lowest first)."""

    value: float
    at: int
    column: _Column


def examples(outcome: Outcome) -> Examples:
    """The examples of a result; of labels, those of each label ranked together."""
    columns = _columns(outcome)
    listed: dict[str, list[_Ranked]] = {"error": [], "doubtful": [], "suspect": []}
    counts = dict.fromkeys(listed, 0)
    for column in columns:
        for kind, (at, values) in _worth_a_look(outcome, column).items():
            counts[kind] += len(at)
            listed[kind] += [_Ranked(float(values[i]), i, column) for i in at[:LISTED].tolist()]
    first = [
        (kind, each)
        for kind, found in listed.items()
        for each in sorted(found, key=lambda ranked: ranked.value)[:LISTED]
    ]
    shown = [*_scored(outcome, first), *_of_classes(outcome)]
    return Examples(tuple(shown), counts["error"], counts["suspect"], sum(len(c.rows) for c in columns))


def _columns(outcome: Outcome) -> list[_Column]:
    truth = outcome.experiment.data.truth
    rows, p = _out_of_sample(outcome)
    if truth.codes is not None:
        return [_Column(None, truth.classes, rows, p, truth.codes[rows])]
    out = []
    scored = hide_absent(truth.take(rows), outcome.experiment.absent)
    for j in range(len(truth.classes)):
        known, own = label_as_classes(scored, j)
        assert own.codes is not None
        out.append(_Column(j, own.classes, rows[known], both_sides(p[known, j]), own.codes))
    return out


def _worth_a_look(outcome: Outcome, column: _Column) -> dict[str, tuple[Int64, Float64]]:
    """Of each kind: places among the column's rows, in their order, and what all rows are ranked by."""
    p, codes = column.p, column.codes
    margin = normalised_margin(p, codes)
    tested = np.flatnonzero(np.isin(column.rows, outcome.experiment.split.test))
    wrong = tested[p[tested].argmax(1) != codes[tested]]
    ordered = np.sort(p, axis=1)
    doubt = ordered[:, -1] - ordered[:, -2]
    suspects = confident(p, codes).suspects(codes)

    def ranked(places: Int64, values: Float64) -> tuple[Int64, Float64]:
        return places[np.argsort(values[places], kind="stable")], values

    return {"error": ranked(wrong, margin), "doubtful": ranked(tested, doubt), "suspect": ranked(suspects, margin)}


def _out_of_sample(outcome: Outcome) -> tuple[Int64, Float64]:
    """Test rows and held-out fitted rows with probabilities by probes that were not fitted on their group."""
    experiment, trained = outcome.experiment, outcome.trained
    temperature = applied_temperature(experiment.request, outcome.result.temperature)
    held = probabilities(trained.held_logits, experiment.data.truth.multilabel, temperature)
    return np.concatenate([experiment.split.test, trained.held_rows]), np.concatenate([outcome.p, held])


def _scored(outcome: Outcome, listed: Sequence[tuple[str, _Ranked]]) -> Iterable[Example]:
    """Examples of scored rows, with fitted neighbours from one search. `listed`: kind and row."""
    data = outcome.experiment.data
    near = nearest_fitted(outcome, np.array([each.column.rows[each.at] for _, each in listed], np.int64))
    part = outcome.experiment.split.part_of(data.truth.n)
    for (kind, each), (cosines, found) in zip(listed, near, strict=True):
        column, at = each.column, each.at
        row, label, called = int(column.rows[at]), int(column.codes[at]), int(column.p[at].argmax())
        neighbours = tuple(
            Neighbour(data.keys[i], _name(data.truth, i, column), cosine)
            for cosine, i in zip(cosines, found, strict=True)
        )
        yield Example(
            kind, data.keys[row], data.group_names[data.groups[row]], column.classes[label], column.classes[called],
            float(column.p[at, label]), float(column.p[at, called]), each.value, str(part[row]), neighbours,
        )  # fmt: skip


def _name(truth: Truth, row: int, column: _Column) -> str:
    """The class of a fitted row, or its value of a label."""
    if truth.codes is not None:
        return truth.classes[int(truth.codes[row])]
    j = column.label
    assert j is not None
    return column.classes[int(truth.positive[row, j])] if truth.known[row, j] else f"{truth.classes[j]}: unknown"


def nearest_fitted(outcome: Outcome, rows: Int64) -> list[tuple[list[float], list[int]]]:
    """Cosines and rows of the nearest fitted images of each row, without those of its own group."""
    experiment = outcome.experiment
    data, fitted = experiment.data, experiment.fit_rows
    if not len(rows):
        return []
    unit = fit_scaler("none", data.vectors, experiment.split.train)
    base, queries = (features(data.vectors, of, unit) for of in (fitted, rows))
    k = min(NEIGHBOURS, len(fitted))
    cosine, found = top_k(base, queries, k, base_groups=data.groups[fitted], query_groups=data.groups[rows])
    return [
        (cosines[near >= 0].tolist(), fitted[near[near >= 0]].tolist())
        for cosines, near in zip(cosine, found, strict=True)
    ]


def _of_classes(outcome: Outcome) -> Iterable[Example]:
    """Prototypes and outliers of each class, or of the rows with each label."""
    experiment = outcome.experiment
    truth = hide_absent(experiment.data.truth, experiment.absent)
    member = truth.positive if truth.codes is not None else truth.positive & truth.known
    return typical_of(outcome, member, truth.classes)


def typical_of(outcome: Outcome, member: Bool, names: Sequence[str]) -> Iterable[Example]:
    """Prototypes and outliers of each named set of rows, of the fitted ones; one of a group. `member` (n, sets)."""
    experiment = outcome.experiment
    data, fitted = experiment.data, experiment.fit_rows
    unit = fit_scaler("none", data.vectors, experiment.split.train)
    part = experiment.split.part_of(data.truth.n)
    rng = np.random.Generator(np.random.PCG64(experiment.request.seed))
    for j, name in enumerate(names):
        rows = fitted[member[fitted, j]]
        rows = np.sort(rng.permutation(rows)[:MOST_ROWS])
        if len(np.unique(data.groups[rows])) < 2:
            continue
        x = features(data.vectors, rows, unit)
        ranked = {"prototype": -typicality(x, data.groups[rows]), "outlier": closeness(x, data.groups[rows])}
        for kind, values in ranked.items():
            for at in _one_a_group(np.argsort(values, kind="stable"), data.groups[rows]):
                yield Example(
                    kind, data.keys[rows[at]], data.group_names[data.groups[rows[at]]], name, "", float("nan"),
                    float("nan"), float(abs(values[at]) if kind == "prototype" else values[at]), str(part[rows[at]]),
                )  # fmt: skip


def _one_a_group(order: Int64, groups: Int64) -> list[int]:
    seen: set[int] = set()
    out: list[int] = []
    for at in order.tolist():
        group = int(groups[at])
        if group not in seen:
            seen.add(group)
            out.append(at)
        if len(out) == OF_A_CLASS:
            break
    return out
