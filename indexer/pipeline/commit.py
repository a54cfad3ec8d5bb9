"""Groups the results of an engine and commits them. Nothing else in a run writes the table."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from indexer.pipeline.tally import Tally
from indexer.store.writer import Committed, StoreWriter
from indexer.types import ShardResult

MOST_NAMED = 100  # fields of `skipped` in a report
LONGEST = 120  # characters of one

Commit = Callable[[Sequence[ShardResult]], Committed]


@dataclass
class Totals:
    """What a run has committed."""

    embedded: int = 0
    reused: int = 0
    done: int = 0  # shards
    partial: int = 0  # shards that ended early (truncated or damaged)
    empty: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    adopted: int = 0  # images in the table under another shard
    unread: int = 0  # shards that are to be read again, since a changed shard may have lost what they adopted
    labels_kept: int = 0  # rows of replaced shards whose labels went to the new row of the same key and content
    labels_lost: int = 0  # labelled rows of replaced shards without a new row of the same key and content
    skipped: Counter[str] = field(default_factory=Counter)  # metadata values that stayed in `meta`, by field and cause

    def skipped_named(self) -> dict[str, int]:
        """`skipped` of the MOST_NAMED most frequent fields, and the sum of all others: names may be as many as rows."""
        counts = self.skipped.most_common()
        named = {name if len(name) <= LONGEST else f"{name[:LONGEST]}…": n for name, n in counts[:MOST_NAMED]}
        rest = counts[MOST_NAMED:]
        return named | ({f"{len(rest):,} other fields": sum(n for _, n in rest)} if rest else {})


class Committer:
    """Buffers results and commits them once there are `rows` of them or `seconds` have passed."""

    def __init__(self, writer: StoreWriter, commit: Commit, tally: Tally, *, rows: int, seconds: float) -> None:
        self.totals = Totals()
        self._writer, self._commit, self._tally = writer, commit, tally
        self._most_rows, self._most_seconds = rows, seconds
        self._group: list[ShardResult] = []
        self._rows = 0
        self._since = time.monotonic()

    def add(self, result: ShardResult) -> None:
        self._group.append(result)
        self._rows += sum(len(batch.rows) for batch in result.batches)

    @property
    def due(self) -> bool:
        """Whether the group has `rows` rows, or the last commit was `seconds` ago."""
        return bool(self._group and self._rows >= self._most_rows) or self.late

    @property
    def late(self) -> bool:
        return time.monotonic() - self._since > self._most_seconds

    def commit(self) -> None:
        self._since = time.monotonic()
        if not self._group:
            return
        start = time.perf_counter()
        written = self._commit(self._group)
        self._writer.tidy_when_due()
        self._tally.clock("store", start)
        totals = self.totals
        totals.embedded += written.embedded
        totals.reasons.update(f.reason for f in written.failures)
        totals.skipped.update(written.columns_skipped)
        totals.labels_kept += written.labels_kept
        totals.labels_lost += written.labels_lost
        totals.adopted += written.adopted
        totals.unread += written.unread
        for result in self._group:
            totals.reused += result.reused
            if result.more:
                continue
            totals.done += not result.partial
            totals.partial += result.partial
            if not result.samples and not result.partial:
                totals.empty.append(result.shard.name)
        self._group, self._rows = [], 0

    def end(self) -> None:
        """Merge small fragments, which may take minutes."""
        self._writer.tidy()
