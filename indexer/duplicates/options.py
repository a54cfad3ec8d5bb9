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
