"""Splits the rows of a request and checks the split, before anything is fitted (D0, D1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from indexer.types import Int64
from probes.cohort.load import ProbeData
from probes.cohort.splits import (
    PARTS,
    Split,
    check_groups,
    column_split,
    grouped_folds,
    hash_split,
    split_sha256,
    stratified_split,
    without_duplicates,
)
from probes.cohort.targets import ranks_targets
from probes.cohort.truth import Truth, hide_absent, lacking
from probes.request import IMAGE, ProbeRequest

SHUFFLES = 20  # of the shuffled-label control: a single one varies widely where rows of a patient are alike
IMAGE_LEVEL = "image-level split: results may be inflated"


@dataclass(frozen=True)
class PartFacts:
    """One part of the split."""

    rows: int
    groups: int
    classes: dict[str, int]  # positives of each column


@dataclass(frozen=True)
class SplitFacts:
    """How rows were split; reported first in a result."""

    statement: str  # the level, as a sentence
    kind: str
    level: str  # group | image
    parts: dict[str, PartFacts]
    absent: dict[str, tuple[str, ...]]  # part → classes without a row there, whose metrics are NaN
    sha256: str


@dataclass(frozen=True)
class Experiment:
    """Data, their split, and the facts of the split. Fit rows are train followed by val."""

    request: ProbeRequest
    data: ProbeData
    split: Split
    facts: SplitFacts

    @property
    def fit_rows(self) -> Int64:
        return np.concatenate([self.split.train, self.split.val])

    @property
    def absent(self) -> tuple[str, ...]:
        """Columns without a metric, since train or test lacks them (D1)."""
        lacking = {name for part in ("train", "test") for name in self.facts.absent[part]}
        return tuple(name for name in self.data.truth.classes if name in lacking)

    @property
    def val_chooses(self) -> bool:
        """Whether val can rank probes: it has positives and negatives of some column of train, or enough numbers."""
        if self.request.target != "classes":
            return ranks_targets(self.data.truth.take(self.split.val), self.data.groups[self.split.val])
        val = hide_absent(self.data.truth.take(self.split.val), self.facts.absent["train"])
        positive = (val.positive & val.known).sum(0)
        return bool(((positive > 0) & (positive < val.known.sum(0))).any())

    def inner_folds(self) -> list[tuple[Int64, Int64]]:
        """(fit, held-out) positions within the fit rows: the val split, or five grouped folds of train (D5)."""
        train, val = len(self.split.train), len(self.split.val)
        if self.val_chooses:
            return [(np.arange(train), np.arange(train, train + val))]
        truth = self.data.truth.take(self.split.train)
        return grouped_folds(truth.strata(), self.data.groups[self.split.train], self.request.seed)


def prepare(request: ProbeRequest, data: ProbeData) -> Experiment:
    """Split the rows and check the split. Raises ProbeError where a group is in two parts."""
    split = without_duplicates(make_split(request, data), data.content)
    check_groups(split, data.groups, data.group_names)
    flow = replace(data.flow, unassigned=len(split.unassigned), duplicates=len(split.duplicates))
    data = replace(data, flow=flow)
    return Experiment(request, data, split, split_facts(request, data, split))


def make_split(request: ProbeRequest, data: ProbeData) -> Split:
    if request.split == "hash":
        return hash_split(data.groups, data.group_names, request.salt)
    if request.split == "stratified":
        return stratified_split(data.truth.strata(), data.groups, request.seed)
    return column_split(data.split_values or ())


def split_facts(request: ProbeRequest, data: ProbeData, split: Split) -> SplitFacts:
    parts = {name: part_facts(data.truth, data.groups, getattr(split, name)) for name in PARTS}
    return SplitFacts(
        statement(request, data),
        request.split if request.split_column is None else f"column {request.split}",
        data.level,
        parts,
        absent_classes(data.truth, split, fitted=request.probe != "zero-shot"),
        split_sha256(data.keys, split.part_of(len(data.keys)).tolist()),
    )


def statement(request: ProbeRequest, data: ProbeData) -> str:
    pooled = f"; each row is a {request.level}, its images pooled by {request.pool} before the fit"
    what = pooled if request.level != IMAGE else ""
    if data.level == IMAGE:
        return IMAGE_LEVEL + what
    return f"{request.group}-level split: no {request.group} is on two sides ({data.flow.groups} in all){what}"


def part_facts(truth: Truth, groups: Int64, rows: Int64) -> PartFacts:
    counts = (truth.positive[rows] & truth.known[rows]).sum(0)
    named = dict(zip(truth.classes, map(int, counts), strict=True))
    if truth.numbers is not None and truth.events is None:  # they would be the rows again
        named = {}
    return PartFacts(len(rows), len(np.unique(groups[rows])), named)


def absent_classes(truth: Truth, split: Split, *, fitted: bool = True) -> dict[str, tuple[str, ...]]:
    """D1: for train and test, the classes without a row there, whose metrics are NaN.

    A probe that is not `fitted` needs no train rows.
    """
    return {
        "train": lacking(truth.take(split.train)) if fitted else (),
        "test": lacking(truth.take(split.test)),
    }


def shuffled(truth: Truth, seed: int) -> Iterator[Truth]:
    """The labels in random orders: probes fitted on them must score at chance level on average."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(SHUFFLES):
        yield truth.take(rng.permutation(truth.n))
