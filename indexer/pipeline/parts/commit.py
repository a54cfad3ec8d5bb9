"""Commits pending shards, each exactly once: what the ledger has is not written again, whoever wrote it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from indexer.errors import PendingDamaged
from indexer.store.pending.form import LedgerState, PendingShard, opened, pending_name
from indexer.store.pending.place import PendingPlace
from indexer.store.writer import StoreWriter
from indexer.store.writing.side_tables import BEGUN, LedgerEntry
from indexer.types import DELETED, EmbeddingBatch, Failure, Progress, ShardResult, sample_key


@dataclass
class CommitReport:
    """What became of pending shards."""

    table: str = ""
    shards: int = 0  # that are in the table now
    rows: int = 0
    failed: int = 0
    adopted: int = 0  # images that the table has under another shard
    before: int = 0  # pending shards that the table had already
    stale: list[str] = field(default_factory=list)  # shards that another run changed since: their files were dropped
    damaged: list[str] = field(default_factory=list)  # files that were dropped; their shards are to be embedded again
    reasons: dict[str, int] = field(default_factory=dict)  # of the failures
    notes: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is to be embedded again."""
        return not (self.stale or self.damaged)


def commit_pending(
    writer: StoreWriter,
    place: PendingPlace,
    progress: Progress,
    *,
    rows: int,
    beside: Callable[[str, bytes], None],
) -> CommitReport:
    """Commit every pending shard, in groups of about `rows` rows, and remove its file after its ledger row is written.
    `beside` is given the small files that belong to the record of the run.

    The ledger decides: a shard that has the row which the work began with is committed; one that has the row of this
    same content is in the table, so that its file is left over from a commit that was killed. Raises StoreError.
    """
    report = CommitReport(writer.store.name, notes=list(writer.notes))
    names = place.names()
    with progress.stage(f"committing {len(names)} pending shards", len(names)):
        group = _Group(writer, place, report)
        for name in names:
            try:
                with place.file(name) as file:
                    pending = opened(file, f"{place.where}/{name}")
                    _require_ours(pending, writer)
                    if pending.result.shard.name in group.shards:  # with another content: the ledger decides
                        group.commit()
                    replaces = _due(pending, writer.entries.get(pending.result.shard.name), report)
                    if replaces is not None:
                        parts = pending.parts(file, rows)
                        group.add(name, _marked(without_deleted(parts, writer), replaces=replaces), rows)
                        for file_name, data in pending.files.items():
                            beside(file_name, data)
                    else:
                        group.over.append(name)
            except FileNotFoundError:  # another committer was here before this one had the lease
                continue
            except PendingDamaged:
                report.damaged.append(name)
                group.over.append(name)
            progress.advance(shards=report.shards)
        group.commit()
    _sweep(writer, place)
    return report


def _sweep(writer: StoreWriter, place: PendingPlace) -> None:
    """Remove what tasks that were killed left: unfinished files, and pieces of shards that are in the table."""
    pieces = place.pieces()
    done = [(name, entry.identity) for name, entry in writer.entries.items() if entry.status != BEGUN]
    known = {pending_name(*each) for each in done} if pieces else set()
    for piece in pieces:
        if piece.partition(".")[0] in known:
            place.remove(piece)
    place.sweep()


class _Group:
    """Small shards are committed together, since each commit costs about as much as a thousand rows."""

    def __init__(self, writer: StoreWriter, place: PendingPlace, report: CommitReport) -> None:
        self._writer, self._place, self._report = writer, place, report
        self._results: list[ShardResult] = []
        self._names: list[str] = []
        self._rows = 0
        self.shards: set[str] = set()  # of the results
        self.over: list[str] = []  # files whose shards need no commit

    def add(self, name: str, parts: Iterator[ShardResult], rows: int) -> None:
        for result in parts:
            self._results.append(result)
            self.shards.add(result.shard.name)
            self._rows += sum(len(batch.rows) for batch in result.batches)
            if not result.more:
                self._names.append(name)
            if self._rows >= rows:
                self.commit()

    def commit(self) -> None:
        if self._results:
            self._writer.expect(self.shards, {r.shard.name for r in self._results if r.replaces})
            written = self._writer.commit(self._results)
            self._writer.tidy_when_due()
            report = self._report
            report.rows += written.embedded
            report.failed += len(written.failures)
            report.adopted += written.adopted
            report.shards += len(self._names)
            reasons = Counter(report.reasons)
            reasons.update(failure.reason for failure in written.failures)
            report.reasons = dict(reasons.most_common())
        for name in (*self._names, *self.over):
            self._place.remove(name)
        self._results, self._names, self.over, self._rows, self.shards = [], [], [], 0, set()


def state_of(entry: LedgerEntry | None) -> LedgerState | None:
    return None if entry is None else LedgerState(entry.identity, entry.table_version)


def _due(pending: PendingShard, entry: LedgerEntry | None, report: CommitReport) -> bool | None:
    """Whether the shard's rows are to replace others; None where it is not to be committed."""
    identity = pending.result.shard.identity
    if entry is not None and entry.status == BEGUN and entry.identity == identity:
        return True  # a commit of it was killed, or a run that embedded it too
    if state_of(entry) == pending.before:
        return entry is not None
    if entry is not None and entry.identity == identity:
        report.before += 1
    else:
        report.stale.append(pending.result.shard.name)
    return None


def _require_ours(pending: PendingShard, writer: StoreWriter) -> None:
    """Raises PendingDamaged for a file of a table of this name that was dropped."""
    store = writer.store
    if (pending.table, pending.fingerprint) != (store.state.identity, store.spec.fingerprint):
        raise PendingDamaged(f"{pending.result.shard.name} was embedded for another table named {store.name}")


def _marked(parts: Iterator[ShardResult], *, replaces: bool) -> Iterator[ShardResult]:
    for number, part in enumerate(parts):
        yield replace(part, replaces=replaces and not number)


def without_deleted(parts: Iterator[ShardResult], writer: StoreWriter) -> Iterator[ShardResult]:
    """Images that were deleted by request after they were embedded become failures, as at the next reading."""
    told: set[str] = set()
    for part in parts:
        batches: list[EmbeddingBatch] = []
        failures: list[Failure] = []
        for batch in part.batches:
            hashes = [writer.tombstones(sample_key(row.key, row.place.part)) for row in batch.rows]
            gone = sorted({digest for digest in hashes if digest} - told)
            told.update(gone)
            failures += [Failure(part.shard.name, digest, "store", DELETED) for digest in gone]
            batches.append(_kept(batch, [i for i, digest in enumerate(hashes) if not digest]))
        yield replace(part, batches=tuple(batches), failures=(*part.failures, *failures))


def _kept(batch: EmbeddingBatch, spots: Sequence[int]) -> EmbeddingBatch:
    if len(spots) == len(batch.rows):
        return batch
    return EmbeddingBatch(tuple(batch.rows[i] for i in spots), batch.vectors[spots], batch.norms[spots])
