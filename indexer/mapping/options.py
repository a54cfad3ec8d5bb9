"""What a map is made with."""

from __future__ import annotations

from dataclasses import dataclass

from indexer.errors import InputError

METHODS = ("pca", "opentsne")
LEAST_SAMPLE = 10


@dataclass(frozen=True)
class MapOptions:
    """Raises InputError for values that no map can be made with."""

    method: str = "pca"  # of METHODS
    sample: int = 20_000  # rows that opentsne lays out; the others are placed by the nearest of these
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"--method {self.method} is not one of {', '.join(METHODS)}.")
        if self.sample < LEAST_SAMPLE:
            raise InputError(f"--sample {self.sample}: a map is laid out by {LEAST_SAMPLE} rows or more.")
