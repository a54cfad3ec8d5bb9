"""The loop of a run: a sink keeps what an engine yields, in groups, until the plan is done or the run is to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from indexer.errors import TooManyFailures
from indexer.pipeline.commit import Totals
from indexer.pipeline.engines.engine import Engine, Lookup
from indexer.pipeline.heap import startup_objects_left_alone
from indexer.pipeline.in_flight import Planned
from indexer.pipeline.meter import Meter
from indexer.pipeline.options import RunOptions
from indexer.pipeline.report import bottleneck, headers_words, plural, precision_warning, spread_warning, stage_times
from indexer.pipeline.run_record import RunRecord
from indexer.pipeline.signals import stopped_by_signals
from indexer.pipeline.tally import Tally
from indexer.progress.silent import SILENT
from indexer.store.table import EmbeddingStore
from indexer.types import DELETED, Progress, RunReport, ShardResult, UInt8

FAILURE_GRACE = 1000  # images before --max-failures may stop a run
TELL_SECONDS = 0.05  # between two reports of progress


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the caller during a run."""

    progress: Progress = SILENT  # one stage a run, moved a few times a second; counts: shards, images, failed
    precision_check: Callable[[UInt8], float] | None = None  # (n, size, size, 3) → lowest cosine against fp32


class Sink(Protocol):
    """Takes results and keeps them: `commit.Committer` in the table, `parts.embed.PendingSink` beside it."""

    totals: Totals

    def add(self, result: ShardResult) -> None: ...

    @property
    def due(self) -> bool:
        """Whether `commit` is to be called now."""
        ...

    @property
    def late(self) -> bool:
        """Whether the settled parts of the shards in progress are wanted, since the last commit was long ago."""
        ...

    def commit(self) -> None:
        """Keep all that was added."""
        ...

    def end(self) -> None:
        """After the last commit of a run that was not interrupted."""
        ...


@dataclass(frozen=True)
class Driven:
    """One run of an engine: who works, who keeps what, and the record of it."""

    engine: Engine
    sink: Sink
    start: float  # of time.perf_counter
    record: RunRecord | None = None
    judged: bool = True  # whether the share of failures is compared with --max-failures at the end


def drive(
    run: Driven,
    store: EmbeddingStore,
    plan: Sequence[Planned],
    lookup: Callable[[], Lookup],
    options: RunOptions,
    hooks: Hooks,
) -> RunReport:
    """Process `plan` and close the engine. `lookup` is called once Ctrl-C is caught. Raises TooManyFailures."""
    engine, record = run.engine, run.record

    def report() -> RunReport:
        return _report(store, engine, run.sink.totals, time.perf_counter() - run.start)

    with startup_objects_left_alone(), stopped_by_signals(engine.stop) as interrupted:
        try:
            cosine = _drive(engine, plan, lookup(), run.sink, options, hooks)
        finally:
            try:
                engine.close()
            finally:
                if record is not None:  # also for a run that ends with an error
                    record.report = report()
    if not interrupted.is_set():
        run.sink.end()
    done = report()
    many = run.judged and too_many(done, options.max_failures)
    words = (
        f"{done.failed} of {done.images} images failed, more than --max-failures {options.max_failures:g}: are "
        "these the right files, and can this machine decode them? See `indexer failures --summary` and "
        "`indexer doctor`."
    )
    return replace(
        done,
        precision_cosine=cosine,
        interrupted=interrupted.is_set(),
        warnings=(*done.warnings, *precision_warning(cosine), *([words] if many else [])),
    )


def too_many(report: RunReport, share: float) -> bool:
    """Whether more than this share of the images failed; those that were deleted by request did not fail."""
    return report.failed - report.reasons.get(DELETED, 0) > share * (report.images + report.adopted)


