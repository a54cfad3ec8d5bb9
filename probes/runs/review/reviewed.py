"""A run with the answers to what reviewers ask next (D25 to D32), where a request names any."""

from __future__ import annotations

from dataclasses import replace

from indexer.errors import InputError
from probes.cohort.load import open_store
from probes.evaluation.scoring import Resampling
from probes.progress import Stages
from probes.request import ProbeRequest
from probes.runs.outcome import Outcome
from probes.runs.review.confounders import confounders
from probes.runs.review.examples import examples
from probes.runs.review.external import check_external, external
from probes.runs.review.record import Review
from probes.runs.review.repeats import check_repeats, multiverse, repeats
from probes.runs.review.useful import with_usefulness
from probes.runs.run import run
from probes.runs.targets.review.reviewed import review_target


def run_reviewed(request: ProbeRequest, progress: Stages | None = None) -> Outcome:
    """`run`, then each part that the request asks for. Raises IndexerError."""
    check_review(request)
    progress = progress or Stages(shown=False)
    outcome = run(request, progress)
    if not request.reviewed:
        return outcome
    review = _review(outcome, progress)
    warnings = (*outcome.result.warnings, *_warnings(outcome, review))
    return replace(outcome, result=replace(outcome.result, review=review, warnings=warnings))


def check_review(request: ProbeRequest) -> None:
    """Raise InputError, before the run, for parts that this probe or split cannot have."""
    if request.split_is_folds and request.reviewed:
        raise InputError(
            "--review, --confounder, --test-db, --test-where, --repeats and --multiverse need one test split: use "
            "hash, stratified or a column."
        )
    check_external(request)
    check_repeats(request)


def _review(outcome: Outcome, progress: Stages) -> Review:
    request = outcome.experiment.request
    if request.target != "classes":
        return review_target(outcome, progress)
    how = Resampling(request.replicates, request.seed)
    store = open_store(request)
    review = Review()
    if request.review:
        with progress.stage("usefulness and certainty"):
            review = with_usefulness(review, outcome, how)
        with progress.stage("examples"):
            review = replace(review, examples=examples(outcome))
    if request.confounders:
        progress.name("confounders")  # no stage around theirs: seconds would count twice
        review = replace(review, confounders=confounders(outcome, store, how, progress))
    if request.external:
        progress.name("review")
        with progress.stage("external test"):
            review = replace(review, external=external(outcome, (review.conformal, review.label_sets), how, progress))
    data = outcome.experiment.data
    if request.repeats:
        progress.name("repeated splits")
        review = replace(review, repeats=repeats(request, data, store, progress))
    if request.multiverse:
        progress.name("multiverse")
        review = replace(review, multiverse=multiverse(request, data, store, progress))
    return review


def _warnings(outcome: Outcome, review: Review) -> tuple[str, ...]:
    out = []
    found = review.external
    if found is not None and found.audit.flagged:
        out.append(
            f"{found.audit.flagged} of {found.audit.test_rows} external rows have a near-twin (cosine ≥ "
            f"{found.audit.tau:g}) among the fitted rows: are they external?"
        )
    if found is not None:
        classes, here, there = outcome.experiment.data.truth.classes, outcome.result.test.excluded, found.test.excluded
        only = [name for name in classes if (name in here) != (name in there)]
        if only and set(here) | set(there) != set(classes):  # of which both have a mean
            out.append(
                f"the macro metrics here and of the external rows are of different classes: {', '.join(only)} can be "
                "scored in one of the two alone, so that their drops compare unlike means"
            )
    if found is not None and found.shared_rows:
        out.append(f"{found.shared_rows} external rows left out: the split has rows of their group")
    return tuple(out)
