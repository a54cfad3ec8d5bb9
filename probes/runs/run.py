"""Runs one probe from request to result: load, split, audit, fit, score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from indexer.errors import ProbeError
from indexer.malloc import release_freed_memory
from indexer.store.table import EmbeddingStore
from indexer.store.text import read_text
from indexer.types import Float32, Float64, Int64
from probes.cohort.experiment import Experiment, prepare
from probes.cohort.load import ProbeData, load, open_store
from probes.cohort.positive import Positive
from probes.cohort.scaling import features, fit_scaler
from probes.cohort.truth import Truth, hide_absent, probabilities
from probes.evaluation.calibration import Calibration, at_bound, calibration, fit_temperature
from probes.evaluation.leakage import Audit, audit, near_duplicates
from probes.evaluation.metrics import confusion
from probes.evaluation.operating import OperatingPoint
from probes.evaluation.operating_points import global_threshold, operating_points
from probes.evaluation.scoring import Resampling, Scored, baselines, by_group, control_range, curves, score
from probes.evaluation.subgroups import FEWEST, gaps, subgroup_results
from probes.fitting.few_shot import few_shot
from probes.fitting.sweep import UNCHOSEN
from probes.fitting.train import train
from probes.fitting.trained import Trained
from probes.progress import Stages
from probes.request import ProbeRequest
from probes.runs.result import FORMAT, ProbeResult

PACKAGES = ("embedding-indexer", "numpy", "scipy", "scikit-learn", "pyarrow", "pylance")


@dataclass(frozen=True)
class Outcome:
    """A result and its intermediate data, from which a bundle is made."""

    result: ProbeResult
    experiment: Experiment
    trained: Trained
    p: Float64  # (test rows, c) after the temperature


def run(request: ProbeRequest, progress: Stages | None = None) -> Outcome:
    """Run a request. Raises IndexerError; an undefined metric is NaN and listed."""
    progress = progress or Stages(shown=False)
    if request.split_is_folds:
        raise ProbeError("folds have no one test split: it is run by probes.runs.nested.")
    store = open_store(request)
    with progress.stage("reading"):
        data = read(store, request)
        experiment = prepare(request, data)
    release_freed_memory()
    outcome = run_prepared(experiment, store, progress)
    if not request.few_shot:
        return outcome
    with progress.stage("label efficiency"):
        curve = few_shot(experiment, outcome.result.selection.value, progress)
    return replace(outcome, result=replace(outcome.result, few_shot=curve))


def read(store: EmbeddingStore, request: ProbeRequest) -> ProbeData:
    """Load the rows; for zero-shot the classes are those of the stored text vectors. Raises ProbeError."""
    if request.probe == "zero-shot" and request.multilabel:
        raise ProbeError("zero-shot takes one class a row. Name one 0/1 column, with texts for its classes 0 and 1.")
    classes = read_text(store, request.task or "").classes if request.probe == "zero-shot" else None
    return load(store, request, classes)


def run_prepared(experiment: Experiment, store: EmbeddingStore, progress: Stages) -> Outcome:
    """Audit, fit and score an experiment whose rows are split."""
    near, found = None, None
    if experiment.request.probe != "zero-shot":
        with progress.stage("near-duplicate audit", len(experiment.split.test)):
            near, found = audit_split(experiment, progress)
    trained = train(experiment, store, progress)
    with progress.stage("intervals"):
        return _assemble(experiment, trained, (near, found), progress)


def audit_split(experiment: Experiment, progress: Stages) -> tuple[Float32, Audit]:
    """D2: highest cosine of each test row to a fitted row of another group, and the counts."""
    data, rows, test = experiment.data, experiment.fit_rows, experiment.split.test
    unit = fit_scaler("none", data.vectors, experiment.split.train)
    cosine, nearest = near_duplicates(
        features(data.vectors, rows, unit), features(data.vectors, test, unit),
        base_groups=data.groups[rows], query_groups=data.groups[test],
        tau=experiment.request.tau, progress=progress,
    )  # fmt: skip
    return cosine, audit(cosine, nearest, data.truth.take(test), data.truth.take(rows), experiment.request.tau)


def _assemble(
    experiment: Experiment, trained: Trained, near: tuple[Float32 | None, Audit | None], progress: Stages
) -> Outcome:
    request, data, test = experiment.request, experiment.data, experiment.split.test
    how = Resampling(request.replicates, request.seed)
    inner = hide_absent(data.truth.take(trained.held_rows), experiment.facts.absent["train"])
    temperature = fit_temperature(trained.held_logits, inner)
    inner_p, p = (
        probabilities(logits, inner.multilabel, applied_temperature(request, temperature))
        for logits in (trained.held_logits, trained.test_logits)
    )
    truth = hide_absent(data.truth.take(test), experiment.absent)
    scored = p, truth, data.groups[test]
    found, _ = score(*scored, how)
    matrix = confusion(p, truth)
    operating = operating_points((inner_p, inner), scored, request, how)
    threshold = global_threshold(operating, truth)
    values = {name: [column[i] for i in test] for name, column in data.subgroups.items()}
    sub = tuple(r for name, own in values.items() for r in subgroup_results(name, own, scored, threshold, how))
    result = ProbeResult(
        format=FORMAT,
        request=request,
        source=data.source,
        flow=data.flow,
        split=experiment.facts,
        audit=near[1],
        selection=trained.selection,
        converged=trained.converged,
        baselines=baselines(data.truth.take(experiment.fit_rows), truth, request.seed),
        test=found,
        positive=data.positive,
        without_duplicates=_without(near[0], request.tau, scored, how),
        patients=_patients(experiment, scored, how),
        confusion=tuple(map(tuple, matrix.tolist())),
        curves=curves(p, truth),
        calibration=_calibrations(trained, truth, temperature),
        temperature=temperature,
        operating=operating,
        subgroups=sub,
        gaps=gaps(sub, values, scored, threshold, how),
        neighbours=trained.neighbours,
        shuffled_auc=control_range(trained.control_aucs),
        warnings=(
            *warnings_of(experiment, trained, near[1], found),
            *warnings_of_calls(matrix, truth.classes),
            *warnings_of_temperature(temperature),
            *warnings_of_positive(data.positive, truth.classes),
            *warnings_of_operating(operating),
        ),
        packages=package_versions(),
        seconds=progress.seconds,
    )
    return Outcome(result, experiment, trained, p)


def applied_temperature(request: ProbeRequest, fitted: float) -> float:
    """D14: zero-shot uses the checkpoint's own scale; the fitted temperature is reported but not applied."""
    return 1.0 if request.probe == "zero-shot" else fitted


