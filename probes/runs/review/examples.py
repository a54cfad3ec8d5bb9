"""D31: images to look at: errors with their nearest fitted images, doubtful and suspect rows, prototypes, outliers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from indexer.types import Float64, Int64
from probes.cohort.scaling import features, fit_scaler
from probes.cohort.truth import Truth, hide_absent, probabilities
from probes.compute.exact_search import top_k
from probes.evaluation.examples.label_errors import confident, normalised_margin
from probes.evaluation.examples.typical import closeness, typicality
from probes.runs.review.record import Example, Examples, Neighbour
from probes.runs.run import Outcome, applied_temperature

LISTED = 100  # most of a kind, of prototypes and outliers of a class fewer
OF_A_CLASS = 5
NEIGHBOURS = 5
MOST_ROWS = 20_000  # of a class, among which prototypes and outliers are sought


def examples(outcome: Outcome) -> Examples | None:
    """The examples of a result; None for labels, which have no one class a row."""
    data = outcome.experiment.data
    if data.truth.codes is None:
        return None
    rows, p = _out_of_sample(outcome)
    codes = data.truth.codes[rows]
    margin = normalised_margin(p, codes)
    tested = np.flatnonzero(np.isin(rows, outcome.experiment.split.test))
    wrong = tested[p[tested].argmax(1) != codes[tested]]
    errors = wrong[np.argsort(margin[wrong], kind="stable")]
    ordered = np.sort(p[tested], axis=1)
    doubt = ordered[:, -1] - ordered[:, -2]
    doubtful = tested[np.argsort(doubt, kind="stable")]
    found = confident(p, codes)
    suspects = found.suspects(codes)
    suspects = suspects[np.argsort(margin[suspects], kind="stable")]
    gap = np.full(len(rows), np.nan)
    gap[tested] = doubt
    listed = (
        *(("error", at, margin) for at in errors[:LISTED].tolist()),
        *(("doubtful", at, gap) for at in doubtful[:LISTED].tolist()),
        *(("suspect", at, margin) for at in suspects[:LISTED].tolist()),
    )
    shown = [*_scored(outcome, (rows, p), listed), *_of_classes(outcome)]
    return Examples(tuple(shown), len(errors), len(suspects), len(rows))


def _out_of_sample(outcome: Outcome) -> tuple[Int64, Float64]:
    """Test rows and held-out fitted rows with probabilities by probes that were not fitted on their group."""
    experiment, trained = outcome.experiment, outcome.trained
    temperature = applied_temperature(experiment.request, outcome.result.temperature)
    held = probabilities(trained.held_logits, truth_is_multilabel=False, temperature=temperature)
    return np.concatenate([experiment.split.test, trained.held_rows]), np.concatenate([outcome.p, held])


def _scored(
    outcome: Outcome, scored: tuple[Int64, Float64], listed: Sequence[tuple[str, int, Float64]]
) -> Iterable[Example]:
    """Examples of the scored rows (rows, p), with fitted neighbours from one search. `listed`: kind, place among the
    scored rows, and what the kind is ranked by.
    """
    rows, p = scored
    data = outcome.experiment.data
    near = _nearest(outcome, rows[[at for _, at, _ in listed]])
    part = outcome.experiment.split.part_of(data.truth.n)
    for (kind, at, ranked), neighbours in zip(listed, near, strict=True):
        row, called = int(rows[at]), int(p[at].argmax())
        label = _code(data.truth, row)
        yield Example(
            kind, data.keys[row], data.group_names[data.groups[row]], data.truth.classes[label],
            data.truth.classes[called], float(p[at, label]), float(p[at, called]), float(ranked[at]),
            str(part[row]), neighbours,
        )  # fmt: skip


def _nearest(outcome: Outcome, rows: Int64) -> list[tuple[Neighbour, ...]]:
    """The nearest fitted images of each row, without those of its own group."""
    experiment = outcome.experiment
    data, fitted = experiment.data, experiment.fit_rows
    if not len(rows):
        return []
    unit = fit_scaler("none", data.vectors, experiment.split.train)
    base, queries = (features(data.vectors, of, unit) for of in (fitted, rows))
    k = min(NEIGHBOURS, len(fitted))
    cosine, found = top_k(base, queries, k, base_groups=data.groups[fitted], query_groups=data.groups[rows])
    return [
        tuple(
            Neighbour(data.keys[fitted[j]], data.truth.classes[_code(data.truth, int(fitted[j]))], float(c))
            for c, j in zip(cosines, near, strict=True)
            if j >= 0
        )
        for cosines, near in zip(cosine, found, strict=True)
    ]


def _of_classes(outcome: Outcome) -> Iterable[Example]:
    """Prototypes and outliers of each class among the fitted rows, at most one of a group."""
    experiment = outcome.experiment
    data, fitted = experiment.data, experiment.fit_rows
    truth = hide_absent(data.truth, experiment.absent)
    assert truth.codes is not None
    unit = fit_scaler("none", data.vectors, experiment.split.train)
    part = experiment.split.part_of(data.truth.n)
    rng = np.random.Generator(np.random.PCG64(experiment.request.seed))
    for j, name in enumerate(truth.classes):
        rows = fitted[truth.codes[fitted] == j]
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


def _code(truth: Truth, row: int) -> int:
    assert truth.codes is not None
    return int(truth.codes[row])
