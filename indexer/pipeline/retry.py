"""Embed again just those samples that failed, with today's decoders."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from indexer.archive.reader import read_shard
from indexer.archive.shards import find_shards
from indexer.pipeline.in_flight import Planned
from indexer.pipeline.options import RunOptions
from indexer.pipeline.report import plural
from indexer.pipeline.run import Hooks, run_engine
from indexer.pipeline.run_record import recorded
from indexer.store.table import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.store.writing.side_tables import BEGUN, RETRIED
from indexer.types import Encoder, Failure, RunReport, Sample, Shard


def retry(
    store: EmbeddingStore, encoder: Encoder, options: RunOptions | None = None, hooks: Hooks | None = None
) -> RunReport:
    """Read the failed samples of every shard again; those that now decode become rows.

    Raises ShardNotFound where a shard is gone; a shard that changed is left to `index --changed replace`.
    """
    start = time.perf_counter()
    store.require(encoder.spec)
    rows = store.failures(RETRIED).select(["shard", "key"]).to_pylist()
    ledger = {row["shard"]: row for row in store.ledger().to_pylist() if row["status"] != BEGUN}
    failed: dict[str, set[str]] = {}
    for row in rows:
        if row["shard"] in ledger:  # a shard without a row there was in progress when a run died: index goes on with it
            failed.setdefault(row["shard"], set()).add(row["key"])

    def read_failed(shard: Shard) -> Iterator[Sample | Failure]:
        wanted = failed[shard.name]
        return (s for s in read_shard(shard) if isinstance(s, Sample) and s.key in wanted)

    found = _found(ledger, failed)
    options = options or RunOptions()
    facts = {"retried": sum(map(len, failed.values())), "shards_named": len(failed)}
    with StoreWriter(store) as writer, recorded(store, options.command, facts) as record:
        entries = writer.entries  # which the writer may have mended
        plan = [Planned(s) for s in found if s.name in entries and entries[s.name].identity == s.identity]
        report = run_engine(
            writer, plan, encoder, options, hooks or Hooks(), read=read_failed, start=start, record=record
        )
        changed = len(failed) - len(plan)
        if changed:
            words = f"{changed} {plural('shard', changed)} with failures changed since they were indexed"
            report = replace(report, warnings=(*report.warnings, f"{words}: take them with `index --changed replace`"))
        if record is not None:
            record.report = report
    return report


def _found(ledger: Mapping[str, Mapping[str, Any]], failed: Collection[str]) -> list[Shard]:
    """These shards as they are now, each with its identity of the kind that the ledger holds: of times, or of bytes."""
    by_name: dict[str, Shard] = {}
    for hash_content in (False, True):
        urls = {ledger[name]["url"] for name in failed if name not in by_name}
        for shard in find_shards(sorted(urls), hash_content=hash_content).shards if urls else ():
            if shard.name in failed and shard.identity == ledger[shard.name]["identity"]:
                by_name[shard.name] = shard
    return list(by_name.values())