def _calibrations(trained: Trained, truth: Truth, temperature: float) -> dict[str, Calibration]:
    """D8: calibration errors before and after the temperature."""
    named = {"before": 1.0, "after": temperature}
    return {
        name: calibration(probabilities(trained.test_logits, truth.multilabel, t), truth) for name, t in named.items()
    }


def _without(
    cosine: Float32 | None, tau: float, scored: tuple[Float64, Truth, Int64], how: Resampling
) -> Scored | None:
    """Every metric without the test rows that have a near-duplicate; None where there are none."""
    if cosine is None or not (cosine >= tau).any():
        return None
    p, truth, groups = scored
    rows = np.flatnonzero(~(cosine >= tau))
    if not len(rows):
        return None
    return score(p[rows], truth.take(rows), groups[rows], how)[0]


def _patients(experiment: Experiment, scored: tuple[Float64, Truth, Int64], how: Resampling) -> Scored | None:
    """D15: metrics by group; None where each group has one row, since they would be equal."""
    p, truth, groups = scored
    if experiment.data.level == "image" or len(np.unique(groups)) == truth.n:
        return None
    pooled, pooled_truth, mixed = by_group(p, truth, groups, experiment.request.pooling)
    if not pooled_truth.n:
        return None
    result, _ = score(pooled, pooled_truth, np.arange(len(pooled)), how)
    notes: tuple[str, ...] = (f"pooled by {experiment.request.pooling}",)
    if mixed:
        notes += (f"{mixed} groups left out: their rows are of several classes",)
    return Scored(result.rows, result.groups, result.metrics, result.classes, result.excluded, notes + result.notes)


