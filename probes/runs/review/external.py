"""D25, D26: the frozen probe on rows of another site, table or database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from indexer.errors import EncoderMismatch, InputError, ProbeError
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64, Progress
from probes.cohort.load import ProbeData, load
from probes.cohort.scaling import features, fit_scaler
from probes.cohort.truth import Truth, hide_absent, lacking, probabilities
from probes.evaluation.calibration import calibration
from probes.evaluation.certainty.conformal import ConformalSets, measure_frozen, measure_labels
from probes.evaluation.external.drop import drop
from probes.evaluation.external.recalibration import Recalibration, recalibration
from probes.evaluation.external.shift import Shift, shift
from probes.evaluation.leakage import Audit, audit, near_duplicates
from probes.evaluation.operating import OperatingPoint
from probes.evaluation.operating_points import rates_at
from probes.evaluation.scoring import Resampling, score
from probes.fitting.train import logits_of
from probes.request import ProbeRequest
from probes.runs.outcome import Outcome
from probes.runs.review.record import External, RateDrop
from probes.runs.review.useful import scored_rows
from probes.runs.run import applied_temperature

STRANGER = 1 << 40  # added to the group ids of external rows: none is a group of the split


def external(
    outcome: Outcome,
    conformal: tuple[ConformalSets | None, tuple[ConformalSets, ...]],
    how: Resampling,
    progress: Progress,
) -> External:
    """Weights, temperature and thresholds stay as they are, and so do the bounds of the sets (of classes, of labels).

    Raises ProbeError, EncoderMismatch.
    """
    sets, of_labels = conformal
    experiment = outcome.experiment
    request = experiment.request
    data, kept, store = _rows(outcome)
    scaler, model = outcome.trained.scaler, outcome.trained.model
    logits = logits_of(model, data.vectors, kept, scaler)
    temperature = applied_temperature(request, outcome.result.temperature)
    truth = data.truth.take(kept)
    truth = hide_absent(truth, tuple({*experiment.facts.absent["train"], *lacking(truth)}))
    p = probabilities(logits, truth.multilabel, temperature)
    scored = p, truth, data.groups[kept]
    found, _ = score(*scored, how)
    operating = _operating(outcome.result.operating, scored, how)
    columns = [o.column for o in operating]
    return External(
        db=store.uri,
        table=store.name,
        version=store.version,
        where=request.test_where or "",
        flow=data.flow,
        shared_rows=data.truth.n - len(kept),
        audit=_audit(outcome, data, kept, progress),
        test=found,
        drops={
            name: drop(value, found.metrics[name])
            for name, value in outcome.result.test.metrics.items()
            if name in found.metrics
        },
        operating=operating,
        rate_drops=_rate_drops(outcome.result.operating, operating),
        calibration=calibration(p, truth),
        recalibration=_recalibrations(columns, scored),
        recalibration_here=_recalibrations(columns, scored_rows(outcome)),
        shift=_shift(outcome, data, kept),
        conformal=None if sets is None or sets.refused else measure_frozen(*scored, sets, how),
        label_sets=measure_labels(*scored, of_labels, how),
    )


def check_external(request: ProbeRequest) -> None:
    """Raise InputError where the external test cannot be made, before anything is fitted."""
    if request.distinct_groups and request.test_db is None:
        raise InputError("--distinct-groups is of --test-db: in one database equal names are the same patient.")
    same = request.test_db is None and request.test_table is not None and request.test_table == request.table
    if same and request.test_where is None:
        raise InputError("--test-table is the table itself: nothing external. Name another one, or use --test-where.")


def _rows(outcome: Outcome) -> tuple[ProbeData, Int64, EmbeddingStore]:
    """The external rows with a label, and which of them belong to no group of the split."""
    experiment = outcome.experiment
    request, own = experiment.request, experiment.data
    there = replace(
        request,
        db=request.test_db or request.db,
        table=request.test_table or (None if request.test_db else own.source.table),
        version=None if request.external_elsewhere else request.version,
        where=request.test_where,
        test_where=None,
        split="hash",
        subgroups=(),
        confounders=(),
        positive=own.positive.name if own.positive else None,
    )
    store = EmbeddingStore.open(there.db, there.table)
    if there.version is not None:
        store = store.at(there.version)
    if store.spec.fingerprint != own.source.fingerprint:
        raise EncoderMismatch(
            stored=f"{store.spec.name} ({store.spec.fingerprint})",
            given=f"{own.source.encoder} ({own.source.fingerprint})",
        )
    if request.test_where is not None and not request.external_elsewhere and request.where is not None:
        there = replace(there, where=f"({request.where}) AND ({request.test_where})")
    data = load(store, there, own.truth.classes)
    if not _may_share(request) or request.group == "none":
        return data, np.arange(data.truth.n), store
    seen = set(own.group_names)
    strange = np.array([name not in seen for name in data.group_names])
    kept = np.flatnonzero(strange[data.groups])
    if not len(kept):
        raise ProbeError(
            f"every external row is of a {request.group} that the split has too: nothing is external. Name other rows "
            "with --test-where, or say --distinct-groups where equal names are different patients."
        )
    return data, kept, store


def _may_share(request: ProbeRequest) -> bool:
    """Whether an equal group name means the same patient."""
    same_db = request.test_db is None or Path(request.test_db).absolute() == Path(request.db).absolute()
    return same_db or not request.distinct_groups


def _operating(
    points: Sequence[OperatingPoint], scored: tuple[Float64, Truth, Int64], how: Resampling
) -> tuple[OperatingPoint, ...]:
    """The rates there at the thresholds that were chosen here; their validation rates are those of here."""
    p, truth, groups = scored
    out = []
    for point in points:
        j = truth.classes.index(point.column)
        rows = np.flatnonzero(truth.known[:, j]) if point.threshold == point.threshold else np.empty(0, np.int64)
        values, _ = rates_at(point.threshold, (truth.positive[rows, j], p[rows, j], groups[rows]), how)
        out.append(replace(point, rates=values, prevalence=None, ppv_at_prevalence=None))
    return tuple(out)


def _rate_drops(here: Sequence[OperatingPoint], there: Sequence[OperatingPoint]) -> tuple[RateDrop, ...]:
    return tuple(
        RateDrop(a.column, {name: drop(a.rates[name], b.rates[name]) for name in ("sensitivity", "specificity")})
        for a, b in zip(here, there, strict=True)
    )


def _recalibrations(columns: Sequence[str], scored: tuple[Float64, Truth, Int64]) -> tuple[Recalibration, ...]:
    p, truth, groups = scored
    out = []
    for name in columns:
        j = truth.classes.index(name)
        rows = np.flatnonzero(truth.known[:, j])
        out.append(recalibration(name, truth.positive[rows, j], p[rows, j], groups[rows]))
    return tuple(out)


def _audit(outcome: Outcome, data: ProbeData, kept: Int64, progress: Progress) -> Audit:
    """D2 of the external rows: an image that the probe was fitted on is not external."""
    experiment = outcome.experiment
    own, rows, tau = experiment.data, experiment.fit_rows, experiment.request.tau
    unit = fit_scaler("none", own.vectors, experiment.split.train)
    cosine, nearest = near_duplicates(
        features(own.vectors, rows, unit), features(data.vectors, kept, unit),
        base_groups=own.groups[rows], query_groups=data.groups[kept] + STRANGER, tau=tau, progress=progress,
    )  # fmt: skip
    return audit(cosine, nearest, data.truth.take(kept), own.truth.take(rows), tau)


def _shift(outcome: Outcome, data: ProbeData, kept: Int64) -> Shift | None:
    """The vectors of the test rows, which fitted nothing, against the external ones."""
    experiment = outcome.experiment
    own, test = experiment.data, experiment.split.test
    unit = fit_scaler("none", own.vectors, experiment.split.train)
    here = features(own.vectors, test, unit), own.groups[test]
    there = features(data.vectors, kept, unit), data.groups[kept]
    return shift(here, there, experiment.request.seed)
