"""Progress that tests look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stage:
    """A stage as it was reported."""

    name: str
    total: int | None
    steps: list[int] = field(default_factory=list)
    counts: list[dict[str, int]] = field(default_factory=list)  # as they stood at each step
    ended: bool = False

    @property
    def done(self) -> int:
        return sum(self.steps)


class Recorder:
    """Implements `indexer.types.Progress`. `watch` is called at every report, with the counts as they stand."""

    def __init__(self, watch: Callable[[dict[str, int]], object] = lambda _counts: None) -> None:
        self.stages: list[Stage] = []
        self.notes: list[str] = []
        self._watch = watch

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[None]:
        stage = Stage(name, total)
        self.stages.append(stage)
        try:
            yield
        finally:
            stage.ended = True

    def advance(self, n: int = 1, **counts: int) -> None:
        stage = self.stages[-1]
        assert not stage.ended
        stage.steps.append(n)
        stage.counts.append(counts)
        self._watch(counts)

    def note(self, text: str) -> None:
        self.notes.append(text)