def _report(store: EmbeddingStore, engine: Engine, totals: Totals, seconds: float) -> RunReport:
    tally = engine.tally
    times = stage_times(tally.busy, workers=engine.workers, readers=engine.readers)
    failed = sum(totals.reasons.values())
    notes = [f"{url} holds no sample" for url in totals.empty]
    if totals.labels_kept:
        notes.append(f"labels of {totals.labels_kept} {plural('row', totals.labels_kept)} of changed shards were kept")
    if totals.labels_lost:
        notes.append(
            f"the labels of {totals.labels_lost} {plural('row', totals.labels_lost)} were lost: the changed shards no "
            "longer hold these images under the same key and with the same bytes"
        )
    if totals.unread:
        notes.append(
            f"{totals.unread} {plural('shard', totals.unread)} had adopted images that a changed shard may have lost: "
            "index the archive once more, and they are read again"
        )
    if same := totals.reasons["duplicate key"]:
        notes.append(
            f"{same} {plural('image', same)} have the key of another image, as where two folders or tars hold equal "
            f"names: index into a new table (--table) with --prefix {store.keys.prefix + 1}, and each key begins with "
            "the name of its folder or tar"
        )
    if tally.headers_unread:
        notes.append(headers_words(tally.headers_unread))
    if tally.kept:
        notes.append(f"{tally.kept} images of shards that a former run had begun were stored already")
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
        flags=dict(tally.flags.most_common()),
        columns_skipped=totals.skipped_named(),
        seconds=seconds,
        images_per_second=(totals.embedded + failed) / seconds,
        stages=times,
        bottleneck=bottleneck(
            times,
            seconds,
            device=engine.device,
            decoder=store.spec.pixels.decoder,
            kept=totals.reused + totals.adopted + tally.kept,
            computed=engine.device_seconds,
        ),
        precision_cosine=None,
        interrupted=False,
        warnings=(*spread_warning(tally.spread.mean_cosine()), *notes),
        adopted=totals.adopted,
        decoder_difference=engine.decoder_difference,
    )


def _drive(
    engine: Engine, plan: Sequence[Planned], lookup: Lookup, sink: Sink, options: RunOptions, hooks: Hooks
) -> float | None:
    """The calling thread's loop, until all of `plan` is committed or the run is to stop. Gives the precision cosine."""
    tally, totals, meter = engine.tally, sink.totals, Meter(plan, engine.tally)
    cosine: float | None = None
    told = 0.0

    def take(result: ShardResult) -> None:
        sink.add(result)
        meter.add(result)

    def advance() -> None:
        done = totals.done + totals.partial
        images = tally.resolved + tally.kept + tally.adopted
        hooks.progress.advance(meter.steps(), shards=done, images=images, failed=tally.failed, **engine.counts())

    with hooks.progress.stage(f"embedding {len(plan)} {plural('shard', len(plan))}", meter.total):
        for result in engine.results(plan, lookup):
            # a large shard on a slow machine: what is settled of it is not lost with the power
            parts = [result] if result is not None else engine.settled() if sink.late else []
            for part in parts:
                take(part)
            if sink.due:
                sink.commit()
            if cosine is None and hooks.precision_check and tally.sample_pictures:
                cosine = hooks.precision_check(np.stack(tally.sample_pictures))
            if (now := time.monotonic()) - told >= TELL_SECONDS:  # not for each of ten thousand shards
                told = now
                advance()
            seen, failed = tally.resolved + tally.adopted, tally.failed - tally.reasons[DELETED]
            if seen >= FAILURE_GRACE and failed > options.max_failures * seen:
                engine.stop.set()
                sink.commit()
                raise _too_many_failures(tally, failed, seen, options.max_failures)
        for part in engine.settled():  # what is whole at a stop is kept, with one commit, since somebody waits
            take(part)
        sink.commit()
        advance()
    return cosine


def _too_many_failures(tally: Tally, failed: int, seen: int, most: float) -> TooManyFailures:
    return TooManyFailures(
        f"{failed} of the first {seen} images failed, more than --max-failures {most:g}, most often: "
        f"{tally.reasons.most_common(1)[0][0]}. Are these the right files? See `indexer doctor`, and `indexer "
        "failures` for what is stored: it is kept."
    )
