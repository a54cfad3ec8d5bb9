"""Counters of a run, updated by all of its threads."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence

from indexer.types import Failure, UInt8
from indexer.vectors import Spread

SAMPLE_PICTURES = 16  # decoded images kept for the precision check


class Tally:
    """Busy seconds by stage, images, failures by reason, flags of decoded images; thread-safe."""

    def __init__(self, dim: int) -> None:
        self.busy: defaultdict[str, float] = defaultdict(float)  # seconds by stage, summed over threads
        self.flags: Counter[str] = Counter()
        self.resolved = self.failed = 0  # rows and failures so far; failures so far
        self.kept = 0  # samples whose rows an earlier run had stored
        self.reasons: Counter[str] = Counter()  # of failures, also of shards in progress
        self.spread = Spread(dim)
        self.sample_pictures: list[UInt8] = []
        self._lock = threading.Lock()

    def clock(self, stage: str, start: float) -> None:
        """Add the time since `start` (of time.perf_counter) to a stage."""
        seconds = time.perf_counter() - start
        with self._lock:
            self.busy[stage] += seconds

    def count(self, rows: int, failures: Sequence[Failure]) -> None:
        with self._lock:
            self.resolved += rows + len(failures)
            self.failed += len(failures)
            self.reasons.update(failure.reason for failure in failures)

    def keep(self) -> None:
        with self._lock:
            self.kept += 1

    def note_pictures(self, pictures: UInt8, flags: Counter[str]) -> None:
        """Count flags, and keep the first decoded images (n, size, size, 3) of the run."""
        with self._lock:
            self.flags.update(flags)
            room = SAMPLE_PICTURES - len(self.sample_pictures)
            self.sample_pictures.extend(picture.copy() for picture in pictures[: max(room, 0)])
