"""index(): a plan of shards → committed rows and a RunReport."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from indexer.archive.reader import key_prefix, read_shard
from indexer.archive.roots import remember, state_file
from indexer.archive.shards import changed_words, under_stored_names
from indexer.archive.tables.named import addresses
from indexer.errors import ShardChanged, TooManyFailures
from indexer.pipeline.commit import Committer, Totals
from indexer.pipeline.engine import Engine, Lookup
from indexer.pipeline.gone import settle_gone
from indexer.pipeline.in_flight import Before, Held, Planned, ReadShard, held_nowhere
from indexer.pipeline.meter import Meter
from indexer.pipeline.options import RunOptions
from indexer.pipeline.report import bottleneck, headers_words, plural, precision_warning, spread_warning, stage_times
from indexer.pipeline.run_record import RunRecord, recorded
from indexer.pipeline.signals import stopped_by_signals
from indexer.pipeline.tally import Tally
from indexer.pipeline.threads import Threads
from indexer.progress.silent import SILENT
from indexer.store.table import EmbeddingStore, identity_of
from indexer.store.writer import StoreWriter
from indexer.store.writing.side_tables import BEGUN, LedgerEntry
from indexer.types import DELETED, UNREAD, Encoder, Progress, RunReport, Shard, ShardResult, UInt8

FAILURE_GRACE = 1000  # images before --max-failures may stop a run


@dataclass(frozen=True)
class Hooks:
    """Callbacks of the caller during a run."""

    progress: Progress = SILENT  # one stage a run, moved a few times a second; counts: shards, images, failed
    precision_check: Callable[[UInt8], float] | None = None  # (n, size, size, 3) → lowest cosine against fp32


def index(
    shards: Sequence[Shard],
    store: EmbeddingStore,
    encoder: Encoder,
    options: RunOptions | None = None,
    hooks: Hooks | None = None,
    *,
    folders: Sequence[str] = (),
) -> RunReport:
    """Embed every shard that the table does not hold yet, each readable image once.

    A shard that is done is skipped. In a shard that an earlier run began, samples that are stored are skipped.
    `folders` are absolute paths that the user named: shards that lay there and are gone are counted, as are rows whose
    file is gone from a folder of images.
    Ctrl-C or SIGTERM commits what is embedded so far and sets `interrupted` in the report.
    Raises ShardChanged before any work where a shard's identity is not the stored one, EncoderMismatch,
    StoreLocked, and TooManyFailures.
    """
    options, hooks = options or RunOptions(), hooks or Hooks()
    store.require(encoder.spec)
    start = time.perf_counter()
    with StoreWriter(store) as writer, recorded(store, options.command, _run_facts(options, len(shards))) as record:
        shards = [replace(shard, keys=store.keys) for shard in under_stored_names(shards, writer.entries)]
        for shard in shards:
            key_prefix(shard)  # raises before any work
        plan = _plan(shards, writer.entries, options.changed)
        gone = settle_gone(writer, shards, plan, folders, drop=options.gone == "drop")
        writer.expect({planned.shard.name for planned in plan}, {p.shard.name for p in plan if p.replaces})
        trusted = remember(identity_of(store), {address for shard in shards for address in addresses(shard)})
        done = run_engine(writer, plan, encoder, options, hooks, start=start, record=record)
        skipped = _skipped(shards, plan, writer.entries)
        untrusted = f"{state_file()} cannot be written: pictures of this table are shown with --pictures-from alone"
        recovered = f"{writer.recovered} rows of a run that died between two writes were removed and embedded again"
        more = [*writer.notes, *([recovered] if writer.recovered else []), *([] if trusted else [untrusted])]
        done = replace(
            done,
            shards_skipped=len(skipped),
            shards_partial=done.shards_partial + sum(entry.status == "partial" for entry in skipped),
            gone=gone.rows,
        )
        if record is not None:  # without keys: an image may be deleted later, and its key with it
            record.report = replace(done, warnings=(*done.warnings, *gone.words(named=False), *more))
    return replace(done, warnings=(*done.warnings, *gone.words(), *more))


def run_engine(
    writer: StoreWriter,
    plan: Sequence[Planned],
    encoder: Encoder,
    options: RunOptions,
    hooks: Hooks,
    *,
    start: float,
    read: ReadShard | None = None,
    record: RunRecord | None = None,
) -> RunReport:
    """Process `plan` with an open writer. With `read`, only the samples it yields are added to shards that are done."""
    engine = Threads(
        encoder,
        workers=options.workers or encoder.workers,
        frames=options.frames,
        part_rows=options.commit_rows,
        read=read or read_shard,
    )
    commit = writer.commit if read is None else writer.commit_retry
    committer = Committer(writer, commit, engine.tally, rows=options.commit_rows, seconds=options.commit_seconds)

    def report() -> RunReport:
        return _report(writer.store, engine, committer.totals, time.perf_counter() - start)

    with stopped_by_signals(engine.stop) as interrupted:
        try:
            held = writer.held_elsewhere() if read is None else held_nowhere
            cosine = _drive(engine, plan, _lookup(writer, held), committer, options, hooks)
        finally:
            try:
                engine.close()
            finally:
                if record is not None:  # also for a run that ends with an error
                    record.report = report()
    if not interrupted.is_set():  # merging fragments may take minutes; the next run does it
        writer.tidy()
    done = report()
    many = read is None and too_many(done, options.max_failures)
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


def _lookup(writer: StoreWriter, held: Held) -> Lookup:
    def lookup(planned: Planned) -> Before:
        name = planned.shard.name
        return Before(
            writer.vectors_by_content(name) if planned.replaces else {},
            writer.stored(name) if planned.resumes else (),
            held,
            writer.tombstones,
        )

    return lookup


def _run_facts(options: RunOptions, shards: int) -> dict[str, object]:
    """The options and the number of shards, for the run's record."""
    return {"options": {k: v for k, v in asdict(options).items() if k != "command"}, "shards_named": shards}


