"""Rows on their way into a table, and out of a search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from indexer.types.arrays import Float16, Float32
from indexer.types.samples import Fact, Failure, Place, Shard


@dataclass(frozen=True)
class EmbeddingRow:
    """A row for one part of an image, passed from the pipeline to the store; its vector is in the batch."""

    key: str  # of `part_key`
    place: Place
    content: str  # sha256 of the image's bytes
    metadata: dict[str, Any]
    facts: Mapping[str, Fact] = field(default_factory=dict)  # Part.facts


@dataclass(frozen=True)
class EmbeddingBatch:
    """Rows and their vectors, in the same order. The encoder's raw vector is `vectors[i] * norms[i]`."""

    rows: tuple[EmbeddingRow, ...]
    vectors: Float16  # (n, dim) unit rows, finite
    norms: Float32  # (n,) > 0


@dataclass(frozen=True)
class ShardResult:
    """The result of a shard, or of a part of one, which the store writes in one commit.

    A large shard has several parts, in order; all but the last have `more`.
    """

    shard: Shard
    batches: tuple[EmbeddingBatch, ...]
    failures: tuple[Failure, ...]
    samples: int  # whole samples read from the shard so far, including skipped ones of a resumed shard
    partial: bool = False  # truncated or damaged: its whole samples are stored, and it is not "done"
    replaces: bool = False  # delete the rows of the shard's former content first; read from the first part only
    reused: int = 0  # rows whose vector was kept from the former content
    more: bool = False  # further parts of this shard follow
    adopted: int = 0  # samples so far that the table has under another shard, with the same bytes


@dataclass(frozen=True)
class PartMatch:
    """A row of a group, and the part of a query that is nearest to it."""

    query: str  # name of the query's part
    key: str
    score: float  # cosine
    row_id: int


@dataclass(frozen=True)
class Hit:
    """One search result."""

    rank: int  # from 1
    key: str
    score: float  # cosine
    row_id: int
    columns: dict[str, Any]  # the requested scalar columns
    more: int | None = None  # with `one_per` and `by`: other rows of the same value that the search's options allow
    group: str | None = None  # with `by`: the value; `key` is then the row that matches best, `score` the group's
    parts: tuple[PartMatch, ...] = ()  # with `by`: the rows that match best
