"""How a run goes. No heavy import: command lines take their defaults from here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunOptions:
    """How a run goes; none of these changes a vector."""

    frames: str = "all"  # all | first | middle, of images with several
    changed: str = "error"  # error | replace: a shard whose content changed since it was indexed
    workers: int | None = None  # default: the encoder's
    max_failures: float = 0.5  # share of failed images that stops the run, once FAILURE_GRACE were read
    commit_rows: int = 8192  # small commits cost manifests and fragments
    commit_seconds: float = 30.0  # and rare ones cost work when the power goes
    command: tuple[str, ...] = ()  # as the user typed it, for the run's record
