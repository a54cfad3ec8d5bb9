"""index_part(): the shards of one part → pending files, then commits in turn with the other parts."""

from __future__ import annotations

import math
import secrets
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from indexer.archive.reader import key_prefix
from indexer.archive.roots import remember
from indexer.archive.shards import under_stored_names
from indexer.errors import StoreLocked, sentence
from indexer.pipeline.drive import Driven, Hooks, drive
from indexer.pipeline.engines.engine import Engine, Lookup
from indexer.pipeline.in_flight import Before, Planned
from indexer.pipeline.options import RunOptions
from indexer.pipeline.parts.commit import CommitReport, commit_pending
from indexer.pipeline.parts.dealt import PartOptions, dealt
from indexer.pipeline.parts.sink import PendingSink
from indexer.pipeline.run import plan_of
from indexer.pipeline.run_record import recorded
from indexer.store.pending.form import pending_name
from indexer.store.pending.place import PendingPlace, pending_place
from indexer.store.table import EmbeddingStore, identity_of
from indexer.store.writer import StoreWriter
from indexer.store.writing.deleted import Tombstones
from indexer.store.writing.held import HeldElsewhere
from indexer.store.writing.keys import ShardRows, TableKeys
from indexer.store.writing.side_tables import BEGUN, entries_of
from indexer.types import RunReport, Shard

SAID_SECONDS = 30.0  # between two notes that the table is awaited
LOOKS = (0.2, 3.0)  # seconds between two looks, at random


def index_part(
    engine: Engine,
    shards: Sequence[Shard],
    store: EmbeddingStore,
    options: RunOptions,
    which: PartOptions,
    hooks: Hooks,
) -> tuple[RunReport, CommitReport | None]:
    """Embed the shards of one part that the table does not hold and that do not wait beside it.

    The table's lock is held for the commit alone. A part that is killed, or done twice at the same time, neither loses
    nor doubles a row: a shard's file appears whole, under a name that follows from the shard and its content.
    The commit's report is None where nothing was to be committed, or the run was interrupted.
    Raises ShardChanged, EncoderMismatch, TooManyFailures, and StoreLocked where the other parts' commits took longer
    than `wait_seconds`.
    """
    start = time.perf_counter()
    store.require(engine.spec)
    entries, place = entries_of(store), pending_place(store)
    shards = [replace(shard, keys=store.keys, tiles=store.tiles) for shard in under_stored_names(shards, entries)]
    own = dealt(shards, which.part)
    for shard in own:
        key_prefix(shard)  # raises before any work
    todo = plan_of(own, entries, options.changed)
    names = {planned.shard.name: pending_name(planned.shard.name, planned.shard.identity) for planned in todo}
    waiting = set(names.values()) & set(place.names())
    files: defaultdict[str, dict[str, bytes]] = defaultdict(dict)  # of a shard, for the run's record
    plan = [
        Planned(
            replace(planned.shard, beside=partial(_keep, files[planned.shard.name])),
            replaces=planned.replaces or planned.resumes,
        )
        for planned in todo
        if names[planned.shard.name] not in waiting
    ]
    remember(identity_of(store), {address for shard in own for address in (shard.url, *shard.roots)})
    with PendingSink(store, place, names, entries, files) as sink:
        report = drive(Driven(engine, sink, start), store, plan, lambda: _lookup(store, shards, sink), options, hooks)
    report = replace(
        report, part=str(which.part), shards_skipped=len(own) - len(plan), pending=len(waiting) + sink.kept
    )
    if report.interrupted or not which.commit or not todo:
        return report, None
    mine = _Own(place, {planned.shard.name: planned.shard.identity for planned in todo}, report)
    committed = _committed(store, mine, which, options, hooks)
    return replace(report, pending=len(set(names.values()) & set(place.names()))), committed


def _keep(files: dict[str, bytes], name: str, data: bytes) -> None:
    files[name] = data


def _lookup(store: EmbeddingStore, shards: Sequence[Shard], sink: PendingSink) -> Lookup:
    """As a writer's, from the table as it is now. Rows of the archive's own shards count for nothing."""
    rows, tombstones = ShardRows(store), Tombstones(store)
    held = HeldElsewhere(store, TableKeys(store), [shard.name for shard in shards])

    def lookup(planned: Planned) -> Before:
        known = rows.vectors_by_content(planned.shard.name) if planned.replaces else {}
        return Before(known, sink.received(planned.shard) or (), held, tombstones)

    return lookup


def _committed(store: EmbeddingStore, own: _Own, which: PartOptions, options: RunOptions, hooks: Hooks) -> CommitReport:
    """Commit all that waits, in turn with other parts; another part may have committed this one's shards."""
    until, said = time.monotonic() + which.wait_seconds, -math.inf
    while True:
        try:
            with StoreWriter(store) as writer, recorded(store, options.command, {"part": str(which.part)}) as record:
                record.report = own.report
                beside = record.beside
                return commit_pending(writer, own.place, hooks.progress, rows=options.commit_rows, beside=beside)
        except StoreLocked as error:
            now = time.monotonic()
            if own.is_stored(store):
                return CommitReport(store.name, before=len(own.identities), notes=["another part committed this one's"])
            if now > until:
                raise StoreLocked(
                    f"{sentence(error)}. This part's rows wait in {own.place.where}: add them with "
                    f"`indexer commit {store.uri} --table {store.name}`."
                ) from error
            if now - said > SAID_SECONDS:
                hooks.progress.note(f"this part is embedded and waits for its turn to commit: {error}")
                said = now
        time.sleep(secrets.SystemRandom().uniform(*LOOKS))  # so that waiting parts do not look at the same moment


@dataclass(frozen=True)
class _Own:
    """What a part has embedded."""

    place: PendingPlace
    identities: Mapping[str, str]  # by shard name
    report: RunReport

    def is_stored(self, store: EmbeddingStore) -> bool:
        entries = entries_of(store)
        return all(
            (entry := entries.get(name)) is not None and entry.identity == identity and entry.status != BEGUN
            for name, identity in self.identities.items()
        )
