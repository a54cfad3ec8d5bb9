"""Embed again just those samples that failed, with today's decoders."""

from __future__ import annotations

import time
from collections.abc import Iterator

from indexer.pipeline.jobs import Encoder
from indexer.pipeline.run import Hooks, RunOptions, run_stages
from indexer.reader import read_shard
from indexer.shards import find_shards
from indexer.store.store import EmbeddingStore
from indexer.store.writer import StoreWriter
from indexer.types import Failure, RunReport, Sample, Shard

RETRIED_STAGES = ("decode", "encode")  # a bad member or a duplicate key stays what it is until its shard changes


def retry(
    store: EmbeddingStore, encoder: Encoder, options: RunOptions | None = None, hooks: Hooks | None = None
) -> RunReport:
    """Read the failed samples of every shard again; those that now decode become rows.

    Raises ShardNotFound where a shard is gone; a shard that changed is left to `index --changed replace`.
    """
    start = time.perf_counter()
    store.require(encoder.spec)
    rows = store.failures(" OR ".join(f"stage = '{s}'" for s in RETRIED_STAGES)).select(["shard", "key"]).to_pylist()
    failed: dict[str, set[str]] = {}
    for row in rows:
        failed.setdefault(row["shard"], set()).add(row["key"])

    def read_failed(shard: Shard) -> Iterator[Sample | Failure]:
        wanted = failed[shard.name]
        return (s for s in read_shard(shard) if isinstance(s, Sample) and s.key in wanted)

    urls = store.urls()
    found = find_shards(sorted({urls[name] for name in failed})).shards if failed else ()
    with StoreWriter(store) as writer:
        plan = [
            (shard, False)
            for shard in found
            if shard.name in failed and writer.entries[shard.name].identity == shard.identity
        ]
        return run_stages(
            writer, plan, encoder, options or RunOptions(), hooks or Hooks(), read=read_failed, start=start
        )
