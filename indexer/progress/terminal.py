"""Progress on a terminal: a bar with counts and the remaining time."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from indexer.jsonable import printable

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

QUIET_SECONDS = 2.0  # a shorter stage shows no bar
RATED = "images"  # the count also shown as a rate


class Terminal:
    """Implements `indexer.types.Progress` on stderr: a bar for each long stage where it is a terminal, and the notes.

    Thread-safe. Stages do not nest: an inner one replaces the bar of the outer one.
    """

    def __init__(self, *, shown: bool | None = None) -> None:
        """`shown`: whether bars are drawn; None: only where stderr is a terminal."""
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._name = ""
        self._total: int | None = None
        self._done = 0
        self._counts: dict[str, int] = {}
        self._since = 0.0  # time.monotonic() at the start of the stage
        self._stage = 0  # number of the current stage; the timer of an ended stage draws nothing
        self._lock = threading.Lock()  # a timer starts the bar, the caller's threads advance it
        self._bar: Bar | None = None

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[None]:
        """A stage of `total` steps (None: unknown)."""
        with self._lock:
            self._stage += 1
            self._name, self._total, self._done, self._counts = name, total, 0, {}
            self._since = time.monotonic()
            self._stop()
        timer = threading.Timer(QUIET_SECONDS, self._begin, (self._stage,))
        timer.daemon = True
        if self._shown:
            timer.start()
        try:
            yield
        finally:
            timer.cancel()
            with self._lock:
                self._stage += 1
                self._stop()

    def advance(self, n: int = 1, **counts: int) -> None:
        """Add `n` completed steps; `counts` are shown beside the bar, each until it is updated."""
        with self._lock:
            self._done += n
            self._counts.update(counts)
            self._draw()

    def note(self, text: str) -> None:
        """Print a line above the bar, also where stderr is not a terminal."""
        text = printable(text)
        with self._lock:
            if self._bar is None:
                sys.stderr.write(f"{text}\n")
                sys.stderr.flush()
            else:
                self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def words(self, seconds: float) -> str:
        """The counts `seconds` after the start of the stage, e.g. "1,200 images  3 failed  80.0 images/s"."""
        shown = [f"{count:,} {name}" for name, count in self._counts.items()]
        if RATED in self._counts:
            shown.append(f"{self._counts[RATED] / max(seconds, 1e-9):,.1f} {RATED}/s")
        return "  ".join(shown)

    def _begin(self, stage: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichBar

        with self._lock:
            if stage != self._stage:
                return
            columns = [
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[counts]}", markup=False),
                TimeElapsedColumn(),
            ]
            if self._total is not None:
                columns += [TextColumn("left"), TimeRemainingColumn()]
            self._bar = RichBar(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task(self._name, total=None, counts="")
            self._bar.tasks[0].start_time = self._since
            self._draw()
            self._bar.start()

    def _draw(self) -> None:
        if self._bar is not None:
            done = self._done if self._total is None else min(self._done, self._total)
            words = self.words(time.monotonic() - self._since)
            self._bar.update(self._bar.task_ids[0], completed=done, total=self._total, counts=words)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
