"""Options of a run. Imports no heavy library: the command line takes its defaults from here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunOptions:
    """Options of a run; none of them changes a vector."""

    frames: str = "all"  # all | first | middle: which parts of an image with several are embedded
    time: str = "first"  # first | all: of which volumes of a series in one file (NIfTI 4-D)
    changed: str = "error"  # error | replace: a shard whose content changed since it was indexed
    gone: str = "keep"  # keep | drop: rows whose file is gone from its folder
    workers: int | None = None  # default: the encoder's
    processes: int | None = None  # that decode for the encoder; default: with a GPU three for four cores
    max_failures: float = 0.5  # a larger share of failed images stops the run, once FAILURE_GRACE were read
    commit_rows: int = 8192  # fewer rows a commit: more manifests and fragments
    commit_seconds: float = 30.0  # longer: more work lost in a power failure
    command: tuple[str, ...] = ()  # as the user typed it, for the run's record
