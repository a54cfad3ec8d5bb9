"""What a run reports, and the progress callbacks of long calls."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class StageTime:
    """Seconds a stage's threads were busy, summed over its threads."""

    name: str
    busy_seconds: float
    threads: int


@dataclass(frozen=True)
class SeriesFlaw:
    """One kind of flaw, and the series of a table that have it."""

    flaw: str
    series: int
    examples: tuple[str, ...]


@dataclass(frozen=True)
class RunReport:
    """The result of one `index` run."""

    table: str
    encoder: str  # EncoderSpec.name
    fingerprint: str
    shards_done: int
    shards_skipped: int  # done by earlier runs
    shards_partial: int  # truncated or damaged: their whole samples are stored, and they are not "done"
    images: int  # embedded + failed, always
    embedded: int
    reused: int  # of embedded: unchanged images of changed shards, whose vector was kept
    failed: int
    reasons: dict[str, int]  # failures by reason
    flags: dict[str, int]  # images by flag, and members of their samples that were passed over
    columns_skipped: dict[str, int]  # metadata values that stayed in `meta` only, by field and cause
    seconds: float
    images_per_second: float
    stages: tuple[StageTime, ...]
    bottleneck: str  # one line with a remedy
    precision_cosine: float | None  # lowest cosine of the reduced-precision vectors against fp32 on a sample
    interrupted: bool
    warnings: tuple[str, ...] = ()
    adopted: int = 0  # not in `images`: in the table under another shard, with the same key and bytes
    gone: int = 0  # rows whose file is gone from the folders that were named
    part: str = ""  # I/N of a run that did one part
    pending: int = 0  # shards of it that are embedded and wait for a commit
    decoder_difference: float | None = None  # largest of --decoder gpu to the CPU's pixels on a sample, in grey levels
    series_flaws: tuple[SeriesFlaw, ...] = ()  # of all series in the table


class Progress(Protocol):
    """Progress callbacks of a long call: consecutive stages, and the steps done of the current one.

    `indexer.progress` has an implementation without output and one for terminals.
    """

    def stage(self, name: str, total: int | None = None) -> AbstractContextManager[object]:
        """A context manager for a stage of `total` steps (None: unknown)."""
        ...

    def advance(self, n: int = 1, **counts: int) -> None:
        """Add `n` completed steps of the stage; `counts` are current values of further counts."""
        ...

    def note(self, text: str) -> None:
        """Show one line that the user should read before the call ends."""
        ...
