"""index(): a plan of shards → committed rows and a RunReport."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np

from indexer.archive.reader import read_shard
from indexer.archive.shards import changed_words
from indexer.errors import ShardChanged, TooManyFailures
from indexer.pipeline.in_flight import POLL_SECONDS, ReadShard
from indexer.pipeline.report import bottleneck, precision_warning, spread_warning, stage_times
from indexer.pipeline.run_record import RunRecord, recorded
from indexer.pipeline.signals import stopped_by_signals
from indexer.pipeline.stages import Stages
from indexer.store.table import EmbeddingStore
from indexer.store.writer import Committed, LedgerEntry, StoreWriter
from indexer.types import Encoder, RunReport, Shard, ShardResult, UInt8

COMMIT_ROWS = 8192  # small commits cost manifests and fragments
COMMIT_SECONDS = 30.0  # and rare ones cost work when the power goes
FAILURE_GRACE = 1000  # images before --max-failures may stop a run

Commit = Callable[[Sequence[ShardResult]], Committed]


@dataclass(frozen=True)
class RunOptions:
    """How a run goes; none of these changes a vector."""

    frames: str = "all"  # all | first | middle, of images with several
    changed: str = "error"  # error | replace: a shard whose content changed since it was indexed
    workers: int | None = None  # default: the encoder's
    max_failures: float = 0.5  # share of failed images that stops the run, once FAILURE_GRACE were read
    commit_rows: int = COMMIT_ROWS
    commit_seconds: float = COMMIT_SECONDS
    command: tuple[str, ...] = ()  # as the user typed it, for the run's record


@dataclass(frozen=True)
class Progress:
    """Where a run stands; handed to `on_progress` a few times a second."""

    shards: int
    shards_done: int
    images: int
    failed: int


@dataclass
class Hooks:
    """What the caller wants to hear of, or have done, during a run."""

    on_progress: Callable[[Progress], None] | None = None
    precision_check: Callable[[UInt8], float] | None = None  # (n, size, size, 3) → lowest cosine against fp32


@dataclass
class _Totals:
    embedded: int = 0
    reused: int = 0
    done: int = 0
    partial: int = 0
    samples: int = 0
    empty: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)


def index(
    shards: Sequence[Shard],
    store: EmbeddingStore,
    encoder: Encoder,
    options: RunOptions | None = None,
    hooks: Hooks | None = None,
) -> RunReport:
    """Embed every shard that the table does not hold yet, each readable image once.

    A shard that is done is skipped; one that was in hand when a former run died is done again from its start.
    Ctrl-C (or SIGTERM) commits the shards that are finished and drops the one in hand; the report says `interrupted`.
    Raises ShardChanged before any work where a shard's identity is not the stored one, EncoderMismatch,
    StoreLocked, and TooManyFailures.
    """
    options, hooks = options or RunOptions(), hooks or Hooks()
    store.require(encoder.spec)
    start = time.perf_counter()
    with StoreWriter(store) as writer, recorded(store, options.command, _told(options, len(shards))) as record:
        plan = _plan(shards, writer.entries, options.changed)
        report = run_stages(writer, plan, encoder, options, hooks, start=start, record=record)
        skipped = _skipped(shards, plan, writer.entries)
        recovered = f"{writer.recovered} rows of a run that died between two writes were removed and embedded again"
        report = replace(
            report,
            shards_skipped=len(skipped),
            shards_partial=report.shards_partial + sum(entry.status == "partial" for entry in skipped),
            warnings=(*report.warnings, *([recovered] if writer.recovered else [])),
        )
        if record is not None:
            record.report = report
    return report


def run_stages(
    writer: StoreWriter,
    plan: Sequence[tuple[Shard, bool]],
    encoder: Encoder,
    options: RunOptions,
    hooks: Hooks,
    *,
    start: float,
    read: ReadShard | None = None,
    record: RunRecord | None = None,
) -> RunReport:
    """Work through `plan` under a held writer. With `read`, only what it yields is added to shards that are done."""
    stages = Stages(encoder, workers=options.workers or encoder.workers, frames=options.frames, read=read or read_shard)
    commit = writer.commit if read is None else writer.commit_retry
    committer = _Committer(writer, commit, stages, options)
    with stopped_by_signals(stages.books.stop) as interrupted:
        stages.start(plan, writer.vectors_by_content)
        try:
            cosine = _drive(committer, len(plan), hooks)
        finally:
            stages.join()
            if record is not None:  # also of a run that ends with an error
                record.report = _report(writer.store, stages, committer.totals, time.perf_counter() - start)
    if stages.errors:
        raise stages.errors[0]
    if not interrupted.is_set():  # merging fragments may take minutes; the next run does it
        writer.tidy()
    report = _report(writer.store, stages, committer.totals, time.perf_counter() - start)
    many = read is None and report.failed > options.max_failures * report.images
    words = (
        f"{report.failed} of {report.images} images failed, more than --max-failures {options.max_failures:g}: are "
        "these the right files, and can this machine decode them? See `indexer failures --summary` and "
        "`indexer doctor`."
    )
    return replace(
        report,
        precision_cosine=cosine,
        interrupted=interrupted.is_set(),
        warnings=(*report.warnings, *precision_warning(cosine), *([words] if many else [])),
    )


def _told(options: RunOptions, shards: int) -> dict[str, object]:
    """The options and the number of shards, as a run's record holds them."""
    return {"options": {k: v for k, v in asdict(options).items() if k != "command"}, "shards_named": shards}