def _report(store: EmbeddingStore, engine: Threads, totals: Totals, seconds: float) -> RunReport:
    tally = engine.tally
    times = stage_times(tally.busy, workers=engine.workers)
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
            device=engine.encoder.device,
            decoder=engine.encoder.spec.pixels.decoder,
            kept=totals.reused + totals.adopted + tally.kept,
        ),
        precision_cosine=None,
        interrupted=False,
        warnings=(*spread_warning(tally.spread.mean_cosine()), *notes),
        adopted=totals.adopted,
        decoder_difference=engine.decoder.difference if engine.decoder else None,
    )


def _plan(shards: Sequence[Shard], entries: dict[str, LedgerEntry], changed: str) -> list[Planned]:
    """The shards to process. Raises ShardChanged."""
    plan: list[Planned] = []
    differing: list[Shard] = []
    for shard in shards:
        entry = entries.get(shard.name)
        if entry is None:
            plan.append(Planned(shard))
        elif entry.identity == UNREAD:
            plan.append(Planned(shard, replaces=True))
        elif entry.identity != shard.identity:
            # a shard that was truncated, or not read to its end, is expected to change
            if changed != "replace" and entry.status == "done":
                differing.append(shard)
            plan.append(Planned(shard, replaces=True))
        elif entry.status == BEGUN:
            plan.append(Planned(shard, resumes=True))
    if differing:
        raise ShardChanged(
            f"{changed_words(differing)}. Take the new content with --changed replace (same images keep their "
            "vectors), or restore what was there."
        )
    return plan


def _skipped(shards: Sequence[Shard], plan: Sequence[Planned], entries: dict[str, LedgerEntry]) -> list[LedgerEntry]:
    named = {planned.shard.name for planned in plan}
    return [entries[shard.name] for shard in shards if shard.name not in named]


def _drive(
    engine: Engine, plan: Sequence[Planned], lookup: Lookup, committer: Committer, options: RunOptions, hooks: Hooks
) -> float | None:
    """The calling thread's loop, until all of `plan` is committed or the run is to stop. Gives the precision cosine."""
    tally, totals, meter = engine.tally, committer.totals, Meter(plan, engine.tally)
    cosine: float | None = None

    def take(result: ShardResult) -> None:
        committer.add(result)
        meter.add(result)

    def advance() -> None:
        done = totals.done + totals.partial
        images = tally.resolved + tally.kept + tally.adopted
        hooks.progress.advance(meter.steps(), shards=done, images=images, failed=tally.failed)

    with hooks.progress.stage(f"embedding {len(plan)} {plural('shard', len(plan))}", meter.total):
        for result in engine.results(plan, lookup):
            # a large shard on a slow machine: what is settled of it is not lost with the power
            parts = [result] if result is not None else engine.settled() if committer.late else []
            for part in parts:
                take(part)
            if committer.due:
                committer.commit()
            if cosine is None and hooks.precision_check and tally.sample_pictures:
                cosine = hooks.precision_check(np.stack(tally.sample_pictures))
            advance()
            seen, failed = tally.resolved + tally.adopted, tally.failed - tally.reasons[DELETED]
            if seen >= FAILURE_GRACE and failed > options.max_failures * seen:
                engine.stop.set()
                committer.commit()
                raise _too_many_failures(tally, failed, seen, options.max_failures)
        for part in engine.settled():  # what is whole at a stop is kept, with one commit, since somebody waits
            take(part)
        committer.commit()
        advance()
    return cosine


def _too_many_failures(tally: Tally, failed: int, seen: int, most: float) -> TooManyFailures:
    return TooManyFailures(
        f"{failed} of the first {seen} images failed, more than --max-failures {most:g}, most often: "
        f"{tally.reasons.most_common(1)[0][0]}. Are these the right files? See `indexer doctor`, and `indexer "
        "failures` for what is stored: it is kept."
    )
