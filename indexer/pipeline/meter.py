"""Measures the completed part of a plan, in steps of a progress bar."""

from __future__ import annotations

from collections.abc import Sequence

from indexer.pipeline.in_flight import Planned
from indexer.pipeline.tally import Tally
from indexer.types import ShardResult


class Meter:
    """Counts bytes of the shards where all their sizes are known, else shards.

    A shard in progress counts with the bytes of its settled images, at most its size; a finished one with its whole
    size, which includes headers, metadata and padding.
    """

    def __init__(self, plan: Sequence[Planned], tally: Tally) -> None:
        self._tally = tally
        sizes = {planned.shard.name: planned.shard.nbytes for planned in plan}
        known = {name: size for name, size in sizes.items() if size is not None}
        self._in_bytes = len(known) == len(sizes)
        self._left = known if self._in_bytes else dict.fromkeys(sizes, 1)  # steps of the unfinished shards
        # a single shard of unknown size: the number of steps is unknown
        self.total = sum(self._left.values()) if self._in_bytes or len(plan) > 1 else None
        self._ended = self._reported = 0  # steps

    def add(self, result: ShardResult) -> None:
        """Count the shard of a result as finished if the result is its last."""
        if not result.more:
            self._tally.end(result.shard.name)
            self._ended += self._left.pop(result.shard.name, 0)

    def steps(self) -> int:
        """Steps since the last call."""
        reached = self._ended
        if self._in_bytes:
            settled = self._tally.settled_bytes().items()
            reached += sum(min(nbytes, self._left.get(shard, 0)) for shard, nbytes in settled)
        steps, self._reported = reached - self._reported, reached
        return steps
