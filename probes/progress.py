"""Progress on a terminal that also records the seconds of each stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from indexer.malloc import release_freed_memory
from indexer.progress.terminal import Terminal


class Stages(Terminal):
    """Implements `indexer.types.Progress`; `seconds` is stored in the result."""

    def __init__(self, *, shown: bool | None = None) -> None:
        super().__init__(shown=shown)
        self._part = ""
        self.seconds: dict[str, float] = {}  # by stage, in order of first completion

    def name(self, part: str) -> None:
        """Set the prefix of the following stages, e.g. a fold or a table."""
        self._part = f"{part}: "

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[None]:
        """A stage of `total` steps; its seconds are added to `seconds[name]`."""
        start = time.monotonic()
        try:
            with super().stage(self._part + name, total):
                yield
        finally:
            taken = time.monotonic() - start
            release_freed_memory()  # else what each stage has freed adds up: the next one's arrays are of other sizes
            self.seconds[name] = round(self.seconds.get(name, 0.0) + taken, 3)
