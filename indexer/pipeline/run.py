"""index(): a plan of shards → committed rows and a RunReport."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace

from indexer.archive.reader import key_prefix, read_shard
from indexer.archive.roots import remember, state_file
from indexer.archive.shards import changed_words, under_stored_names
from indexer.errors import ShardChanged
from indexer.groups.flaws import MOST_ROWS, SERIES, series_flaws
from indexer.pipeline.commit import Committer
from indexer.pipeline.drive import Driven, Hooks, drive
from indexer.pipeline.engines.engine import Engine, Lookup
from indexer.pipeline.engines.processes import Processes, processes_for
from indexer.pipeline.engines.threads import Threads
from indexer.pipeline.gone import settle_gone
from indexer.pipeline.in_flight import Before, Held, Planned, ReadShard, held_nowhere
from indexer.pipeline.options import RunOptions
from indexer.pipeline.run_record import RunRecord, recorded
from indexer.store.table import EmbeddingStore, identity_of
from indexer.store.writer import StoreWriter
from indexer.store.writing.side_tables import BEGUN, LedgerEntry
from indexer.types import UNREAD, Encoder, RunReport, Shard


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
    store.require(encoder.spec)
    options = options or RunOptions()
    return index_by(engine_for(encoder, options), shards, store, options, hooks, folders=folders)


def index_by(
    engine: Engine,
    shards: Sequence[Shard],
    store: EmbeddingStore,
    options: RunOptions,
    hooks: Hooks | None = None,
    *,
    folders: Sequence[str] = (),
) -> RunReport:
    """`index` by this engine."""
    hooks, start = hooks or Hooks(), time.perf_counter()
    store.require(engine.spec)
    with StoreWriter(store) as writer, recorded(store, options.command, _run_facts(options, len(shards))) as record:
        shards = [
            replace(shard, keys=store.keys, tiles=store.tiles, beside=record.beside)
            for shard in under_stored_names(shards, writer.entries)
        ]
        for shard in shards:
            key_prefix(shard)  # raises before any work
        plan = plan_of(shards, writer.entries, options.changed)
        gone = settle_gone(writer, shards, plan, folders, drop=options.gone == "drop")
        writer.expect({planned.shard.name for planned in plan}, {p.shard.name for p in plan if p.replaces})
        trusted = remember(identity_of(store), {address for shard in shards for address in (shard.url, *shard.roots)})
        done = run_engine(writer, plan, engine, options, hooks, start=start, record=record)
        skipped = _skipped(shards, plan, writer.entries)
        untrusted = f"{state_file()} cannot be written: pictures of this table are shown with --pictures-from alone"
        recovered = f"{writer.recovered} rows of a run that died between two writes were removed and embedded again"
        more = [*writer.notes, *([recovered] if writer.recovered else []), *([] if trusted else [untrusted])]
        if done.embedded and not done.interrupted:
            done, more = _with_flaws(done, store, hooks, more)
        done = replace(
            done,
            shards_skipped=len(skipped),
            shards_partial=done.shards_partial + sum(entry.status == "partial" for entry in skipped),
            gone=gone.rows,
        )
        if record is not None:  # without keys: an image may be deleted later, and its key with it
            flaws = tuple(replace(flaw, examples=()) for flaw in done.series_flaws)
            warnings = (*done.warnings, *gone.words(named=False), *more)
            record.report = replace(done, warnings=warnings, series_flaws=flaws)
    return replace(done, warnings=(*done.warnings, *gone.words(), *more))


def _with_flaws(done: RunReport, store: EmbeddingStore, hooks: Hooks, more: list[str]) -> tuple[RunReport, list[str]]:
    """The report with the flaws of the table's series; of a large table a warning that they were not looked for."""
    if store.count() <= MOST_ROWS:
        return replace(done, series_flaws=series_flaws(store, hooks.progress)), more
    hint = f"{store.name} has over {MOST_ROWS:,} rows: indexer info --by series --flagged looks for flaws of its series"
    return done, [*more, hint] if SERIES in store.columns() else more


def run_engine(
    writer: StoreWriter,
    plan: Sequence[Planned],
    engine: Engine,
    options: RunOptions,
    hooks: Hooks,
    *,
    start: float,
    retried: bool = False,
    record: RunRecord | None = None,
) -> RunReport:
    """Process `plan` with an open writer. `retried`: samples are added to shards that are done."""
    commit = writer.commit_retry if retried else writer.commit
    rows = options.commit_rows * engine.parts_a_commit
    committer = Committer(writer, commit, engine.tally, rows=rows, seconds=options.commit_seconds)

    def lookup() -> Lookup:
        return _lookup(writer, held_nowhere if retried else writer.held_elsewhere())

    return drive(Driven(engine, committer, start, record, not retried), writer.store, plan, lookup, options, hooks)


def engine_for(encoder: Encoder, options: RunOptions) -> Engine:
    """The engine of this machine: threads, and for a GPU on several cores processes that decode for it."""
    processes = processes_for(encoder, options.processes)
    return Processes(encoder, processes, options) if processes else threads_for(encoder, options)


def threads_for(encoder: Encoder, options: RunOptions, read: ReadShard | None = None) -> Threads:
    """The engine of this process alone."""
    return Threads(
        encoder,
        workers=options.workers or encoder.workers,
        frames=options.frames,
        time=options.time,
        part_rows=options.commit_rows,
        read=read or read_shard,
    )


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


def plan_of(shards: Sequence[Shard], entries: dict[str, LedgerEntry], changed: str) -> list[Planned]:
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