def warnings_of(experiment: Experiment, trained: Trained, found: Audit | None, scored: Scored) -> tuple[str, ...]:
    """The warnings of a result."""
    source, selection, facts = experiment.data.source, trained.selection, experiment.facts
    flow = experiment.data.flow
    val = facts.parts["val"]
    few = [name for name, count in val.classes.items() if count < FEWEST and experiment.val_chooses]
    checks = (
        (experiment.data.level == "image", experiment.facts.statement),
        (source.random_weights, f"{source.encoder} has random weights: the vectors mean nothing"),
        *(
            (bool(names), f"no {part} row of: {', '.join(names)}; metrics not defined")
            for part, names in facts.absent.items()
        ),
        (bool(val.rows) and not experiment.val_chooses, "val shows one class only: train rows choose in its place"),
        (bool(few), f"val has fewer than {FEWEST} rows of {_named(few)}: what was chosen on it is unsure"),
        (flow.duplicates > 0, f"{flow.duplicates} fitted rows left out: their image bytes occur in a later split"),
        (found is not None and found.flagged > 0, _flagged(found)),
        (
            selection.inner == UNCHOSEN,
            f"nothing could choose {selection.parameter}: no inner rows show both classes; "
            f"{selection.parameter} = {selection.value:g} is the default",
        ),
        (selection.at_edge, f"the best {selection.parameter} is at the edge of the search"),
        (not trained.converged, "the final fit did not reach its tolerance"),
        (any(not i.reliable for i in scored.metrics.values()), "an interval is unreliable: see the notes"),
    )
    return tuple(text for holds, text in checks if holds)


def warnings_of_calls(matrix: Int64, classes: tuple[str, ...]) -> tuple[str, ...]:
    """A warning, from a confusion matrix (true, predicted), about classes that the probe never predicts."""
    called = [name for name, count in zip(classes, matrix.sum(0), strict=True) if count] if matrix.size else []
    shown = [name for name, count in zip(classes, matrix.sum(1), strict=True) if count] if matrix.size else []
    if len(called) >= len(shown):
        return ()
    if len(called) == 1:
        return (f"the probe calls every test row {called[0]!r}",)
    never = [name for name in shown if name not in called]
    return (f"the probe calls no test row {_named(never)}, though the test split has such rows",)


def warnings_of_positive(positive: Positive | None, classes: tuple[str, ...]) -> tuple[str, ...]:
    """A warning where the positive class was chosen by the order of the names only."""
    if positive is None or positive.reason != "order":
        return ()
    other = next(name for name in classes if name != positive.name)
    words = f"{positive.name!r} is taken as the positive class, {other!r} as its absence, as the last by name"
    return (f"{words}: name the right one with --positive",)


def warnings_of_operating(points: tuple[OperatingPoint, ...]) -> tuple[str, ...]:
    """Warnings about operating points whose target specificity lies above the interval on the test rows."""
    out = []
    for point in points:
        found = point.rates["specificity"]
        if found.high < point.target_specificity:
            out.append(
                f"the operating point of {point.column} misses its specificity: {found.value:.3f} ({found.low:.3f} to "
                f"{found.high:.3f}) on the test rows, {point.target_specificity:g} asked for"
            )
    return tuple(out)


def warnings_of_temperature(temperature: float) -> tuple[str, ...]:
    """A warning where D8's temperature is at a bound of its search."""
    if not at_bound(temperature):
        return ()
    return (f"the temperature is at the bound of its search ({temperature:.3g}): it calibrates nothing",)


def _named(classes: list[str], most: int = 4) -> str:
    return ", ".join(classes) if len(classes) <= most else f"{len(classes)} classes"


def _flagged(found: Audit | None) -> str:
    if found is None:
        return ""
    share = f"{found.flagged} of {found.test_rows} test rows"
    rest = "; nothing is left to score without them" if found.flagged == found.test_rows else ""
    return f"{share} have a near-twin (cosine ≥ {found.tau:g}) among the fitted rows{rest}"


def package_versions() -> dict[str, str]:
    out = {}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:  # not installed: run from a source tree
            out[name] = "not installed"
    return out
