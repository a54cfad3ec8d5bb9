"""Options of near-duplicates. Imports no heavy library: the command line takes its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.errors import InputError


@dataclass(frozen=True)
class NearOptions:
    """Options of a search for near-duplicates. Raises InputError for a threshold outside (0, 1]."""

    threshold: float = 0.95  # cosine
    where: str | None = None
    group: str | None = None  # column whose rows belong together, e.g. the patient
    split: str | None = None  # column that names training and test rows
    max_pairs: int = 20_000_000  # held in memory, about 60 bytes each
    memory_bytes: int = 4 << 30  # of vectors held; more is mapped from a temporary file

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise InputError(f"--threshold {self.threshold:g} is not a cosine above 0 and up to 1.")
