"""The protocol of engines, which process shards: with threads of this process, or on other processes and machines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from indexer.pipeline.in_flight import Before, Planned
from indexer.pipeline.tally import Tally
from indexer.types import EncoderSpec, ShardResult

Lookup = Callable[[Planned], Before]


class Engine(Protocol):
    """Yields results and never writes a table: one committer, which holds the table's lock, writes them."""

    spec: EncoderSpec  # of the encoder that it embeds with
    device: str  # that encoder's
    workers: int  # threads that decode and embed, of all processes
    readers: int  # threads that read shards, likewise
    parts_a_commit: int  # of `RunOptions.commit_rows` each
    tally: Tally
    stop: threading.Event  # set to end the run

    def results(self, plan: Sequence[Planned], lookup: Lookup) -> Iterator[ShardResult | None]:
        """Results of all of `plan`, shards in any order, the parts of one shard in its own.

        Yields None from time to time while no result is ready, so that the caller can commit by time. Ends early at
        `stop`.
        """
        ...

    def settled(self) -> list[ShardResult]:
        """The settled samples of the shards in progress, as parts: for a stop, or for a shard that takes long."""
        ...

    def counts(self) -> dict[str, int]:
        """What the progress shows beside shards and images."""
        ...

    @property
    def device_seconds(self) -> float | None:
        """For which the GPUs computed in this run; None where that is not known."""
        ...

    @property
    def decoder_difference(self) -> float | None:
        """Of a GPU's JPEG decoder to the workers' own, in grey levels; None where that is not known."""
        ...

    def close(self) -> None:
        """End all threads and processes of the engine. Raises the first error of any of them."""
        ...
