"""The warnings of a result, which come before the numbers they qualify."""

from __future__ import annotations

from collections.abc import Sequence

from indexer.types import Int64
from probes.cohort.experiment import Experiment
from probes.cohort.positive import Positive
from probes.evaluation.calibration import at_bound
from probes.evaluation.leakage import Audit
from probes.evaluation.operating import OperatingPoint
from probes.evaluation.scoring import Scored
from probes.evaluation.subgroups import FEWEST
from probes.fitting.sweep import UNCHOSEN
from probes.fitting.trained import Trained
from probes.request import ProbeRequest

UNABLE = {  # why val rows cannot choose, by target
    "classes": "shows one class only",
    "numeric": "has too few groups, or one number only",
    "survival": "has too few events",
}


def warnings_of(experiment: Experiment, trained: Trained, found: Audit | None, scored: Scored) -> tuple[str, ...]:
    """The warnings of a result."""
    source, selection, facts = experiment.data.source, trained.selection, experiment.facts
    flow = experiment.data.flow
    val = facts.parts["val"]
    target = experiment.request.target
    few = [name for name, count in val.classes.items() if count < FEWEST and experiment.val_chooses]
    checks = (
        (experiment.data.level == "image", experiment.facts.statement),
        (source.random_weights, f"{source.encoder} has random weights: the vectors mean nothing"),
        *(
            (bool(names), f"no {part} row of: {', '.join(names)}; metrics not defined")
            for part, names in facts.absent.items()
        ),
        (bool(val.rows) and not experiment.val_chooses, f"val {UNABLE[target]}: train rows choose in its place"),
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
    neighbours = warnings_of_neighbours(experiment.request, (selection.value,))
    return (*(text for holds, text in checks if holds), *neighbours)


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


def warnings_of_neighbours(request: ProbeRequest, used: Sequence[float]) -> tuple[str, ...]:
    """A warning where more neighbours were asked for than rows are fitted; `used` has the k of each fit."""
    if request.probe != "knn" or request.k is None or min(used) >= request.k:
        return ()
    return (f"k = {min(used):.0f} in place of {request.k:,}: no more rows are fitted",)


def _named(classes: list[str], most: int = 4) -> str:
    return ", ".join(classes) if len(classes) <= most else f"{len(classes)} classes"


def _flagged(found: Audit | None) -> str:
    if found is None:
        return ""
    share = f"{found.flagged} of {found.test_rows} test rows"
    rest = "; nothing is left to score without them" if found.flagged == found.test_rows else ""
    return f"{share} have a near-twin (cosine ≥ {found.tau:g}) among the fitted rows{rest}"
