"""A plan that grows while a run works through it: shards come one after the other, from another process."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Sequence

from indexer.pipeline.in_flight import Planned
from indexer.types import Shard


class Feed:
    """The shards that an engine is still to begin. One thread puts, one takes."""

    def __init__(self) -> None:
        self.coming: deque[Shard] = deque()  # not begun yet, in order: what may be read ahead
        self._queue: queue.SimpleQueue[Planned | None] = queue.SimpleQueue()

    def put(self, planned: Planned) -> None:
        self.coming.append(planned.shard)
        self._queue.put(planned)

    def end(self) -> None:
        """No shard comes after those put before."""
        self._queue.put(None)

    def take(self, seconds: float) -> Planned | None:
        """The next shard; None at the end. Raises queue.Empty where there is none within that time."""
        return self._queue.get(timeout=seconds) if seconds else self._queue.get_nowait()


def whole(plan: Sequence[Planned]) -> Feed:
    """All of a plan that is known."""
    feed = Feed()
    for planned in plan:
        feed.put(planned)
    feed.end()
    return feed
