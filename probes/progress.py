"""A progress bar on stderr for stages over two seconds, and the seconds of each stage."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

QUIET_SECONDS = 2.0


class Stages:
    """Implements `indexer.types.Progress` for a terminal. Draws nothing where stderr is not a terminal."""

    def __init__(self, *, shown: bool | None = None) -> None:
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._part, self._name = "", ""
        self._done: int = 0
        self._total: int | None = None
        self._stage = 0  # number of the current stage; the timer of an ended stage draws nothing
        self._lock = threading.Lock()  # a timer starts the bar, the caller advances it
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self.seconds: dict[str, float] = {}

    def name(self, part: str) -> None:
        """Set the prefix of the following stages, e.g. a fold or a table."""
        self._part = f"{part}: "

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Stages]:
        """A stage of `total` steps; its seconds are added to `seconds[name]`."""
        self._name, self._done, self._total = self._part + name, 0, total
        start = time.monotonic()
        self._stage += 1
        timer = threading.Timer(QUIET_SECONDS, self._begin, (self._stage,))
        timer.daemon = True
        if self._shown:
            timer.start()
        try:
            yield self
        finally:
            timer.cancel()
            taken = time.monotonic() - start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + taken, 3)
            self._end()

    def advance(self, n: int = 1) -> None:
        """Add `n` completed steps."""
        with self._lock:
            self._done += n
            self._draw()

    def _begin(self, stage: int) -> None:
        from rich.console import Console
        from rich.progress import Progress as RichBar

        with self._lock:
            if stage != self._stage:
                return
            self._bar = RichBar(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._name, total=None)
            self._bar.start()
            self._draw()

    def _draw(self) -> None:
        if self._bar is not None and self._task is not None:
            done = self._done if self._total is None else min(self._done, self._total)
            self._bar.update(self._task, description=self._name, completed=done, total=self._total)

    def _end(self) -> None:
        with self._lock:
            self._stage += 1
            if self._bar is not None:
                self._bar.stop()
                self._bar, self._task = None, None
