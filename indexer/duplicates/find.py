"""Finds near-duplicate images in a table: pairs, clusters, and pairs across patients or splits (leakage).

Two rows are near-duplicates where their cosine reaches the threshold, or where they are one picture (`copies`). All
pairs are counted, but not all are held: copies are compared once, and of a cluster of many pairs only some are listed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexer.duplicates.copies import PICTURE, Copies, read_copies
from indexer.duplicates.facts import facts_of, with_facts
from indexer.duplicates.listing import Clusters, Listing, clusters_of, joined
from indexer.duplicates.options import NearOptions
from indexer.duplicates.pairs import PairSearch, ordered_rows
from indexer.duplicates.scratch import Scratch
from indexer.duplicates.tally import Tally
from indexer.errors import InputError
from indexer.malloc import release_freed_memory
from indexer.progress.silent import SILENT
from indexer.store.table import EmbeddingStore
from indexer.types import Int64, Progress

BLOCK_PAIRS = 1 << 16  # pairs whose keys and columns are held at once
TAKE_ROWS = 65_536

Sink = Callable[[pa.Table], None]


@dataclass(frozen=True)
class NearReport:
    """Counts over all pairs at or above the threshold, listed or not."""

    table: str
    version: int
    rows: int
    threshold: float
    pairs: int
    same_bytes: int  # pairs of images whose files are equal, and, for files with several parts, the part too
    clusters: int  # connected components of the pairs
    rows_in_clusters: int
    largest_cluster: int
    largest_cluster_pairs: int
    listed_pairs: int
    clusters_listed_in_part: int  # of more than `pairs_per_cluster` pairs: each image with its nearest
    within_group: int | None  # None where no group column was named
    across_groups: int | None
    group_unknown: int | None  # pairs in which a row has no group
    across_splits: int | None
    split_pairs: dict[str, int] | None  # "test / train" → number of pairs
    leaked_rows: dict[str, int] | None  # split → number of its rows with a near-duplicate in another split
    distinct: int  # rows compared: one for each picture
    candidates: int  # pairs of these scored in full; all others were excluded by a bound
    seconds: float


def find_near_duplicates(
    store: EmbeddingStore, options: NearOptions, *, progress: Progress = SILENT
) -> tuple[NearReport, pa.Table]:
    """The summary, and one row for each listed pair: keys, score, cluster, the cluster's pairs, and both rows' group
    and split where requested.

    Exact: every pair over the threshold is found and counted. A cluster of more than `options.pairs_per_cluster` pairs
    is listed by each of its images with its nearest near-duplicate.
    """
    blocks: list[pa.Table] = []
    report = stream_near_duplicates(store, options, blocks.append, progress=progress)
    return report, pa.concat_tables(blocks)


def stream_near_duplicates(
    store: EmbeddingStore,
    options: NearOptions,
    sink: Sink,
    *,
    members: Sink | None = None,
    progress: Progress = SILENT,
) -> NearReport:
    """As `find_near_duplicates`, but the pairs are passed to `sink` in blocks, at least one, in bounded memory.

    `members` is passed every row that is in a cluster: key, cluster, its number of rows, group and split.
    """
    started = time.perf_counter()
    view = store.at(store.version)
    columns = _columns(view, options)
    with tempfile.TemporaryDirectory(prefix="near-duplicates-") as folder:
        scratch = Scratch(Path(folder))
        copies = read_copies(view, options.where, columns, scratch, progress)
        release_freed_memory()
        tally = Tally(copies, options.group, options.split, scratch)
        candidates = _compare(copies, tally, options.threshold, scratch, progress)
        clusters = clusters_of(copies, tally)
        listing = Listing(copies, tally, clusters, options.threshold, options.pairs_per_cluster)
        listed = 0
        facts = facts_of(view, options)
        for table in _pair_tables(view, copies, clusters, listing, columns):
            listed += table.num_rows
            sink(with_facts(table, facts))
        if members is not None:
            for table in _member_tables(view, copies, clusters, listing, columns):
                members(table)
        return NearReport(
            table=view.name,
            version=view.version,
            rows=len(copies.row_ids),
            threshold=options.threshold,
            pairs=tally.pairs,
            same_bytes=copies.same_bytes,
            clusters=len(clusters),
            rows_in_clusters=int(clusters.rows.sum()),
            largest_cluster=int(clusters.rows.max(initial=0)),
            largest_cluster_pairs=int(clusters.pairs.max(initial=0)),
            listed_pairs=listed,
            clusters_listed_in_part=int((clusters.pairs > options.pairs_per_cluster).sum()),
            distinct=len(copies.first),
            candidates=candidates,
            seconds=round(time.perf_counter() - started, 3),
            **tally.facts(copies, options.group, options.split),
        )


def _columns(view: EmbeddingStore, options: NearOptions) -> list[str]:
    extra = [c for c in (options.group, options.split) if c is not None]
    for name in extra:
        if name not in view.columns():
            raise InputError(f"no column {name!r} in table {view.name}; it has {', '.join(view.columns()) or 'none'}.")
    return list(dict.fromkeys(extra))


def _compare(copies: Copies, tally: Tally, threshold: float, scratch: Scratch, progress: Progress) -> int:
    """Count all pairs of classes; returns how many were scored in full."""
    if len(copies.first) < 2:
        return 0
    with progress.stage("putting near rows together", ordered_rows(*copies.vectors.shape)):
        search = PairSearch(copies.vectors, threshold, scratch=scratch.zeros, progress=progress)
    with progress.stage("comparing", search.size):
        for block, looked in search.blocks(tally.reduce):
            tally.add(block)
            progress.advance(looked, pairs=tally.pairs)
    return search.candidates


def _pair_tables(
    view: EmbeddingStore, copies: Copies, clusters: Clusters, listing: Listing, columns: list[str]
) -> Iterator[pa.Table]:
    for (a, b, scores), cluster in joined(listing.pairs(), BLOCK_PAIRS):
        involved = np.union1d(a, b)
        facts = _taken(view, copies.row_ids[involved], ["key", *PICTURE, *columns])
        first, second = (facts.take(pa.array(np.searchsorted(involved, side))) for side in (a, b))
        same = pc.and_(*(pc.equal(first.column(name), second.column(name)) for name in PICTURE))
        table: dict[str, Any] = {
            "key_a": first.column("key"),
            "key_b": second.column("key"),
            "score": pa.array(scores),
            "cluster": pa.array(cluster),
            "cluster_pairs": pa.array(clusters.pairs[cluster]),
            "same_bytes": pc.and_(same, pc.not_equal(first.column("content"), "")),
        }
        for name in columns:
            table[f"{name}_a"], table[f"{name}_b"] = first.column(name), second.column(name)
        yield pa.table(table)


def _member_tables(
    view: EmbeddingStore, copies: Copies, clusters: Clusters, listing: Listing, columns: list[str]
) -> Iterator[pa.Table]:
    given = False
    for rows, cluster in listing.members():
        given = True
        facts = _taken(view, copies.row_ids[rows], ["key", *columns])
        yield _member_table(facts, cluster, clusters)
    if not given:
        none = np.empty(0, np.int64)
        yield _member_table(_taken(view, none, ["key", *columns]), none, clusters)


def _member_table(facts: pa.Table, cluster: Int64, clusters: Clusters) -> pa.Table:
    facts = facts.add_column(1, "cluster", pa.array(cluster))
    return facts.add_column(2, "cluster_rows", pa.array(clusters.rows[cluster]))


def _taken(view: EmbeddingStore, row_ids: Int64, columns: list[str]) -> pa.Table:
    """These columns of the rows, in order."""
    kinds = {"key": pa.string(), **dict.fromkeys(PICTURE, pa.string()), **view.columns()}
    # Fields differ in nullability between tables; only names and types matter here.
    schema = pa.schema([pa.field(name, kinds[name]) for name in columns])
    parts = [
        view.take(row_ids[start : start + TAKE_ROWS], columns)[1].select(columns).cast(schema)
        for start in range(0, len(row_ids), TAKE_ROWS)
    ]
    return pa.concat_tables([*parts, schema.empty_table()])
