"""What passes between the threads of a run: samples on their way, and the shard that gathers them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from indexer.types import (
    EmbeddingBatch,
    EmbeddingRow,
    EncoderSpec,
    Failure,
    Float16,
    Float32,
    Sample,
    Shard,
    ShardResult,
    UInt8,
)

Known = Mapping[str, Sequence[tuple[int, Float16, float]]]  # content hash → (frame, unit vector, norm) of stored rows

POLL_SECONDS = 0.1  # how soon a waiting thread notices that the run is to stop

ReadShard = Callable[[Shard], Iterator[Sample | Failure]]


class Decoder(Protocol):
    """Decodes many images at once, elsewhere than in the worker."""

    difference: float | None  # from the worker's own way on a sample; None until it is known

    def squares(self, images: Sequence[bytes]) -> list[UInt8 | None]:
        """(size, size, 3) of each image, None for those left to the worker. Thread-safe."""
        ...


class Encoder(Protocol):
    """What the pipeline needs of an encoder; `indexer.encoders.load` gives one."""

    @property
    def spec(self) -> EncoderSpec: ...

    @property
    def batch_size(self) -> int: ...

    @property
    def device(self) -> str: ...

    @property
    def workers(self) -> int:
        """Threads that may call `embed` at once with profit."""
        ...

    def embed(self, pictures: UInt8) -> Float32:
        """(n, size, size, 3) uint8 RGB → (n, dim) raw vectors. Thread-safe."""
        ...


@dataclass
class Job:
    """One shard in hand. `pending` counts the samples given out and not yet resolved."""

    shard: Shard
    replaces: bool
    known: Known
    rows: list[tuple[int, EmbeddingRow, Float16, float]] = field(default_factory=list)
    failures: list[tuple[int, Failure]] = field(default_factory=list)
    samples: int = 0
    pending: int = 0
    reused: int = 0
    read: bool = False
    partial: bool = False

    @property
    def resolved(self) -> bool:
        """Read to its end, and nothing of it on its way."""
        return self.read and not self.pending

    def result(self) -> ShardResult:
        """What is stored, in the shard's own order, whichever worker was faster."""
        self.rows.sort(key=lambda row: (row[0], row[1].place.frame))
        rows = tuple(row for _, row, _, _ in self.rows)
        batches: tuple[EmbeddingBatch, ...] = ()
        if rows:
            vectors = np.stack([vector for _, _, vector, _ in self.rows])
            batches = (EmbeddingBatch(rows, vectors, np.array([norm for *_, norm in self.rows], np.float32)),)
        failures = tuple(f for _, f in sorted(self.failures, key=lambda item: item[0]))
        return ShardResult(self.shard, batches, failures, self.samples, self.partial, self.replaces, self.reused)


@dataclass(frozen=True)
class Task:
    """One sample on its way, with its place in the shard's order."""

    job: Job
    order: int
    sample: Sample


class StopRun(Exception):
    """Raised inside the run's own threads when they are to end."""
