"""Batch search: every image of some shards is a query, and the hits are streamed to a Parquet file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from indexer.archive.reader import read_shard
from indexer.cores import cores
from indexer.errors import PixelError, ReadError
from indexer.output_file import require_writable, written_whole
from indexer.progress.silent import SILENT
from indexer.search.answer import answer
from indexer.search.options import SearchOptions
from indexer.search.queries import Query
from indexer.search.searcher import Searcher
from indexer.types import Failure, PixelSpec, Progress, Sample, Shard, UInt8

CHUNK = 256  # images decoded and searched together


@dataclass(frozen=True)
class BatchReport:
    """Counts of a batch search: images = searched + failed."""

    images: int
    searched: int
    failed: int
    hits: int
    out: str


@dataclass(frozen=True)
class _Query:
    shard: str
    key: str
    pixels: UInt8 | None
    own: Any = None  # its value in the column of --exclude-same
    error: str | None = None


def search_shards(
    searcher: Searcher,
    shards: Iterable[Shard],
    options: SearchOptions,
    out: Path,
    *,
    progress: Progress = SILENT,
) -> BatchReport:
    """Write one row for each hit; an image that cannot be read or decoded, or has no hit, is one row without a rank.

    The query of an image with several parts is its middle part. Columns: query_shard, query, rank, score, key, error,
    with `one_per` also more, then the columns of `options`. The file appears once it is complete. Raises InputError
    where it cannot be written.
    """
    view = searcher.snapshot.view
    kinds = {"shard": pa.string(), "content": pa.string(), **view.columns()}
    extra = [pa.field(name, kinds.get(name, pa.string())) for name in options.columns]
    more = [] if options.one_per is None else [pa.field("more", pa.int64())]
    schema = pa.schema(_FIELDS + more + extra)
    require_writable(out, "--out")
    images = failed = hits = 0
    with (
        progress.stage("searching"),
        written_whole(out) as partial,
        pq.ParquetWriter(partial, schema) as writer,
        ThreadPoolExecutor(cores()) as pool,
    ):
        samples = _samples(replace(shard, keys=view.keys, tiles=view.tiles) for shard in shards)
        decode = _Decoder(searcher.encoder.spec.pixels, options.exclude_same)
        while chunk := list(islice(samples, CHUNK)):
            queries = list(pool.map(decode, chunk))
            rows = _rows(searcher, queries, options)
            writer.write_table(pa.Table.from_pylist(rows, schema))
            images += len(queries)
            failed += sum(q.error is not None for q in queries)
            hits += sum(row["rank"] is not None for row in rows)
            progress.advance(len(queries), images=images, failed=failed)
    return BatchReport(images, images - failed, failed, hits, str(out))


_FIELDS = [
    pa.field("query_shard", pa.string(), False),
    pa.field("query", pa.string(), False),
    pa.field("rank", pa.int32()),
    pa.field("score", pa.float32()),
    pa.field("key", pa.string()),
    pa.field("error", pa.string()),
]


@dataclass(frozen=True)
class _Decoder:
    spec: PixelSpec
    column: str | None

    def __call__(self, item: Sample | Failure) -> _Query:
        from indexer.pixels import decode

        if isinstance(item, Failure):
            return _Query(item.shard, item.key, None, error=f"{item.reason}: {item.detail}")
        try:
            (picture,) = decode(item.read(), item.suffix, self.spec, frames="middle")
        except PixelError as error:
            return _Query(item.shard, item.key, None, error=str(error))
        own = item.metadata.get(self.column) if self.column else None
        return _Query(item.shard, item.key, picture.pixels, own)


def _samples(shards: Iterable[Shard]) -> Iterator[Sample | Failure]:
    """The samples of all shards; a truncated or damaged shard adds one failure, and reading goes on with the next."""
    for shard in shards:
        try:
            yield from read_shard(shard)
        except ReadError as error:
            yield Failure(shard.name, shard.name, "read", "shard cannot be read to its end", str(error))


def _rows(searcher: Searcher, queries: list[_Query], options: SearchOptions) -> list[dict[str, Any]]:
    good = [q for q in queries if q.pixels is not None]
    answers = {}
    if good:
        size = searcher.encoder.batch_size
        blocks = [
            searcher.encoder.embed(np.stack([q.pixels for q in good[i : i + size] if q.pixels is not None]))
            for i in range(0, len(good), size)
        ]
        query = Query(vectors=np.concatenate(blocks), own=tuple(q.own for q in good))
        found = answer(searcher, query, options).queries
        answers = {id(q): own.hits for q, own in zip(good, found, strict=True)}
    rows: list[dict[str, Any]] = []
    for q in queries:
        named = {"query_shard": q.shard, "query": q.key}
        hits = answers.get(id(q), [])
        rows += [named | {"rank": h.rank, "score": h.score, "key": h.key, "more": h.more} | h.columns for h in hits]
        if not hits:
            rows.append(named | {"rank": None, "error": q.error})
    return rows