def _report(store: EmbeddingStore, stages: Stages, totals: _Totals, seconds: float) -> RunReport:
    times = stage_times(stages.books.busy, workers=stages.workers)
    failed = sum(totals.reasons.values())
    empty = [f"{url} holds no sample" for url in totals.empty]
    return RunReport(
        table=store.name,
        encoder=store.spec.name,
        fingerprint=store.spec.fingerprint,
        shards_done=totals.done,
        shards_skipped=0,
        shards_partial=totals.partial,
        images=totals.embedded + failed,
        embedded=totals.embedded,
        reused=totals.reused,
        failed=failed,
        reasons=dict(totals.reasons.most_common()),
        flags=dict(stages.books.flags.most_common()),
        columns_skipped=dict(totals.skipped.most_common()),
        seconds=seconds,
        images_per_second=(totals.embedded + failed) / seconds,
        stages=times,
        bottleneck=bottleneck(times, seconds, device=stages.encoder.device, decoder=stages.encoder.spec.pixels.decoder),
        precision_cosine=None,
        interrupted=False,
        warnings=(*spread_warning(stages.books.spread.mean_cosine()), *empty),
        decoder_difference=stages.decoder.difference if stages.decoder else None,
    )


def _plan(shards: Sequence[Shard], entries: dict[str, LedgerEntry], changed: str) -> list[tuple[Shard, bool]]:
    """The shards to work through, each with whether it replaces rows stored before."""
    plan: list[tuple[Shard, bool]] = []
    differing: list[Shard] = []
    for shard in shards:
        entry = entries.get(shard.name)
        if entry is None:
            plan.append((shard, False))
        elif entry.identity != shard.identity:
            # a shard that was cut when we read it is expected to change
            if changed != "replace" and entry.status != "partial":
                differing.append(shard)
            plan.append((shard, True))
    if differing:
        raise ShardChanged(
            f"{changed_words(differing)}. Take the new content with --changed replace (same images keep their "
            "vectors), or restore what was there."
        )
    return plan


def _skipped(
    shards: Sequence[Shard], plan: Sequence[tuple[Shard, bool]], entries: dict[str, LedgerEntry]
) -> list[LedgerEntry]:
    planned = {shard.name for shard, _ in plan}
    return [entries[shard.name] for shard in shards if shard.name not in planned]


class _Committer:
    """Groups finished shards and commits them."""

    def __init__(self, writer: StoreWriter, commit: Commit, stages: Stages, options: RunOptions) -> None:
        self.stages, self.options, self.totals = stages, options, _Totals()
        self._writer, self._commit = writer, commit
        self._group: list[ShardResult] = []
        self._rows = 0
        self._since = time.monotonic()

    def gather(self, *, wait: float = 0.0, hold: bool = False) -> bool:
        """Take one finished shard, if one comes; commit when the group is large or old enough, or `hold` it."""
        job = self.stages.books.finished(wait)
        if job is not None:
            if not self._group:
                self._since = time.monotonic()
            self._group.append(job.result())
            self._rows += len(job.rows)
        age = time.monotonic() - self._since
        due = self._rows >= self.options.commit_rows or (self._group and age > self.options.commit_seconds)
        if due and not hold:
            self.commit()
        return job is not None

    def commit(self) -> None:
        if not self._group:
            return
        start = time.perf_counter()
        written = self._commit(self._group)
        self._writer.tidy_when_due()
        self.stages.books.clock("store", start)
        totals = self.totals
        totals.embedded += written.embedded
        totals.reasons.update(f.reason for f in written.failures)
        totals.skipped.update(written.columns_skipped)
        for result in self._group:
            totals.done += not result.partial
            totals.partial += result.partial
            totals.samples += result.samples
            totals.reused += result.reused
            if not result.samples and not result.partial:
                totals.empty.append(result.shard.name)
        self._group, self._rows = [], 0


def _drive(committer: _Committer, shards: int, hooks: Hooks) -> float | None:
    """The calling thread's loop, until all shards are committed or the run is to stop. Returns the precision cosine."""
    books, totals = committer.stages.books, committer.totals
    gathered = 0
    cosine: float | None = None
    while gathered < shards and not books.stop.is_set():
        if committer.gather(wait=POLL_SECONDS):
            gathered += 1
        if cosine is None and hooks.precision_check and books.sample_pictures:
            cosine = hooks.precision_check(np.stack(books.sample_pictures))
        if hooks.on_progress:
            hooks.on_progress(Progress(shards, totals.done + totals.partial, books.resolved, books.failed))
        if books.resolved >= FAILURE_GRACE and books.failed > committer.options.max_failures * books.resolved:
            books.stop.set()
            committer.commit()
            raise TooManyFailures(
                f"{books.failed} of the first {books.resolved} images failed, more than --max-failures "
                f"{committer.options.max_failures:g}, most often: {books.reasons.most_common(1)[0][0]}. Are these the "
                "right files? See `indexer doctor`, and `indexer failures` for the shards finished: they are kept."
            )
    while committer.gather(hold=True):  # finished before the stop: kept, with one commit, since somebody waits
        pass
    committer.commit()
    return cosine
