"""Options of near-duplicates. Imports no heavy library: the command line takes its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.errors import InputError


@dataclass(frozen=True)
class NearOptions:
    """Options of a search for near-duplicates. Raises InputError for a number outside its range."""

    threshold: float = 0.95  # cosine
    where: str | None = None
    group: str | None = None  # column whose rows belong together, e.g. the patient
    split: str | None = None  # column that names training and test rows
    pairs_per_cluster: int = 1_000  # a cluster of more pairs is listed by each image's nearest; all are counted

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"--threshold {self.threshold:g} is not a cosine above 0 and up to 1.")
        if self.pairs_per_cluster < 0:
            raise InputError(f"--pairs-per-cluster {self.pairs_per_cluster} is below 0.")


@dataclass(frozen=True)
class GroupOptions:
    """Options of a search for near-duplicate groups. Raises InputError for a number outside its range."""

    by: str  # column whose values are the groups
    threshold: float = NearOptions.threshold  # cosine of two rows
    share: float = 0.5  # of a group's rows that have a near-duplicate in the other group
    candidates: float | None = None  # lowest cosine of pooled vectors of groups that are compared; None: threshold
    listed: int = 1_000_000  # pairs that are listed at most, the nearest ones; all are counted

    def __post_init__(self) -> None:
        NearOptions(self.threshold)
        if not 0 < self.share <= 1:
            raise InputError(f"--share {self.share:g} is not a share above 0 and up to 1.")
        if not -1 <= self.candidate_cosine <= 1:
            raise InputError(f"--candidates {self.candidate_cosine:g} is not a cosine. Give -1 to 1; -1 compares all.")

    @property
    def candidate_cosine(self) -> float:
        """The lowest cosine of two pooled vectors whose groups are compared."""
        return self.threshold if self.candidates is None else self.candidates
