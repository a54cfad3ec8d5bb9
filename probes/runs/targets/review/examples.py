"""D40: images to look at where the target is a number or a time: the most wrong beside their nearest fitted images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from indexer.types import Float64, Int64
from probes.cohort.truth import Truth
from probes.evaluation.targets.residuals import deviance_residuals, far_out
from probes.fitting.targets.hazard import baseline_in
from probes.runs.outcome import Outcome
from probes.runs.review.examples import LISTED, nearest_fitted, typical_of
from probes.runs.review.record import Example, Examples, Neighbour

PARTS = 5  # of the fitted rows' numbers, of each of which there are prototypes and outliers
NAMES = ("low", "middle", "high")  # thirds of the risk


@dataclass(frozen=True)
class _Scored:
    """Rows with an out-of-sample prediction: the test rows, then held-out fitted rows."""

    rows: Int64  # (n,) of the table
    predicted: Float64  # (n,)
    residuals: Float64  # (n,) true minus predicted, or deviance residuals
    tested: Int64  # (t,) places of the test rows
    doubt: Float64 | None  # (t,) the test rows' predicted errors


def number_examples(outcome: Outcome, held: Float64, doubt: Float64) -> Examples:
    """`held` (m,): the fit rows' predictions by fits without their groups; `doubt` (t,): the test rows' predicted
    errors.
    """
    experiment = outcome.experiment
    rows = np.concatenate([experiment.split.test, experiment.fit_rows])
    predicted = np.concatenate([outcome.p[:, 0], held])
    numbers = experiment.data.truth.numbers
    assert numbers is not None  # of a numeric target
    tested = np.arange(len(experiment.split.test))
    scored = _Scored(rows, predicted, numbers[rows] - predicted, tested, doubt)
    cuts = np.unique(np.quantile(numbers[experiment.fit_rows], np.arange(1, PARTS) / PARTS))
    names = _ranges(cuts)
    return _examples(outcome, scored, (np.searchsorted(cuts, numbers, "left"), names))


def risk_examples(outcome: Outcome) -> Examples:
    """The test rows, and fitted rows with D11's held-out risks, by deviance residuals of the stored hazard."""
    experiment, trained = outcome.experiment, outcome.trained
    base, truth = baseline_in(trained.model), experiment.data.truth
    rows = np.concatenate([experiment.split.test, trained.held_rows])
    predicted = np.concatenate([outcome.p[:, 0], trained.held_logits[:, 0]])
    assert base is not None  # a fit makes it
    assert truth.numbers is not None  # of times
    assert truth.events is not None
    hazard = base.at(truth.numbers[rows]) * np.exp(predicted)
    residuals = deviance_residuals(truth.events[rows], hazard)
    scored = _Scored(rows, predicted, residuals, np.arange(len(experiment.split.test)), None)
    found = outcome.result.survival
    assert found is not None
    risks = outcome.trained.held_logits[:, 0]
    thirds = np.zeros(truth.n, np.int64)
    thirds[trained.held_rows] = np.searchsorted(np.array(found.bounds), risks, "right")
    return _examples(outcome, scored, (thirds, tuple(f"{name} risk" for name in NAMES)))


def _ranges(cuts: Float64) -> tuple[str, ...]:
    return f"≤ {cuts[0]:.4g}", *(f"{a:.4g} to {b:.4g}" for a, b in pairwise(cuts)), f"> {cuts[-1]:.4g}"


def _examples(outcome: Outcome, scored: _Scored, strata: tuple[Int64, tuple[str, ...]]) -> Examples:
    size = np.abs(scored.residuals)
    suspects = far_out(size)
    listed = [("error", scored.tested[np.argsort(-size[scored.tested], kind="stable")][:LISTED])]
    if scored.doubt is not None:
        listed.append(("doubtful", scored.tested[np.argsort(-scored.doubt, kind="stable")][:LISTED]))
    places = np.flatnonzero(suspects)
    listed.append(("suspect", places[np.argsort(-size[places], kind="stable")][:LISTED]))
    shown = [
        *_shown(outcome, scored, listed),
        *typical_of(outcome, strata[0][:, None] == np.arange(len(strata[1])), strata[1]),
    ]
    return Examples(tuple(shown), len(scored.tested), int(suspects.sum()), len(scored.rows))


def _shown(outcome: Outcome, scored: _Scored, listed: Sequence[tuple[str, Int64]]) -> Iterator[Example]:
    data = outcome.experiment.data
    part = outcome.experiment.split.part_of(data.truth.n)
    places = np.concatenate([at for _, at in listed])
    kinds = [kind for kind, at in listed for _ in at]
    near = nearest_fitted(outcome, scored.rows[places])
    for kind, at, (cosines, found) in zip(kinds, places.tolist(), near, strict=True):
        row = int(scored.rows[at])
        value = scored.residuals[at] if kind != "doubtful" or scored.doubt is None else scored.doubt[at]
        neighbours = tuple(
            Neighbour(data.keys[i], label_of(data.truth, i), cosine) for cosine, i in zip(cosines, found, strict=True)
        )
        yield Example(
            kind, data.keys[row], data.group_names[data.groups[row]], label_of(data.truth, row),
            f"{scored.predicted[at]:.4g}", float("nan"), float("nan"), float(value), str(part[row]), neighbours,
        )  # fmt: skip


def label_of(truth: Truth, row: int) -> str:
    """A number, or what happened when."""
    assert truth.numbers is not None
    if truth.events is None:
        return f"{truth.numbers[row]:.6g}"
    return f"{'event' if truth.events[row] else 'censored'} at {truth.numbers[row]:.6g}"
