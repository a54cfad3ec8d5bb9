"""How much may be embedded in a minute."""

from __future__ import annotations

import threading
import time
from collections import deque

from indexer.errors import Busy

MINUTE = 60.0


class Rate:
    """At most so many events in any minute. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: deque[float] = deque()
        self._lock = threading.Lock()

    def take(self) -> None:
        """Raises Busy."""
        now = time.monotonic()
        with self._lock:
            while self._times and now - self._times[0] > MINUTE:
                self._times.popleft()
            if len(self._times) >= self._most:
                raise Busy(f"more than {self._most} images or texts to embed in a minute. Try again later.")
            self._times.append(now)
