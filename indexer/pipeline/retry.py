"""Reads and embeds again only the samples that failed, with the decoders installed now."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from indexer.archive.reader import read_shard
from indexer.archive.roots import is_below, named, remembered
from indexer.archive.shards import find_again, find_shards, under_stored_names
from indexer.pipeline.drive import Hooks
from indexer.pipeline.in_flight import Planned
from indexer.pipeline.options import RunOptions
from indexer.pipeline.report import plural
from indexer.pipeline.run import run_engine, threads_for
from indexer.pipeline.run_record import recorded
from indexer.redact import can_be_reopened
from indexer.store.table import EmbeddingStore, identity_of
from indexer.store.writer import StoreWriter
from indexer.store.writing.side_tables import BEGUN, RETRIED
from indexer.types import Encoder, Failure, RunReport, Sample, Shard

NOT_STORED = (
    "some shards were not read again, since their addresses held a command or a query and were not stored: name them, "
    "`indexer failures DB SHARDS... --retry`"
)
NOT_TRUSTED = (
    "some shards were not read again, since they lie below no folder that you indexed this table from on this machine: "
    "name it with --pictures-from"
)


def retry(
    store: EmbeddingStore,
    encoder: Encoder,
    options: RunOptions | None = None,
    hooks: Hooks | None = None,
    *,
    sources: Sequence[str] = (),
    roots: Sequence[str] = (),
) -> RunReport:
    """Read the failed samples of every shard again; those that now decode become rows.

    A shard is read from `sources` where one of them has its name, else from the address in the ledger where that lies
    below a folder that this user indexed the table from, or below `roots`. The report's warnings name those that were
    left out. Raises ShardNotFound where a shard is gone; a shard that changed is left to `index --changed replace`.
    """
    start = time.perf_counter()
    store.require(encoder.spec)
    left = Counter(store.failures(f"NOT ({RETRIED})").column("reason").to_pylist())
    rows = store.failures(RETRIED).select(["shard", "key", "member", "offset"]).to_pylist()
    ledger = {row["shard"]: row for row in store.ledger().to_pylist() if row["status"] != BEGUN}
    failed: dict[str, set[str]] = {}
    places: dict[str, set[tuple[str, int]]] = {}
    for row in rows:
        if row["shard"] in ledger:  # without a ledger row: was in progress when a run died; index resumes it
            failed.setdefault(row["shard"], set()).add(row["key"])
            places.setdefault(row["shard"], set()).add((row["member"], row["offset"]))

    def read_failed(shard: Shard) -> Iterator[Sample | Failure]:
        wanted, places_of_it = failed[shard.name], places[shard.name]
        others = _AllBut(places_of_it) if all(member for member, _ in places_of_it) else ()
        samples = read_shard(replace(shard, keys=store.keys, tiles=store.tiles, stored=others))

        def chosen(item: Sample | Failure) -> bool:
            return isinstance(item, Sample) and item.key in wanted and (item.member, item.offset) not in others

        return filter(chosen, samples)  # which holds no image while the next one is read

    allowed = (*remembered(identity_of(store)), *named(roots))
    found, out_of_reach = _found(ledger, failed, sources, allowed)
    options = options or RunOptions()
    facts = {"retried": sum(map(len, failed.values())), "shards_named": len(failed)}
    with StoreWriter(store) as writer, recorded(store, options.command, facts) as record:
        entries = writer.entries  # read after the writer's recovery, which may have changed it
        plan = [Planned(s) for s in found if s.name in entries and entries[s.name].identity == s.identity]
        engine = threads_for(encoder, options, read_failed)
        report = run_engine(writer, plan, engine, options, hooks or Hooks(), retried=True, start=start, record=record)
        changed = len(failed) - len(plan) - sum(map(len, out_of_reach.values()))
        left_out = [f"{words}, first {sorted(names)[0]}" for words, names in out_of_reach.items()]
        if left:
            words = ", ".join(f"{n} x {reason}" for reason, n in left.most_common())
            left_out.append(f"not tried again: {words}. Replaced files are taken by `index --changed replace`")
        report = replace(report, warnings=(*report.warnings, *left_out))
        if changed:
            words = f"{changed} {plural('shard', changed)} with failures changed since they were indexed"
            report = replace(report, warnings=(*report.warnings, f"{words}: take them with `index --changed replace`"))
        if record is not None:
            record.report = report
    return report


class _AllBut:
    """All places but those that failed: the bytes of the others are not read, which a server would have to send."""

    def __init__(self, failed: Collection[tuple[str, int]]) -> None:
        self._failed = failed

    def __contains__(self, place: object) -> bool:
        return place not in self._failed


def _found(
    ledger: Mapping[str, Mapping[str, Any]], failed: Collection[str], sources: Sequence[str], roots: Sequence[str]
) -> tuple[list[Shard], dict[str, list[str]]]:
    """The unchanged ones of these shards, and the names of those that are not opened, by reason.

    A shard's identity is compared as the ledger holds it: of size and modification time, or of a hash of the bytes.
    """
    by_name: dict[str, Shard] = {}
    given: set[str] = set()
    for hash_content in (False, True):
        shards = find_shards(sources, hash_content=hash_content).shards if sources else ()
        for named_so in under_stored_names(shards, ledger):
            if named_so.name in failed:
                given.add(named_so.name)
                if named_so.identity == ledger[named_so.name]["identity"]:
                    by_name[named_so.name] = named_so
    left = [name for name in failed if name not in given]
    out_of_reach = _out_of_reach({name: ledger[name]["url"] for name in left}, roots)
    refused = {name for names in out_of_reach.values() for name in names}
    for hash_content in (False, True):
        urls = {name: ledger[name]["url"] for name in left if name not in refused and name not in by_name}
        identities = {name: ledger[name]["identity"] for name in urls}
        for shard in find_again(urls, identities, hash_content=hash_content):
            if shard.name in left and shard.identity == ledger[shard.name]["identity"]:
                by_name[shard.name] = shard
    return list(by_name.values()), out_of_reach


def _out_of_reach(urls: Mapping[str, str], roots: Sequence[str]) -> dict[str, list[str]]:
    """Names of the shards whose address in the ledger is not opened, by the warning that says why and what to do."""
    by_reason: defaultdict[str, list[str]] = defaultdict(list)
    for name, url in urls.items():
        if not can_be_reopened(url):
            by_reason[NOT_STORED].append(name)
        elif not is_below(url, roots):
            by_reason[NOT_TRUSTED].append(name)
    return dict(by_reason)
