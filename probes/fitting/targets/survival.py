"""D37: fits a survival probe on an experiment's fit rows: principal components of the vectors, then Cox's model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from indexer.errors import ProbeError
from indexer.types import Bool, Float64, Int64, Progress
from probes.cohort.experiment import Experiment
from probes.cohort.scaling import BLOCK, ScaledRows, fit_scaler
from probes.cohort.splits import FOLDS, grouped_folds
from probes.cohort.truth import Truth
from probes.evaluation.targets.concordance import horizon_of
from probes.fitting.models import Model
from probes.fitting.sweep import ALIKE, Candidate, Selection, fixed
from probes.fitting.targets.cox import fit_cox, log_likelihood, risk_sets
from probes.fitting.targets.hazard import HAZARD, TIMES, baseline_of
from probes.fitting.train import logits_of
from probes.fitting.trained import Trained

PENALTIES: Float64 = 10.0 ** np.arange(-4, 4.01, 0.5)
COMPONENTS = 50  # most
FEWEST_EVENTS = 10  # to fit on


@dataclass(frozen=True)
class Components:
    """Centre (dim,) and leading principal directions (dim, q), divided by the SD along the first, and their share of
    the variance.
    """

    centre: Float64
    directions: Float64
    share: float

    def of(self, x: Float64) -> Float64:
        return (x - self.centre) @ self.directions


def components_of(x: ScaledRows, most: int) -> Components:
    """At most `most` components of the rows x (n, dim), from whichever of XᵀX and XXᵀ is smaller."""
    from scipy.linalg import eigh

    n, dim = x.shape
    centre = np.zeros(dim)
    for start in range(0, n, BLOCK):
        centre += x[start : start + BLOCK].sum(0) / n
    few = n <= dim
    if few:
        centred = x.whole() - centre
        gram = centred @ centred.T
    else:
        gram = np.zeros((dim, dim))
        for start in range(0, n, BLOCK):
            block = x[start : start + BLOCK] - centre
            gram += block.T @ block
    count = min(most, len(gram))
    values, vectors = eigh(gram, subset_by_index=(len(gram) - count, len(gram) - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > max(values[0], 0) * 1e-10
    values, vectors = values[kept], vectors[:, kept]
    if not len(values):
        raise ProbeError("the vectors to fit on do not vary: nothing can be learnt. Choose another split or --where.")
    if few:
        vectors = centred.T @ (vectors / np.sqrt(values))
    return Components(centre, vectors / np.sqrt(values[0] / n), float(values.sum() / np.trace(gram)))


def train_survival(experiment: Experiment, progress: Progress) -> tuple[Trained, Components]:
    """The penalty of the highest cross-validated partial likelihood, then the fit on train and val.

    `held_logits` are risks of fitted rows by fits without their groups. Raises ProbeError with too few events.
    """
    request, data, split = experiment.request, experiment.data, experiment.split
    rows = experiment.fit_rows
    truth = data.truth.take(rows)
    times, events = _of(truth)
    if events.sum() < FEWEST_EVENTS:
        raise ProbeError(
            f"the rows to fit on have {int(events.sum())} events, a survival probe takes {FEWEST_EVENTS}. "
            "Choose another split or --where, or take in more rows."
        )
    scaler = fit_scaler(request.scaling, data.vectors, split.train)
    x = ScaledRows(data.vectors, rows, scaler)
    with progress.stage("choosing lambda"):
        selection = _choose(x, truth, experiment) if request.penalty is None else fixed("lambda", request.penalty)
    with progress.stage("held-out risks"):
        folds = grouped_folds(
            truth.strata(), data.groups[rows], request.seed, min(FOLDS, len(np.unique(data.groups[rows])))
        )
        held = [(at, _risks(x, truth, fit, at, selection.value)) for fit, at in folds if events[fit].any()]
    with progress.stage("final fit"):
        found = components_of(x, COMPONENTS)
        inside = found.of(x.whole())
        solved = fit_cox(inside, risk_sets(times, events), selection.value)
        weights = found.directions @ solved.beta
        base = baseline_of(inside @ solved.beta, times, events)
        arrays = {"W": weights[None], "b": np.array([-float(found.centre @ weights)]),
                  TIMES: base.times, HAZARD: base.hazard}  # fmt: skip
        model = Model("linear", arrays, {"horizon": horizon_of(times)})
        risks = logits_of(model, data.vectors, split.test, scaler)
    held_rows = rows[np.concatenate([at for at, _ in held])]
    held_risks = np.concatenate([risk for _, risk in held])[:, None]
    return Trained(model, scaler, selection, solved.converged, held_rows, held_risks, risks), found


def _of(truth: Truth) -> tuple[Float64, Bool]:
    assert truth.numbers is not None  # of a request whose target is survival
    assert truth.events is not None
    return truth.numbers, truth.events


def _choose(x: ScaledRows, truth: Truth, experiment: Experiment) -> Selection:
    """D37's criterion over D5's inner folds, as a loss an event; ties (ALIKE) → the larger penalty."""
    folds = [fold for fold in experiment.inner_folds() if truth.take(fold[0]).events.any()]  # type: ignore[union-attr]
    losses = np.sum([_losses(x, truth, fit, held) for fit, held in folds], axis=0)
    counted = sum(int(_of(truth.take(held))[1].sum()) for _, held in folds)
    losses = losses / max(counted, 1)
    best = np.flatnonzero(losses <= losses.min() + ALIKE * abs(losses.min()))
    at = int(best[-1])
    candidates = tuple(
        Candidate(float(v), float("nan"), error=float(e)) for v, e in zip(PENALTIES, losses, strict=True)
    )
    inner = "val split" if experiment.val_chooses else f"{FOLDS} grouped folds of train"
    return Selection("lambda", float(PENALTIES[at]), inner, at in (0, len(PENALTIES) - 1), candidates)


def _losses(x: ScaledRows, truth: Truth, fit: Int64, held: Int64) -> Float64:
    """(penalties,) ℓ of the fit rows minus ℓ of the fit and held-out rows, at the β of the fit rows (Verweij 1993)."""
    found = components_of(x.take(fit), COMPONENTS)
    inside = found.of(x.take(fit).whole())
    both = np.concatenate([fit, held])
    outside = np.concatenate([inside, found.of(x.take(held).whole())])
    own, all_sets = (risk_sets(*_of(truth.take(rows))) for rows in (fit, both))
    losses, beta = [], None
    for penalty in PENALTIES[::-1]:
        beta = fit_cox(inside, own, penalty, beta).beta
        losses.append(log_likelihood(own, inside @ beta) - log_likelihood(all_sets, outside @ beta))
    return np.array(losses[::-1])


def _risks(x: ScaledRows, truth: Truth, fit: Int64, held: Int64, penalty: float) -> Float64:
    """(m,) risks of held-out rows by a fit on the others."""
    found = components_of(x.take(fit), COMPONENTS)
    solved = fit_cox(found.of(x.take(fit).whole()), risk_sets(*_of(truth.take(fit))), penalty)
    return found.of(x.take(held).whole()) @ solved.beta


def thirds_of(risks: Sequence[float] | Float64) -> tuple[float, float]:
    """The bounds of the lower and the upper third."""
    low, high = np.quantile(risks, (1 / 3, 2 / 3))
    return float(low), float(high)
