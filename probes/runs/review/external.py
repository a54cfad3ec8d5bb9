"""D25, D26: the frozen probe on rows of another site, table or database."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from indexer.errors import BadFilter, EncoderMismatch, InputError, ProbeError
from indexer.store.table import EmbeddingStore
from indexer.types import Float64, Int64, Progress
from probes.cohort.load import ProbeData, load, open_store
from probes.cohort.scaling import features, fit_scaler
from probes.cohort.truth import Truth, hide_absent, lacking, probabilities
from probes.evaluation.bootstrap import Interval
from probes.evaluation.calibration import calibration
from probes.evaluation.certainty.conformal import ConformalSets, measure_frozen, measure_labels
from probes.evaluation.certainty.trust import Place, place_of, quoted
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
from probes.runs.review.useful import place_here, scored_rows
from probes.runs.run import applied_temperature

DROPPED = ("sensitivity", "specificity")  # rates whose drop is given
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
    data, kept, store = external_rows(outcome)
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
    here, there = place_here(outcome), place_of(*scored, np.array([c.auc.value for c in found.classes]))
    fewer = min((at for at in (here, there) if at is not None), key=lambda at: at.groups, default=None)
    return External(
        db=store.uri,
        table=store.name,
        version=store.version,
        where=request.test_where or "",
        flow=data.flow,
        shared_rows=data.truth.n - len(kept),
        audit=external_audit(outcome, data, kept, progress),
        test=found,
        drops={
            name: quoted(drop(value, found.metrics[name]), f"drop_{name}", fewer)
            for name, value in outcome.result.test.metrics.items()
            if name in found.metrics
        },
        operating=operating,
        rate_drops=_rate_drops(outcome.result.operating, operating, fewer),
        calibration=calibration(p, truth),
        recalibration=_recalibrations(columns, scored, there),
        recalibration_here=_recalibrations(columns, scored_rows(outcome), here),
        shift=external_shift(outcome, data, kept),
        conformal=None if sets is None or sets.refused else measure_frozen(*scored, sets, how),
        label_sets=measure_labels(*scored, of_labels, how),
    )


def check_external(request: ProbeRequest) -> None:
    """Raise InputError where the external test cannot be made, before anything is fitted."""
    if request.distinct_groups and request.test_db is None:
        raise InputError("--distinct-groups is of --test-db: in one database equal names are the same patient.")
    if not request.external:
        return
    own, store = open_store(request), _open(request)
    if (store.uri, store.name) == (own.uri, own.name) and request.test_where is None:
        raise InputError(
            f"--test-{'table' if request.test_table else 'db'} names the table itself: nothing external. Name another "
            "one, or use --test-where."
        )
    _check_rows(request, store)


def _open(request: ProbeRequest) -> EmbeddingStore:
    """The external rows' table. Raises StoreError, EncoderMismatch."""
    own = open_store(request)
    if not request.external_elsewhere:
        return own
    store = EmbeddingStore.open(
        request.test_db or request.db, request.test_table or (None if request.test_db else own.name)
    )
    if store.spec.fingerprint != own.spec.fingerprint:
        raise EncoderMismatch(
            stored=f"{store.spec.name} ({store.spec.fingerprint})",
            given=f"{own.spec.name} ({own.spec.fingerprint})",
        )
    return store


def _where(request: ProbeRequest) -> str | None:
    """The filter of the external rows: in the same table --where holds for them too."""
    if request.external_elsewhere or request.where is None or request.test_where is None:
        return request.test_where
    return f"({request.where}) AND ({request.test_where})"


def _check_rows(request: ProbeRequest, store: EmbeddingStore) -> None:
    """Raise ProbeError where no row is external."""
    external, where = request.test_where, _where(request)
    if external is None or where is None:
        return
    try:
        found = store.count(external)
    except BadFilter as err:
        raise BadFilter(str(err).replace("--where", "--test-where", 1)) from err
    if store.count(where):
        return
    if found:
        raise ProbeError(
            f'--test-where "{external}" has no row within --where "{request.where}", which holds for external rows '
            f"too. Leave --where out, since rows of --test-where are never fitted on; or name all rows with it: "
            f'--where "({request.where}) OR ({external})".'
        )
    raise ProbeError(f"no rows in table {store.name} match --test-where {external!r}.")


def external_rows(outcome: Outcome) -> tuple[ProbeData, Int64, EmbeddingStore]:
    """The external rows with a label, and which of them belong to no group of the split."""
    experiment = outcome.experiment
    request, own = experiment.request, experiment.data
    store = _open(request)
    there = replace(
        request,
        db=request.test_db or request.db,
        table=store.name,
        version=store.version,
        where=_where(request),
        test_where=None,
        split="hash",
        subgroups=(),
        confounders=(),
        positive=own.positive.name if own.positive else None,
    )
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
        values = rates_at(point.threshold, (truth.positive[rows, j], p[rows, j], groups[rows]), how)
        out.append(replace(point, rates=values, prevalence=None, ppv_at_prevalence=None))
    return tuple(out)


def _rate_drops(
    here: Sequence[OperatingPoint], there: Sequence[OperatingPoint], at: Place | None
) -> tuple[RateDrop, ...]:
    def falls(a: OperatingPoint, b: OperatingPoint) -> dict[str, Interval]:
        return {name: quoted(drop(a.rates[name], b.rates[name]), f"drop_{name}", at) for name in DROPPED}

    return tuple(RateDrop(a.column, falls(a, b)) for a, b in zip(here, there, strict=True))


def _recalibrations(
    columns: Sequence[str], scored: tuple[Float64, Truth, Int64], at: Place | None
) -> tuple[Recalibration, ...]:
    p, truth, groups = scored
    out = []
    for name in columns:
        j = truth.classes.index(name)
        rows = np.flatnonzero(truth.known[:, j])
        own = recalibration(name, truth.positive[rows, j], p[rows, j], groups[rows])
        out.append(
            replace(
                own,
                intercept=quoted(own.intercept, "calibration_intercept", at),
                slope=quoted(own.slope, "calibration_slope", at),
            )
        )
    return tuple(out)


def external_audit(outcome: Outcome, data: ProbeData, kept: Int64, progress: Progress) -> Audit:
    """D2 of the external rows: an image that the probe was fitted on is not external."""
    experiment = outcome.experiment
    own, rows, tau = experiment.data, experiment.fit_rows, experiment.request.tau
    unit = fit_scaler("none", own.vectors, experiment.split.train)
    cosine, nearest = near_duplicates(
        features(own.vectors, rows, unit), features(data.vectors, kept, unit),
        base_groups=own.groups[rows], query_groups=data.groups[kept] + STRANGER, tau=tau, progress=progress,
    )  # fmt: skip
    return audit(cosine, nearest, data.truth.take(kept), own.truth.take(rows), tau)


def external_shift(outcome: Outcome, data: ProbeData, kept: Int64) -> Shift | None:
    """The vectors of the test rows, which fitted nothing, against the external ones."""
    experiment = outcome.experiment
    own, test = experiment.data, experiment.split.test
    unit = fit_scaler("none", own.vectors, experiment.split.train)
    here = features(own.vectors, test, unit), own.groups[test]
    there = features(data.vectors, kept, unit), data.groups[kept]
    return shift(here, there, experiment.request.seed)
