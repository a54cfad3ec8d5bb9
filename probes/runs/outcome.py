"""What a run of any probe gives, and the parts of it that do not depend on what is predicted."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from indexer.types import Float32, Float64
from probes.cohort.experiment import Experiment
from probes.cohort.scaling import features, fit_scaler
from probes.evaluation.leakage import Audit, audit, near_duplicates
from probes.evaluation.scoring import Scored
from probes.fitting.trained import Trained
from probes.progress import Stages
from probes.runs.cautions import warnings_of
from probes.runs.result import FORMAT, ProbeResult

PACKAGES = ("embedding-indexer", "numpy", "scipy", "scikit-learn", "pyarrow", "pylance")


@dataclass(frozen=True)
class Outcome:
    """A result and its intermediate data, from which a bundle is made."""

    result: ProbeResult
    experiment: Experiment
    trained: Trained
    p: Float64  # (test rows, c) after the temperature


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


def result_of(
    experiment: Experiment, trained: Trained, found: Audit | None, scored: Scored, progress: Stages
) -> ProbeResult:
    """The result of a probe with one test split, as far as it is alike for every target; the rest is at its default."""
    return ProbeResult(
        format=FORMAT,
        request=experiment.request,
        source=experiment.data.source,
        flow=experiment.data.flow,
        split=experiment.facts,
        audit=found,
        selection=trained.selection,
        converged=trained.converged,
        baselines={},
        test=scored,
        warnings=warnings_of(experiment, trained, found, scored),
        packages=package_versions(),
        seconds=progress.seconds,
    )


def package_versions() -> dict[str, str]:
    out = {}
    for name in PACKAGES:
        try:
            out[name] = version(name)
        except PackageNotFoundError:  # not installed: run from a source tree
            out[name] = "not installed"
    return out
