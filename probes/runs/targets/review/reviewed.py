"""The answers to what reviewers ask next (D25 to D32, D38 to D40) where the target is a number or a time."""

from __future__ import annotations

from dataclasses import replace

from probes.cohort.load import open_store
from probes.evaluation.scoring import Resampling
from probes.evaluation.targets.kept import selective_errors
from probes.fitting.targets.held_out import held_out_numbers
from probes.progress import Stages
from probes.runs.outcome import Outcome
from probes.runs.review.record import Review
from probes.runs.targets.review.certainty import Doubt, doubt_of, expected_errors, ranges_of
from probes.runs.targets.review.confounders import target_confounders
from probes.runs.targets.review.examples import number_examples, risk_examples
from probes.runs.targets.review.external import target_external, tested_here
from probes.runs.targets.review.sensitivity import target_multiverse, target_repeats


def review_target(outcome: Outcome, progress: Stages) -> Review:
    """Each part that the request asks for. Raises IndexerError."""
    request, data = outcome.experiment.request, outcome.experiment.data
    how = Resampling(request.replicates, request.seed)
    review, doubt = Review(), None
    if request.review:
        with progress.stage("certainty and examples"):
            review, doubt = _looked_at(outcome, how)
    if request.confounders:
        progress.name("confounders")  # no stage around theirs: seconds would count twice
        found = target_confounders(outcome, open_store(request), how, progress)
        review = replace(review, confounders=found)
    if request.external:
        progress.name("review")
        with progress.stage("external test"):
            review = replace(review, external=target_external(outcome, (review.ranges, doubt), how, progress))
    if request.repeats:
        progress.name("repeated splits")
        review = replace(review, repeats=target_repeats(request, data, progress))
    if request.multiverse:
        progress.name("multiverse")
        review = replace(review, multiverse=target_multiverse(request, data, progress))
    return review


def _looked_at(outcome: Outcome, how: Resampling) -> tuple[Review, Doubt | None]:
    """Of numbers: ranges, selective prediction and examples; of times: examples."""
    request = outcome.experiment.request
    if request.target == "survival":
        return Review(examples=risk_examples(outcome)), None
    held = held_out_numbers(outcome.experiment, outcome.trained)
    doubt = doubt_of(outcome, held)
    expected, tested = expected_errors(outcome, doubt), tested_here(outcome)
    review = Review(
        ranges=ranges_of(tested, expected, request.coverage, how),
        selective=selective_errors(tested.true - tested.predicted, expected, tested.groups, how),
        examples=number_examples(outcome, held, expected),
    )
    return review, doubt
