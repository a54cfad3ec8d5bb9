"""Counters of a run, updated by all of its threads."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from indexer.archive.samples import is_dicom
from indexer.types import Failure, Sample, UInt8
from indexer.vectors import Spread, SpreadFacts

MOST_FLAGS = 50  # that are counted apart
DICOM_SUFFIXES = ("dcm", "dicom")
SAMPLE_PICTURES = 16  # decoded images kept for the precision check


@dataclass(frozen=True)
class TallyFacts:
    """A tally of another process."""

    busy: dict[str, float]
    flags: Counter[str]
    headers_unread: int
    kept: int
    adopted: int
    spread: SpreadFacts


class Tally:
    """Busy seconds by stage, images, failures by reason, flags of decoded images; thread-safe."""

    def __init__(self, dim: int) -> None:
        self.busy: defaultdict[str, float] = defaultdict(float)  # seconds by stage, summed over threads
        self.flags: Counter[str] = Counter()
        self.resolved = self.failed = 0  # rows and failures so far, and failures alone
        self.headers_unread = 0  # DICOM samples whose metadata name no patient
        self.kept = 0  # samples whose rows a former run had stored
        self._nbytes: Counter[str] = Counter()  # of settled images, by the name of a shard in progress
        self.adopted = 0  # samples that the table has under another shard
        self.reasons: Counter[str] = Counter()  # of failures, those of shards in progress too
        self.spread = Spread(dim)
        self.sample_pictures: list[UInt8] = []
        self._lock = threading.Lock()

    def facts(self) -> TallyFacts:
        """What `merge` of another process's tally takes; not the rows and failures, which it counts itself."""
        with self._lock:
            return TallyFacts(
                dict(self.busy), Counter(self.flags), self.headers_unread, self.kept, self.adopted, self.spread.facts()
            )

    def merge(self, facts: TallyFacts) -> None:
        with self._lock:
            for stage, seconds in facts.busy.items():
                self.busy[stage] += seconds
            self.flags.update(facts.flags)
            self.headers_unread += facts.headers_unread
            self.kept += facts.kept
            self.adopted += facts.adopted
        self.spread.merge(facts.spread)

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

    def keep(self, sample: Sample | Failure) -> None:
        """Count a sample whose rows an earlier run had stored."""
        with self._lock:
            self.kept += 1
            self._nbytes[sample.shard] += sample.nbytes

    def settle(self, sample: Sample) -> None:
        """Count a settled sample."""
        with self._lock:
            self._nbytes[sample.shard] += sample.nbytes

    def end(self, shard: str) -> None:
        """Forget a shard that is no longer in progress."""
        with self._lock:
            self._nbytes.pop(shard, None)

    def settled_bytes(self) -> dict[str, int]:
        """Bytes of settled images, by the name of each shard in progress."""
        with self._lock:
            return dict(self._nbytes)

    def adopt(self, sample: Sample) -> None:
        """A sample that the table has under another shard."""
        with self._lock:
            self.adopted += 1
            self._nbytes[sample.shard] += sample.nbytes

    def note(self, sample: Sample) -> None:
        """Count what is worth counting of a sample that is to be embedded."""
        headers_unread = "patient" not in sample.metadata and (
            sample.suffix in DICOM_SUFFIXES or is_dicom(sample.image)
        )
        if not sample.notes and not headers_unread:
            return
        with self._lock:
            self.headers_unread += headers_unread
            for flag in sample.notes:  # endings of members are the archive's own words: their number is limited
                known = flag in self.flags or len(self.flags) < MOST_FLAGS
                self.flags[flag if known else f"{flag.partition(':')[0]}: other endings"] += 1

    def note_pictures(self, pictures: UInt8, flags: Counter[str]) -> None:
        """Count flags, and keep the first decoded images (n, size, size, 3) of the run."""
        with self._lock:
            self.flags.update(flags)
            room = SAMPLE_PICTURES - len(self.sample_pictures)
            self.sample_pictures.extend(picture.copy() for picture in pictures[: max(room, 0)])
