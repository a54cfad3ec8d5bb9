"""A bar on stderr for stages over two seconds, and the seconds that each stage took."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import TaskID

QUIET_SECONDS = 2.0


class Progress:
    """Stages one after the other. Draws nothing where stderr is no terminal."""

    def __init__(self, *, shown: bool | None = None) -> None:
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._name, self._start = "", 0.0
        self._bar: Bar | None = None
        self._task: TaskID | None = None
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[Progress]:
        self._name, self._start = name, time.monotonic()
        try:
            yield self
        finally:
            taken = time.monotonic() - self._start
            self.seconds[name] = round(self.seconds.get(name, 0.0) + taken, 3)
            if self._bar is not None:
                self._bar.stop()
                self._bar = None

    def share(self, done: float) -> None:
        """The share of the stage that is done, 0 … 1."""
        self._update(self._name, done)

    def step(self, text: str) -> None:
        """What the stage is at, where its length is not known."""
        self._update(f"{self._name}: {text}", None)

    def _update(self, text: str, done: float | None) -> None:
        if not self._shown or time.monotonic() - self._start < QUIET_SECONDS:
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import Progress as RichBar

            self._bar = RichBar(console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(text, total=1.0 if done is not None else None)
            self._bar.start()
        if self._task is not None:
            self._bar.update(self._task, description=text, completed=done)
