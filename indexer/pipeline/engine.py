"""What works through shards: threads of this process, or other processes and machines."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from indexer.pipeline.in_flight import Known, Planned, Stored
from indexer.pipeline.tally import Tally
from indexer.types import ShardResult

Lookup = Callable[[Planned], tuple[Known, Stored]]  # vectors that a replaced shard keeps, samples that are stored


class Engine(Protocol):
    """Gives results; never writes a table. One committer, which holds the table's lock, writes them."""

    tally: Tally
    stop: threading.Event  # set by whoever wants the run to end

    def results(self, plan: Sequence[Planned], lookup: Lookup) -> Iterator[ShardResult | None]:
        """Results of all of `plan`, shards in any order, the parts of one shard in its own.

        None every now and then while there is none, so that the caller can look at the clock. Ends early at `stop`.
        """
        ...

    def settled(self) -> list[ShardResult]:
        """What is settled of the shards in progress, as parts: for a stop, or where a shard takes long."""
        ...

    def close(self) -> None:
        """End everything that was started. Raises the first error of its own threads or processes."""
        ...
